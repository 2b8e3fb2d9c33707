"""Libraries are imported when they are used, and a missing one is named with the way to install it."""

import subprocess
import sys

MODULES = {"pennylane": "pennylane", "openqasm3": "qasm", "qiskit": "qiskit"}


CODE = f"""
import importlib, sys
import hqfkernels, hqfkernels.interop
print(*sys.modules)
for library, module in {MODULES}.items():
    sys.modules[library] = None
    try:
        importlib.import_module("hqfkernels.interop." + module)
    except ModuleNotFoundError as error:
        print(error)
"""


def test_libraries_are_imported_when_they_are_used_and_missing_ones_named():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported, *errors = done.stdout.splitlines()
    assert "hqfkernels.interop" in imported.split()
    assert not set(MODULES) & set(imported.split())
    for line, module in zip(errors, MODULES.values(), strict=True):
        assert f'pip install "hqfkernels[{module}]"' in line
