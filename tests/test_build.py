"""The compiled library: how it was built, which CPU variant runs, and life without it."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from types import ModuleType

import pytest

import hqfkernels
from hqfkernels import backends


@pytest.fixture
def native() -> ModuleType:
    """The compiled library. Only its absence is a reason to skip: one that is there must load."""
    if importlib.util.find_spec("hqfkernels._C") is None or os.environ.get("HQF_DISABLE_NATIVE"):
        pytest.skip("hqfkernels is installed without its compiled library")
    module, reason = backends.load_native()
    assert module is not None, reason
    return module


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_build_info_describes_the_build(native):
    info = native.build_info()
    assert set(info) == {
        "version",
        "torch",
        "torch_target",
        "compiler",
        "cxx_standard",
        "cpu_variants",
        "cuda",
        "build_type",
    }
    assert info["torch_target"] == "2.10"
    assert info["cxx_standard"] == 20
    assert info["cpu_variants"][0] == "baseline"
    assert info["cuda"] in (True, False)


def test_the_library_is_of_the_installed_version(native):
    assert native.build_info()["version"] == hqfkernels.__version__


def test_native_status_names_the_variant(native):
    available, text = backends.native_status()
    assert available
    assert native.cpu_capability() in text
    assert native.cpu_capability() in native.build_info()["cpu_variants"]


def test_cpu_capability_can_be_lowered(native):
    done = run_python(
        "from hqfkernels import backends; print(backends.native_status())",
        HQF_CPU_CAPABILITY="baseline",
    )
    assert done.stdout.strip() == "(True, 'compiled library, CPU kernels for baseline')", done.stderr


def test_unknown_cpu_capability_is_refused(native):
    done = run_python("import hqfkernels", HQF_CPU_CAPABILITY="sse9")
    assert done.returncode != 0
    assert "ValueError: HQF_CPU_CAPABILITY is 'sse9'" in done.stderr
    assert "baseline" in done.stderr


def test_without_the_library_everything_works_and_says_so_once():
    done = run_python(
        "import torch, hqfkernels as hqf\n"
        "from hqfkernels import backends\n"
        "assert backends.native_status() == (False, 'HQF_DISABLE_NATIVE is set')\n"
        "circuit = hqf.Circuit(2)\n"
        "circuit.ry(hqf.Input(0), 0)\n"
        "circuit.cx(0, 1)\n"
        "circuit.ry(hqf.Weight(0), 1)\n"
        "inputs = torch.tensor([[0.3], [0.5]], dtype=torch.float64, requires_grad=True)\n"
        "weights = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)\n"
        "values = hqf.expval(circuit, inputs, weights)\n"
        "torch.testing.assert_close(values[:, 0], torch.cos(inputs[:, 0]))\n"
        "torch.testing.assert_close(values[:, 1], torch.cos(inputs[:, 0]) * torch.cos(weights))\n"
        "values.sum().backward()\n"
        "torch.testing.assert_close(weights.grad, -(torch.cos(inputs).sum() * torch.sin(weights)).detach())\n",
        HQF_DISABLE_NATIVE="1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("reference implementation") == 1
    assert "HQF_DISABLE_NATIVE" in done.stderr


def test_import_is_light():
    """Next to what `import torch` brings, `import hqfkernels` imports itself and nothing large."""
    done = run_python(
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import hqfkernels\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))\n"
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('torch.')))\n"
    )
    packages, parts_of_torch = done.stdout.splitlines()
    # numpy comes with torch; its annotations do not.
    assert set(packages.split()) - set(sys.stdlib_module_names) <= {"hqfkernels", "numpy"}, done.stdout + done.stderr
    assert parts_of_torch == "", parts_of_torch


def test_libraries_keep_to_the_limited_api(native):
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert str(native.__file__).endswith(".abi3.so")
