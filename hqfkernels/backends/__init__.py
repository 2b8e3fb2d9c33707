"""Backends: the machine code behind the operators. Here, libraries are loaded, and above all the native one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
import struct
from pathlib import Path
from types import ModuleType

import torch

_logger = logging.getLogger("hqfkernels")


def _is_cut_short(library: Path) -> bool:
    """Whether an ELF file ends before its table of sections, which comes last. Loading it could kill the process."""
    with library.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
        return False  # what is wrong with others, the system's loader tells
    (sections,) = struct.unpack_from("<Q", header, 40)
    size, count = struct.unpack_from("<HH", header, 58)
    return library.stat().st_size < sections + size * count


def _explain_absence(name: str) -> str:
    """What to say of a module that was not found: perhaps it is there, but for another Python."""
    package, _, stem = name.rpartition(".")
    folders = getattr(importlib.import_module(package), "__path__", ())
    others = sorted(path.name for folder in folders for path in Path(folder).glob(f"{stem}.*.*"))
    return f"No module named {name!r}" + (f" for this Python; there is {', '.join(others)}" if others else "")


def load(name: str) -> tuple[ModuleType | None, str]:
    """Imports ``name``, a module of a package that a backend stands on; whatever goes wrong is a reason to do without.

    Returns:
        The module and an empty text, or None and the reason in one line.
    """
    try:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None, _explain_absence(name)
        if spec.origin and _is_cut_short(Path(spec.origin)):
            return None, f"{Path(spec.origin).name} is cut short"
        return importlib.import_module(name), ""
    except ImportError as error:
        return None, " ".join(str(error).split())
    except Exception as error:  # packages break in their own ways
        return None, " ".join(f"{type(error).__name__}: {error}".split())


def check_version(library: ModuleType) -> None:
    """Raises ImportError if a compiled library is of another version: its operators, registered by now, may differ."""
    from hqfkernels import __version__

    found = library.build_info()["version"]
    if found != __version__:
        raise ImportError(
            f"the compiled library is of hqfkernels {found}, the package is {__version__}: build it again by "
            "pip install --no-build-isolation . or do without it by HQF_DISABLE_NATIVE=1"
        )


@functools.cache
def load_native() -> tuple[ModuleType | None, str]:
    """Loads `hqfkernels._C`, whose import registers the compiled operators with torch.

    Must be called after `hqfkernels.ops` has declared the schemas, which `import hqfkernels` does. The first call does
    the work; if the library cannot be used, it logs one warning that says why, and the operators keep their reference
    implementations. The environment variable `HQF_DISABLE_NATIVE=1` asks for just that.

    Returns:
        The module (None if it cannot be used) and the reason: what runs, or why nothing does.

    Raises:
        ImportError: the library is of another version of hqfkernels.
        ValueError: `HQF_CPU_CAPABILITY` names a variant that this CPU or this build does not have.
    """
    native = None
    if os.environ.get("HQF_DISABLE_NATIVE", "0") not in ("", "0"):
        reason = "HQF_DISABLE_NATIVE is set"
    else:
        native, problem = load("hqfkernels._C")
        if native is None:
            reason = (
                f"the compiled library cannot be loaded ({problem}; torch {torch.__version__}, needs 2.10 or later). "
                "With a C++20 compiler, build it by: pip install --no-build-isolation ."
            )
        else:
            check_version(native)
            reason = f"compiled library, CPU kernels for {native.cpu_capability()}"
    if native is None:
        _logger.warning("hqfkernels runs on its slow reference implementation: %s", reason)
    return native, reason


def native_status() -> tuple[bool, str]:
    """Tells whether the compiled library is in use, and the reason (see `load_native`)."""
    native, reason = load_native()
    return native is not None, reason
