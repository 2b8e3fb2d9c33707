"""The compiled library: how it was built, which CPU variant runs, and life without it."""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hqfkernels
from hqfkernels import backends

ROOT = Path(__file__).resolve().parents[1]


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


# --- libraries that cannot be loaded ----------------------------------------------------------------------------------

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Path]:
    """An importable package without a library."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "somewhere"]:
        del sys.modules[name]


def refusal() -> str:
    """Why somewhere._C cannot be loaded."""
    module, reason = backends.load("somewhere._C")
    assert module is None
    assert "\n" not in reason
    return reason


def library() -> bytes:
    """The compiled library of hqfkernels, as a file."""
    spec = importlib.util.find_spec("hqfkernels._C")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


def test_a_missing_library(package):
    assert refusal() == "No module named 'somewhere._C'"


def test_a_library_for_another_python(native, package):
    (package / "_C.cpython-399-x86_64-linux-gnu.so").write_bytes(library())
    assert refusal() == ("No module named 'somewhere._C' for this Python; there is _C.cpython-399-x86_64-linux-gnu.so")


@pytest.mark.skipif(sys.platform != "linux", reason="about ELF files")
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.999])
def test_a_library_that_was_cut_short(native, package, share):
    """The loader of the system kills the process (SIGBUS) over most of these."""
    whole = library()
    (package / f"_C{SUFFIX}").write_bytes(whole[: int(share * len(whole))])
    assert refusal() == f"_C{SUFFIX} is cut short"


def test_an_empty_library(package):
    (package / f"_C{SUFFIX}").touch()
    assert f"_C{SUFFIX}" in refusal()


@pytest.mark.skipif(sys.platform != "linux", reason="about ELF files")
def test_a_library_for_another_machine(native, package):
    foreign = bytearray(library())
    foreign[18:20] = (0x5A5A).to_bytes(2, "little")  # of no machine
    (package / f"_C{SUFFIX}").write_bytes(foreign)
    assert f"_C{SUFFIX}" in refusal()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_library_for_a_newer_torch(package, tmp_path):
    """It asks for a function that is not there."""
    source = tmp_path / "newer.c"
    missing = "torch_function_of_the_future"
    source.write_text(f"void {missing}(void);\nvoid PyInit__C(void) {{ {missing}(); }}")
    flags = ["-shared", "-fPIC", *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-Wl,-z,now"])]
    subprocess.run(["cc", *flags, source, "-o", package / f"_C{SUFFIX}"], check=True)
    assert missing in refusal()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_package_that_is_missing", "No module named 'a_package_that_is_missing'"),
        ("raise RuntimeError('0 active drivers ([]).\\nThere should only be one.')", "RuntimeError: 0 active drivers"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise AttributeError", "AttributeError"),
        ("def broken(:", "SyntaxError: "),
    ],
)
def test_a_module_whose_import_raises(package, code, reason):
    """Backends in Python stand on packages that break in their own ways."""
    (package / "_C.py").write_text(code)
    assert refusal().startswith(reason)


def test_ctrl_c_is_no_reason(package):
    (package / "_C.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        backends.load("somewhere._C")


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A folder with a copy of hqfkernels that has no compiled library."""
    folder = tmp_path_factory.mktemp("copied")
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(Path(hqfkernels.__file__).parent, folder / "hqfkernels", ignore=ignored)
    return folder


def run_copied(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` with the copy; -S keeps out what an editable installation adds to the import system."""
    site = [path for path in sys.path if path.endswith("-packages")]
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *site])},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_damaged_installation_works_and_says_so_once(native, copied):
    (copied / "hqfkernels" / f"_C{SUFFIX}").write_bytes(library()[:100_000])
    done = run_copied(
        copied,
        "import torch, hqfkernels as hqf\n"
        "circuit = hqf.Circuit(1).ry(hqf.Input(0), 0)\n"
        "inputs = torch.tensor([[0.3]])\n"
        "torch.testing.assert_close(hqf.expval(circuit, inputs), inputs.cos())\n"
        "hqf.expval(circuit, inputs, backend='cpu')\n",
    )
    told, *_, last = done.stderr.strip().splitlines()
    reason = f"the compiled library cannot be loaded (_C{SUFFIX} is cut short; torch "
    assert told.startswith(f"hqfkernels runs on its slow reference implementation: {reason}"), done.stderr
    assert done.stderr.count("slow reference implementation") == 1
    assert last.startswith(f"RuntimeError: backend 'cpu' refuses: {reason}")


def test_a_library_of_another_version_is_refused(native, copied):
    """Its operators are registered once it is loaded, so there is no way back to the reference."""
    (copied / "hqfkernels" / f"_C{SUFFIX}").write_bytes(library())
    package = copied / "hqfkernels" / "__init__.py"
    package.write_text(package.read_text().replace(f'__version__ = "{hqfkernels.__version__}"', '__version__ = "99.0"'))
    done = run_copied(copied, "import hqfkernels")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: the compiled library is of hqfkernels {hqfkernels.__version__}, the package is 99.0: build it "
        "again by pip install --no-build-isolation . or do without it by HQF_DISABLE_NATIVE=1"
    )


# --- what an installation lacks ---------------------------------------------------------------------------------------


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Builds the libraries in a folder of their own."""
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", folder, "--build-temp", folder],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="needs the sources")
@pytest.mark.skipif(int(version("setuptools").split(".")[0]) < 77, reason="this setuptools cannot build the project")
def test_without_a_compiler_the_build_warns(tmp_path):
    done = build(tmp_path, CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler was found (looked for no-such-compiler)" in done.stderr
    assert not list(tmp_path.rglob(f"*{SUFFIX}"))


@pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="needs the sources")
def test_without_nvcc(tmp_path):
    """No CUDA library, or an error if it was asked for by name."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    if shutil.which("cmake", path=path) is None or shutil.which("ninja", path=path) is None:
        pytest.skip("no cmake or no ninja")
    settings = {
        "HQF_TORCH_CUDA": "13.0",
        "HQF_TORCH_DIR": Path(torch.__file__).parent,
        "Python_EXECUTABLE": sys.executable,
    }
    command = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        tmp_path,
        "-G",
        "Ninja",
        *(f"-D{key}={value}" for key, value in settings.items()),
    ]
    told = {}
    for wanted in ("auto", "1"):
        done = subprocess.run(
            [*command, f"-DHQF_CUDA={wanted}"],
            env={**os.environ, "PATH": path, "CUDACXX": "no-such-nvcc"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told[wanted] = done.returncode, " ".join((done.stdout + done.stderr).split())
    assert told["auto"][0] == 0
    assert "CUDA library: not built, no nvcc was found" in told["auto"][1]
    assert told["1"][0] != 0
    assert "HQF_CUDA=1 asks for the CUDA library, but no nvcc was found" in told["1"][1]
