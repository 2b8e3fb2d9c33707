"""PennyLane's own test suite for devices passes on hqf.qubit; every test that it skips is accounted for here.

All of it runs exactly; with finite shots, what is about measuring. All of it with shots, by itself:
``pl-device-test --device=hqf.qubit --shots=20000``.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
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


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "part", "at_least"), [("None", ".", 350), ("20000", "test_measurements.py", 40)])
def test_suite(shots, part, at_least, plugin_path, tmp_path):
    import pennylane

    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", str(Path(pennylane.__file__).parent / "devices" / "tests" / part)]
    command += ["--device=hqf.qubit", f"--shots={shots}", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    path = os.pathsep.join([str(ROOT), str(plugin_path), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    skipped = [f"{element.get('message')} {element.text}" for element in suite.iter("skipped")]
    assert int(suite.get("tests", 0)) - len(skipped) > at_least
    unexplained = [reason for reason in skipped if not any(re.search(pattern, reason) for pattern in LEFT_OUT)]
    assert not unexplained
