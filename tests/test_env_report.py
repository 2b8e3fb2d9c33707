"""The report for bug reports: what it tells, and that nothing keeps it from being printed."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import torch

import hqfkernels
from hqfkernels import env_report


def test_it_tells_versions_variables_and_the_state_of_the_backends(monkeypatch):
    monkeypatch.setenv("HQF_CPU_CAPABILITY", "baseline")
    lines = env_report.report().splitlines()
    facts = {name: text.strip() for name, text in (line.split(":", 1) for line in lines)}
    assert facts["torch"].startswith(f"torch {torch.__version__.split('+')[0]}")
    assert facts["torch's threads"] == str(torch.get_num_threads())
    assert facts["environment"].startswith("HQF_CPU_CAPABILITY=baseline")
    assert facts["backend cpu"].startswith("available" if hqfkernels.backends.native_status()[0] else "not available")
    if not torch.cuda.is_available():
        assert facts["backend cuda"].startswith("not available: ")
    assert set(env_report.PACKAGES) <= facts.keys()


def test_a_fact_that_cannot_be_found_out_is_a_line(monkeypatch):
    def broken(name: str) -> None:
        raise OSError(f"{name}:\n  invalid ELF header")

    healthy = env_report.report().splitlines()
    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [][0])
    monkeypatch.setattr(subprocess, "run", broken)
    lines = env_report.report().splitlines()
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in healthy]
    assert "backend cpu:         OSError: hqfkernels.backends: invalid ELF header" in lines
    assert "torch:               IndexError: list index out of range" in lines


def test_it_is_printed_where_the_package_cannot_be_imported(tmp_path: Path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch today')")
    path = os.pathsep.join([str(tmp_path), str(Path(hqfkernels.__file__).parents[1])])
    command = [sys.executable, "-m", "hqfkernels.env_report"]
    environment = {**os.environ, "PYTHONPATH": path, "HQF_CPU_CAPABILITY": "sse9"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    facts = {name: text.strip() for name, text in (line.split(":", 1) for line in done.stdout.splitlines())}
    assert facts["torch's threads"] == "ImportError: no torch today"
    assert "no torch today" in facts["backend cpu"]
    assert facts["environment"].startswith("HQF_CPU_CAPABILITY=sse9")
    command[1:] = ["-c", "import hqfkernels.env_report"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode
