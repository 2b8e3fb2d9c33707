"""The cuStateVec backend: finds and loads NVIDIA's library through cuQuantum Python, lazily, and calls it.

States, matrices and workspace are torch tensors, whose device pointers are plain integers: no other array library is
involved. Not yet run on a GPU; the tests run it on an emulation of the functions that it calls.
"""

from __future__ import annotations

import functools
import importlib
import os
import threading
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

MIN_QUBITS = 4
"""Blackwell wants every state of a batch to start at a multiple of 128 bytes, 16 complex64 amplitudes."""

_DATA_TYPES = {torch.complex64: 4, torch.complex128: 5}
"""cudaDataType: CUDA_C_32F, CUDA_C_64F (CUDA's library_types.h)."""


@functools.cache
def load() -> tuple[ModuleType | None, str]:
    """Loads ``cuquantum.bindings.custatevec`` and the library behind it.

    Returns:
        The module (None if it cannot be used) and the reason, as `hqfkernels.backends.load_native` has it.
    """
    if os.environ.get("HQF_DISABLE_NATIVE", "0") not in ("", "0"):
        return None, "HQF_DISABLE_NATIVE is set"
    if torch.version.cuda is None:
        return None, "the installed torch is built without CUDA"
    try:
        module = importlib.import_module("cuquantum.bindings.custatevec")
        version = module.get_version()  # the first call loads the library itself, which needs no GPU
    except (ImportError, OSError, RuntimeError) as error:
        major = torch.version.cuda.split(".")[0]
        how = "hqfkernels[custatevec]" if major == "13" else f"cuquantum-python-cu{major}>=25.9"
        return None, f"cuStateVec cannot be loaded ({' '.join(str(error).split())}). Install it by: pip install '{how}'"
    return module, f"cuStateVec {version // 10000}.{version // 100 % 100}.{version % 100}"


@functools.cache
def status(index: int | None = None) -> tuple[bool, str]:
    """Tells whether cuStateVec runs on device ``index`` (None: the current one), and the reason."""
    module, reason = load()
    if module is None:
        return False, reason
    if not torch.cuda.is_available():
        return False, "torch finds no CUDA device"
    try:
        with torch.cuda.device(index):
            module.destroy(module.create())
    except (RuntimeError, module.cuStateVecError) as error:
        return False, f"{reason} does not run on this device: {error}"
    return True, reason


def refusal(n_qubits: int, index: int | None = None) -> str | None:
    """Why cuStateVec cannot take circuits of ``n_qubits`` on device ``index``; None if it can."""
    if n_qubits < MIN_QUBITS:
        return f"it takes at least {MIN_QUBITS} qubits, the circuit has {n_qubits}"
    available, reason = status(index)
    return None if available else reason


def session(device: torch.device) -> Session:
    """The session for ``device`` and torch's current stream there.

    Raises:
        RuntimeError: if ``device`` is not a GPU, or cuStateVec cannot be used.
    """
    if device.type != "cuda":
        raise RuntimeError(f"cuStateVec computes on GPUs, the inputs are on {device.type}")
    module, reason = load()
    if module is None:
        raise RuntimeError(reason)
    return _session(device, torch.cuda.current_stream(device).cuda_stream)


@functools.cache
def _session(device: torch.device, stream: int) -> Session:
    module, reason = load()
    if module is None:
        raise RuntimeError(reason)
    return Session(module, device, stream)


class Session:
    """cuStateVec on a device and a stream, with memory of torch's caching allocator.

    There is one for each stream, kept for good: the library's own workspace must not be shared by two streams. Threads
    take turns. The device must be the current one.

    Args:
        library: ``cuquantum.bindings.custatevec`` or what does the same.
        device: where the states are.
        stream: address of the CUDA stream on which all work is queued.

    Attributes:
        device: as given.
    """

    def __init__(self, library: Any, device: torch.device, stream: int) -> None:
        self._library = library
        self.device = device
        self._lock = threading.Lock()
        self._sizes: dict[tuple[Any, ...], int] = {}  # of the workspace, for arguments of `apply`
        self._handle = library.create()
        library.set_stream(self._handle, stream)
        size = library.get_default_workspace_size(self._handle)
        self._workspace = torch.empty(size, dtype=torch.uint8, device=device)
        library.set_workspace(self._handle, self._workspace.data_ptr(), size)

    def free_memory(self) -> int:
        """Bytes that torch could still allocate: what the device has free, and what torch holds unused."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)

    def apply(
        self, states: Tensor, matrices: Tensor, qubits: tuple[int, ...], indices: Tensor | None, adjoint: bool = False
    ) -> None:
        """Multiplies states by matrices, in place.

        Args:
            states: (S, 2**n), complex64 or complex128, contiguous.
            matrices: (M, 2**k, 2**k), contiguous, dtype of the states; the first of the qubits is the high bit.
            qubits: the k qubits on which the matrices act.
            indices: (S,) int32, which matrix is for which state; None: M is 1 and all share it.
            adjoint: whether to multiply by the conjugate transposes instead.
        """
        library, kind = self._library, _DATA_TYPES[states.dtype]
        n_states, n_qubits = len(states), states.shape[1].bit_length() - 1
        assign = library.MatrixMapType.BROADCAST if indices is None else library.MatrixMapType.MATRIX_INDEXED
        chosen = 0 if indices is None else indices.data_ptr()
        # What both calls take, in their order.
        head = (kind, n_qubits, n_states, states.shape[1], int(assign), chosen)
        tail = (matrices.data_ptr(), kind, int(library.MatrixLayout.ROW), int(adjoint), len(matrices))
        compute = int(library.ComputeType.COMPUTE_DEFAULT)  # the precision of the states
        with self._lock:
            key = (*head[:-1], *tail[1:], len(qubits))  # all but pointers
            size = self._sizes.get(key)
            if size is None:
                size = self._sizes[key] = library.apply_matrix_batched_get_workspace_size(
                    self._handle, *head, *tail, len(qubits), 0, compute
                )
            workspace = torch.empty(size, dtype=torch.uint8, device=self.device)
            library.apply_matrix_batched(
                self._handle,
                states.data_ptr(),
                *head,
                *tail,
                _index_bits(qubits, n_qubits),
                len(qubits),
                0,  # no controls: pointers to their bits and values, and their number
                0,
                0,
                compute,
                workspace.data_ptr() if size else 0,
                size,
            )

    def probabilities(self, states: Tensor, qubits: tuple[int, ...]) -> Tensor:
        """Probabilities of the basis states of ``qubits``, (S, 2**k) in float64, the first qubit being the high bit."""
        n_states, n_qubits = len(states), states.shape[1].bit_length() - 1
        result = torch.empty(n_states, 2 ** len(qubits), dtype=torch.float64, device=self.device)
        with self._lock:
            self._library.abs2sum_array_batched(
                self._handle,
                states.data_ptr(),
                _DATA_TYPES[states.dtype],
                n_qubits,
                n_states,
                states.shape[1],
                result.data_ptr(),
                result.shape[1],
                _index_bits(qubits, n_qubits),
                len(qubits),
                0,  # no mask: pointers to its bit strings and bits, and its length
                0,
                0,
            )
        return result


def _index_bits(qubits: tuple[int, ...], n_qubits: int) -> list[int]:
    """Bits of a state's index, the low bit of a matrix or of an array of probabilities first, as cuStateVec counts."""
    return [n_qubits - 1 - q for q in reversed(qubits)]
