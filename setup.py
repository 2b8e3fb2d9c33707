"""Builds the compiled libraries with CMake; everything else about the project stands in pyproject.toml.

Environment: HQF_CUDA=auto|0|1 (CUDA library where possible, never, or fail without it), MAX_JOBS (parallel
compilations), CXX (the C++ compiler), HQF_SANITIZE (sanitizers to compile with, for `make sanitize`).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# One library serves every Python from this version on. Free-threaded interpreters have no limited API: they get a
# library of their own.
OLDEST_PYTHON = "cp311"
LIMITED_API = not sysconfig.get_config_var("Py_GIL_DISABLED")


def missing_tool() -> str | None:
    """Names what the machine lacks to compile a Python extension, None if nothing."""
    compilers = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(compiler) for compiler in compilers):
        return f"no C++ compiler was found (looked for {', '.join(compilers)})"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return f"Python's headers are not installed ({header})"
    return None


class CMakeBuild(build_ext):
    """Runs CMake, from the build environment, in place of setuptools' own compilation."""

    def build_extensions(self) -> None:
        missing = missing_tool()
        if missing:
            print(
                f"WARNING: hqfkernels is installed without its compiled library, because {missing}; "
                "it works, but much slower.",
                file=sys.stderr,
            )
            return
        try:
            import torch
        except ImportError as error:
            sys.exit(
                f"hqfkernels is compiled against the torch of its environment, but {error.name} cannot be imported. "
                "Install what the build needs, then build without isolation: "
                "pip install torch 'setuptools>=77' cmake ninja && pip install --no-build-isolation ."
            )
        sanitizers = os.environ.get("HQF_SANITIZE", "")
        names = ["sanitize", *sanitizers.split(",")] if sanitizers else ["cmake", sys.implementation.cache_tag]
        build = ROOT / "build" / "-".join(names)
        library = Path(self.get_ext_fullpath("hqfkernels._C")).resolve()
        # pip does not put the environment's own programs (cmake, ninja) on the path.
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
        cmake = shutil.which("cmake", path=path)
        if cmake is None:
            sys.exit("hqfkernels is compiled with cmake, which was not found: pip install cmake ninja")
        settings = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "HQF_CUDA": os.environ.get("HQF_CUDA", "auto"),
            "HQF_SANITIZE": sanitizers,
            "HQF_OUTPUT_DIR": library.parent,
            "HQF_SUFFIX": library.name.removeprefix("_C"),
            "HQF_TORCH_CUDA": torch.version.cuda or "",
            "HQF_TORCH_DIR": Path(torch.__file__).resolve().parent,
            "HQF_VERSION": self.distribution.get_version(),
            "Python_EXECUTABLE": sys.executable,
        }
        configure = [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        configure += [f"-D{key}={value}" for key, value in settings.items()]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        for command in (configure, [cmake, "--build", str(build), "--parallel", jobs]):
            if subprocess.run(command, env={**os.environ, "PATH": path}).returncode != 0:
                sys.exit("The compiled library of hqfkernels could not be built: see the messages above.")

    def copy_extensions_to_source(self) -> None:
        super().copy_extensions_to_source()
        # Python would rather import a library that an earlier build left under the name of one version of Python.
        for extension in self.extensions:
            library = Path(self.get_ext_fullpath(extension.name))
            for other in library.parent.glob(f"{library.name.split('.')[0]}.*.so"):
                if other.name != library.name:
                    other.unlink()


def library(name: str) -> Extension:
    # optional: without a compiler or CUDA toolkit it is missing, which is no error, because the reference
    # implementation takes over. No sources: CMake finds them, and MANIFEST.in lists them for the source distribution.
    return Extension(name, [], optional=True, py_limited_api=LIMITED_API)


setup(
    cmdclass={"build_ext": CMakeBuild},
    ext_modules=[library("hqfkernels._C"), library("hqfkernels._cuda")],
    options={"bdist_wheel": {"py_limited_api": OLDEST_PYTHON}} if LIMITED_API else {},
)
