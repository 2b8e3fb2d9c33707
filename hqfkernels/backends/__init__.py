"""Backends: the machine code behind the operators. Here, the native library is found and loaded."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from types import ModuleType

import torch

_logger = logging.getLogger("hqfkernels")


@functools.cache
def load_native() -> tuple[ModuleType | None, str]:
    """Loads `hqfkernels._C`, whose import registers the compiled operators with torch.

    Must be called after `hqfkernels.ops` has declared the schemas, which `import hqfkernels` does. The first call does
    the work; if the library cannot be used, it logs one warning that says why, and the operators keep their reference
    implementations. The environment variable `HQF_DISABLE_NATIVE=1` asks for just that.

    Returns:
        The module (None if it cannot be used) and the reason: what runs, or why nothing does.

    Raises:
        ValueError: `HQF_CPU_CAPABILITY` names a variant that this CPU or this build does not have.
    """
    native = None
    if os.environ.get("HQF_DISABLE_NATIVE", "0") not in ("", "0"):
        reason = "HQF_DISABLE_NATIVE is set"
    else:
        try:
            native = importlib.import_module("hqfkernels._C")
            reason = f"compiled library, CPU kernels for {native.cpu_capability()}"
        except ImportError as error:
            reason = (
                f"the compiled library cannot be loaded ({error}; torch {torch.__version__}, needs 2.10 or later). "
                "With a C++20 compiler, build it by: pip install --no-build-isolation ."
            )
    if native is None:
        _logger.warning("hqfkernels runs on its slow reference implementation: %s", reason)
    return native, reason


def native_status() -> tuple[bool, str]:
    """Tells whether the compiled library is in use, and the reason (see `load_native`)."""
    native, reason = load_native()
    return native is not None, reason
