"""Libraries are imported when they are used, and a missing one is named with the way to install it."""

import subprocess
import sys

MODULES = {"pennylane": "pennylane", "openqasm3": "qasm", "qiskit": "qiskit"}


def python(code):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_nothing_is_imported_before_it_is_used():
    out = python("import sys, hqfkernels, hqfkernels.interop\nprint(*sys.modules)")
    assert "hqfkernels.interop" in out.split()
    assert not set(MODULES) & set(out.split())


def test_a_missing_library_is_named():
    code = f"""
import importlib, sys
for library, module in {MODULES}.items():
    sys.modules[library] = None
    try:
        importlib.import_module("hqfkernels.interop." + module)
    except ModuleNotFoundError as error:
        print(error)
"""
    lines = python(code).splitlines()
    assert len(lines) == len(MODULES)
    for line, module in zip(lines, MODULES.values(), strict=True):
        assert f'pip install "hqfkernels[{module}]"' in line
