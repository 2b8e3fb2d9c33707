"""PennyLane's own test suite for devices passes on hqf.qubit; every test that it skips is accounted for here.

All of it runs exactly; with finite shots, what is about measuring. All of it with shots, by itself:
``pl-device-test --device=hqf.qubit --shots=20000``.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import STDOUT, Popen
from xml.etree import ElementTree

import pytest

pytest.importorskip("pennylane")
pytest.importorskip("pytest_mock")
pytest.importorskip("flaky")

ROOT = Path(__file__).parents[2]

LEFT_OUT = {
    # The suite's parts for other things than this device.
    "old interface": "of PennyLane's former device API, which is another class",
    "old device interface": "likewise",
    "qutrit": "three-level systems",
    "most devices do not support CV": "continuous variables",
    "QubitDensityMatrix|operation not supported on the device": "mixed states: the device computes pure states",
    "custom measurement transforms": "measurements that transform tapes, for devices of the former API",
    "device does not support diff_method": "backprop by name: hqf.qubit differentiates by its own products ('best')",
    "test only works with backprop": "the same test's cases for other methods, which its other tests cover",
    "test only works with parameter-shift": "likewise",
    # Each case is for one of the two modes, and both modes are run.
    "in analytic mode|Shots must be specified|If shots=None": "for finite shots",
    "[Nn]on-analytical|analytic-mode|should only be run in analytic|If shots!=None|update state": "for exact values",
    "could not import 'jax'": "jax is not installed here",
}
"""Pattern of a skip's reason -> why that is right."""


PARTS = {"None": (".", 350), "20000": ("test_measurements.py", 40)}
"""Shots -> the part of the suite that is run with them, and how many of its tests run at least."""


@pytest.fixture(scope="module")
def runs(plugin_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Popen, Path]]]:
    """The suite's processes, side by side, each with a folder for what it writes."""
    import pennylane

    suite = Path(pennylane.__file__).parent / "devices" / "tests"
    path = os.pathsep.join([str(ROOT), str(plugin_path), os.environ.get("PYTHONPATH", "")])
    started = {}
    for shots, (part, _) in PARTS.items():
        folder = tmp_path_factory.mktemp("suite")
        command = [sys.executable, "-m", "pytest", str(suite / part), "--device=hqf.qubit", f"--shots={shots}", "-q"]
        command += ["-p", "no:cacheprovider", "--junitxml=report.xml"]
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with (folder / "output").open("w") as output:
            process = Popen(command, env=environment, cwd=folder, stdout=output, stderr=STDOUT)
        started[shots] = process, folder
    yield started
    for process, _ in started.values():
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("shots", PARTS)
def test_suite(shots: str, runs: dict[str, tuple[Popen, Path]]) -> None:
    process, folder = runs[shots]
    assert process.wait() == 0, (folder / "output").read_text()[-5000:]
    suite = ElementTree.parse(folder / "report.xml").getroot().find("testsuite")
    assert suite is not None
    skipped = [f"{element.get('message')} {element.text}" for element in suite.iter("skipped")]
    assert int(suite.get("tests", 0)) - len(skipped) > PARTS[shots][1]
    unexplained = [reason for reason in skipped if not any(re.search(pattern, reason) for pattern in LEFT_OUT)]
    assert not unexplained
