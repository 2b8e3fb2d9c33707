"""The CUDA backend: finds, loads and describes `hqfkernels._cuda`, lazily, where torch has CUDA."""

from __future__ import annotations

import functools
import logging
import os
import re
from types import ModuleType

import torch

from hqfkernels.backends import check_version, load

_logger = logging.getLogger("hqfkernels")

MAX_QUBITS = 13
"""A block of threads holds no larger state ..."""
MAX_QUBITS_DOUBLE = 12
"""... and in float64 one qubit less."""


@functools.cache
def load_cuda() -> tuple[ModuleType | None, str]:
    """Loads `hqfkernels._cuda`, whose import registers the gate engine for CUDA tensors.

    Must be called after `hqfkernels.ops` has declared the schemas. Once loaded, the library takes every gate operator
    on CUDA tensors; callers ask `cuda_refusal` first.

    Returns:
        The module (None if it cannot be used) and the reason, as `hqfkernels.backends.load_native` has it.

    Raises:
        ImportError: the library is of another version of hqfkernels.
    """
    if os.environ.get("HQF_DISABLE_NATIVE", "0") not in ("", "0"):
        return None, "HQF_DISABLE_NATIVE is set"
    if torch.version.cuda is None:
        return None, "the installed torch is built without CUDA"
    module, problem = load("hqfkernels._cuda")
    if module is None:
        return None, (
            f"the CUDA library cannot be loaded ({problem}). With nvcc for CUDA {torch.version.cuda}, build it by: "
            "HQF_CUDA=1 pip install --no-build-isolation ."
        )
    check_version(module)
    info = module.build_info()
    return module, f"CUDA library for architectures {info['architectures']}, by CUDA {info['toolkit']}"


def covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``architectures`` (CMake's names, such as "80-real,90") runs on a device of ``capability``.

    Machine code runs on devices of its own major version and no lower minor one; PTX ("-virtual" or no suffix) is
    compiled by the driver for any newer device.
    """
    for name in architectures.split(","):
        known = re.fullmatch(r"(\d+)(\d)(-real|-virtual)?", name)
        if known is None:  # "native", "90a": made for the devices that its builder has in mind
            return True
        version = int(known[1]), int(known[2])
        if capability >= version and (known[3] != "-real" or capability[0] == version[0]):
            return True
    return False


@functools.cache
def cuda_status(index: int | None = None) -> tuple[bool, str]:
    """Tells whether the CUDA kernels can run on device ``index`` (None: the current one), and the reason.

    The first refusal on a machine with a GPU is logged as a warning, since the reference is much slower.
    """
    module, reason = load_cuda()
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device" if module is not None else reason
    if module is not None:
        capability = torch.cuda.get_device_capability(index)
        architectures = module.build_info()["architectures"]
        if covers(architectures, capability):
            return True, reason
        reason = (
            f"the CUDA library has code for architectures {architectures}, none of which runs on a device of compute "
            f"capability {capability[0]}.{capability[1]}: build it again with CUDAARCHS={capability[0]}{capability[1]}"
        )
    _logger.warning("hqfkernels runs on its slow reference implementation on GPUs: %s", reason)
    return False, reason


def cuda_refusal(n_qubits: int, dtype: torch.dtype, index: int | None = None) -> str | None:
    """Why the CUDA gate engine cannot take ``n_qubits`` and inputs of ``dtype`` on device ``index``; None if it can."""
    limit = MAX_QUBITS_DOUBLE if dtype == torch.float64 else MAX_QUBITS
    if n_qubits > limit:
        kind = " in float64" if dtype == torch.float64 else ""
        return f"it takes at most {limit} qubits{kind}, the circuit has {n_qubits}"
    available, reason = cuda_status(index)
    return None if available else reason
