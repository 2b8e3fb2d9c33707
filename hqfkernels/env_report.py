"""What a bug report needs to know of a machine: ``python -m hqfkernels.env_report`` prints it.

Every fact is asked for by itself, so that what is broken becomes a line and hides nothing else. Versions of packages
are looked up without importing them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("hqfkernels", "torch", "numpy", "triton", "cupy", "cuquantum", "custatevec", "pennylane", "qiskit", "timm")
"""What is shown with its version. A name also stands for the packages that begin with it, such as cupy-cuda13x."""

VARIABLES = ("HQF_", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TRITON_")
"""Beginnings of the names of the environment variables that are shown."""


def report() -> str:
    """The report, a line for each fact. It never raises: what cannot be found out is said to be so."""
    facts: list[tuple[str, Callable[[], object]]] = [
        ("system", platform.platform),
        ("Python", lambda: f"{platform.python_version()}, {platform.python_implementation()}"),
        ("CPU", lambda: f"{_cpu_model()}, {platform.machine()}, {os.cpu_count()} cores"),
        ("torch's threads", lambda: _module("torch").get_num_threads()),
        *((package, functools.partial(_versions, package)) for package in PACKAGES),
        ("CUDA of torch", lambda: _module("torch").version.cuda),
        ("CUDA toolkit", lambda: _output("nvcc", "--version").splitlines()[-1]),
        ("GPUs, driver", lambda: _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv")),
        ("backend cpu", lambda: _status(_module("hqfkernels.backends").native_status())),
        ("its library", lambda: _module("hqfkernels._C").build_info()),
        ("backend cuda", lambda: _status(_module("hqfkernels.backends.cuda").cuda_status())),
        ("its library", lambda: _module("hqfkernels._cuda").build_info()),
        ("backend custatevec", lambda: _status(_module("hqfkernels.backends.custatevec").status())),
        ("backend triton", lambda: _status(_module("hqfkernels.backends.triton").triton_status())),
        ("environment", _environment),
    ]
    return "\n".join(f"{name + ':':<20} {_answer(ask)}" for name, ask in facts)


def _answer(ask: Callable[[], object]) -> str:
    """What ``ask`` returns, or how it fails, on one line."""
    try:
        text = str(ask())
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
    return " ".join(text.split()) or "-"


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _status(status: tuple[bool, str]) -> str:
    available, reason = status
    return f"{'available' if available else 'not available'}: {reason}"


def _versions(package: str) -> str:
    """The versions of all installed packages that ``package`` stands for."""
    found = {
        f"{name} {distribution.version}"
        for distribution in importlib.metadata.distributions()
        if (name := (distribution.name or "").lower().replace("_", "-")) == package or name.startswith(f"{package}-")
    }
    return ", ".join(sorted(found)) or "not installed"


def _cpu_model() -> str:
    """The processor as Linux knows it, or whatever Python can tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _environment() -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES))


def _output(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return f"{program} not found"
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout or done.stderr).strip()


if __name__ == "__main__":
    print(report())
