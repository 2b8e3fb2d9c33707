"""The functions of ``cuquantum.bindings.custatevec`` that hqfkernels calls, on the CPU.

Written from NVIDIA's documentation (custatevec.h, "Bit Ordering", and the pages of the functions), with its names and C
types, and independent of how hqfkernels lays out states: one formula over indices of amplitudes for each function.
Where the library would read wild memory or is silent about a wrong argument, this raises `Invalid`.

A pointer is an address that `torch.Tensor.data_ptr` gave out (see `recorded`) and whose tensor is still alive: reading
or writing beyond its storage, a tensor of another dtype and a dangling address are errors.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import torch

RANGES = {
    "int": (-(2**31), 2**31 - 1),
    "int32_t": (-(2**31), 2**31 - 1),
    "int64_t": (-(2**63), 2**63 - 1),
    "uint32_t": (0, 2**32 - 1),
    "intptr_t": (-(2**63), 2**63 - 1),
    "size_t": (0, 2**64 - 1),
}


class Invalid(Exception):
    """An argument that the library does not take."""


class MatrixMapType(IntEnum):
    BROADCAST = 0
    MATRIX_INDEXED = 1


class MatrixLayout(IntEnum):
    COL = 0
    ROW = 1


class ComputeType(IntEnum):
    COMPUTE_DEFAULT = 0
    COMPUTE_32F = 4
    COMPUTE_64F = 16
    COMPUTE_TF32 = 4096


DTYPES = {4: torch.complex64, 5: torch.complex128}  # CUDA_C_32F, CUDA_C_64F
# (states, matrices, computation)
COMBINATIONS = {(5, 5, 0), (5, 5, 16), (4, 5, 0), (4, 5, 4), (4, 4, 0), (4, 4, 4)}


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Invalid(message)


# --- memory -----------------------------------------------------------------------------------------------------------

_given: dict[int, Callable[[], torch.Tensor | None]] = {}  # address -> weak reference


def recorded(tensor: torch.Tensor) -> int:
    """What takes the place of `torch.Tensor.data_ptr`."""
    address: int = torch._C.TensorBase.data_ptr(tensor)
    _given[address] = weakref.ref(tensor)
    return address


def memory(address: int, count: int, dtype: torch.dtype, what: str) -> torch.Tensor:
    """The ``count`` numbers at ``address``."""
    tensor = _given.get(address, lambda: None)()
    if tensor is None:
        raise Invalid(f"{what}: {address} is not the address of a living tensor")
    require(tensor.dtype == dtype, f"{what}: expected {dtype}, got {tensor.dtype}")
    require(tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg(), f"{what}: not plain memory")
    storage = tensor.untyped_storage()
    end = (tensor.storage_offset() + count) * dtype.itemsize
    require(bool(end <= storage.nbytes()), f"{what}: {count} numbers do not fit into the storage")
    return torch.empty(0, dtype=dtype).set_(storage, tensor.storage_offset(), (count,))  # type: ignore[call-overload]


# --- calls ------------------------------------------------------------------------------------------------------------

calls: list[str] = []
"""Names of the functions called, for tests to read and clear."""

c_types: dict[str, str] = {}
"""For each function its arguments as the binding's documentation writes them."""

_workspaces: dict[int, tuple[int, int]] = {}  # handle -> address, size
_streams: dict[int, int] = {}


def c_function(declaration: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Checks that integers are integers and fit their C types, as the binding does, and that the handle lives."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        arguments = [argument.strip().rpartition(" ") for argument in declaration.split(",") if argument.strip()]
        assert [name for _, _, name in arguments] == list(inspect.signature(function).parameters)
        c_types[function.__name__] = declaration

        @functools.wraps(function)
        def call(*given: Any) -> Any:
            require(len(given) == len(arguments), f"{function.__name__}: takes {len(arguments)} arguments")
            for value, (kind, _, name) in zip(given, arguments, strict=True):
                if kind:
                    require(type(value) is int, f"{name}: expected an int, got {value!r}")
                    require(RANGES[kind][0] <= value <= RANGES[kind][1], f"{name}: {value} is no {kind}")
                if name == "handle":
                    require(value in _workspaces, f"handle: {value} is not alive")
            calls.append(function.__name__)
            return function(*given)

        return call

    return wrap


def bits(given: Any, count: int, n_index_bits: int, what: str) -> list[int]:
    """A host array of index bits, low bit first."""
    require(isinstance(given, (list, tuple)) and all(type(bit) is int for bit in given), f"{what}: no list of ints")
    require(len(given) == count, f"{what}: {count} were announced, got {given}")
    require(all(0 <= bit < n_index_bits for bit in given), f"{what}: {given} not in 0..{n_index_bits - 1}")
    require(len(set(given)) == len(given), f"{what}: {given} repeat")
    return list(given)


def digits(index: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
    """The number whose bit k is bit ``positions[k]`` of ``index``."""
    number = torch.zeros_like(index)
    for k, bit in enumerate(positions):
        number |= ((index >> bit) & 1) << k
    return number


def batch(handle: int, address: int, kind: int, n_index_bits: int, n_svs: int, stride: int) -> torch.Tensor:
    """The states (n_svs, 2**n_index_bits), to read and write."""
    require(kind in DTYPES, f"sv_data_type: {kind}")
    require(1 <= n_index_bits <= 40 and n_svs >= 1, f"{n_svs} states of {n_index_bits} index bits")
    size = 2**n_index_bits
    require(stride >= size, f"sv_stride: {stride} is less than {size}")
    require(stride * DTYPES[kind].itemsize % 128 == 0, f"sv_stride: states of {stride} amplitudes are not aligned")
    require(handle in _streams, "no stream was set")
    scribble(handle)
    numbers = memory(address, (n_svs - 1) * stride + size, DTYPES[kind], "batched_sv")
    return numbers.as_strided((n_svs, size), (stride, 1), numbers.storage_offset())


def scribble(handle: int) -> None:
    """The library may write anything into its workspace."""
    address, size = _workspaces[handle]
    memory(address, size, torch.uint8, "workspace").fill_(255)


@c_function("")
def create() -> int:
    handle = 1000 + len(_workspaces)
    _workspaces[handle] = 0, 0
    return handle


@c_function("intptr_t handle")
def destroy(handle):
    del _workspaces[handle]


@c_function("")
def get_version() -> int:
    return 11000


@c_function("intptr_t handle")
def get_default_workspace_size(handle) -> int:
    return 1 << 12


@c_function("intptr_t handle, intptr_t workspace, size_t workspace_size_in_bytes")
def set_workspace(handle, workspace, workspace_size_in_bytes):
    require(workspace_size_in_bytes >= 1 << 12, "workspace_size_in_bytes: less than the default")
    memory(workspace, workspace_size_in_bytes, torch.uint8, "workspace")
    _workspaces[handle] = workspace, workspace_size_in_bytes


@c_function("intptr_t handle, intptr_t stream_id")
def set_stream(handle, stream_id):
    _streams[handle] = stream_id


def extra_workspace_size(n_svs: int, n_targets: int, adjoint: int) -> int:
    """Nothing for one target; depends on everything else that may differ between calls."""
    return 0 if n_targets == 1 else 16 * n_svs + 64 * adjoint


@c_function(
    "intptr_t handle, int sv_data_type, uint32_t n_index_bits, uint32_t n_svs, int64_t sv_stride, int map_type, "
    "matrix_indices, intptr_t matrices, int matrix_data_type, int layout, int32_t adjoint, uint32_t n_matrices, "
    "uint32_t n_targets, uint32_t n_controls, int compute_type"
)
def apply_matrix_batched_get_workspace_size(
    handle,
    sv_data_type,
    n_index_bits,
    n_svs,
    sv_stride,
    map_type,
    matrix_indices,
    matrices,
    matrix_data_type,
    layout,
    adjoint,
    n_matrices,
    n_targets,
    n_controls,
    compute_type,
) -> int:
    require((sv_data_type, matrix_data_type, compute_type) in COMBINATIONS, "data and compute types do not go together")
    memory(matrices, n_matrices * 4**n_targets, DTYPES[matrix_data_type], "matrices")
    return extra_workspace_size(n_svs, n_targets, adjoint)


@c_function(
    "intptr_t handle, intptr_t batched_sv, int sv_data_type, uint32_t n_index_bits, uint32_t n_svs, int64_t sv_stride, "
    "int map_type, matrix_indices, intptr_t matrices, int matrix_data_type, int layout, int32_t adjoint, "
    "uint32_t n_matrices, targets, uint32_t n_targets, controls, control_bit_values, uint32_t n_controls, "
    "int compute_type, intptr_t extra_workspace, size_t extra_workspace_size_in_bytes"
)
def apply_matrix_batched(
    handle,
    batched_sv,
    sv_data_type,
    n_index_bits,
    n_svs,
    sv_stride,
    map_type,
    matrix_indices,
    matrices,
    matrix_data_type,
    layout,
    adjoint,
    n_matrices,
    targets,
    n_targets,
    controls,
    control_bit_values,
    n_controls,
    compute_type,
    extra_workspace,
    extra_workspace_size_in_bytes,
):
    states = batch(handle, batched_sv, sv_data_type, n_index_bits, n_svs, sv_stride)
    require((sv_data_type, matrix_data_type, compute_type) in COMBINATIONS, "data and compute types do not go together")
    require(n_targets >= 1, "n_targets: there must be one")
    order = bits(targets, n_targets, n_index_bits, "targets")
    require((controls, control_bit_values, n_controls) == (0, 0, 0), "controls: not emulated")
    require(adjoint in (0, 1), f"adjoint: {adjoint}")
    require(n_matrices >= 1, f"n_matrices: {n_matrices}")
    size = 2**n_targets
    numbers = memory(matrices, n_matrices * size * size, DTYPES[matrix_data_type], "matrices")
    gates = numbers.view(n_matrices, size, size).to(states.dtype)
    if MatrixLayout(layout) == MatrixLayout.COL:
        gates = gates.mT
    if adjoint:
        gates = gates.mH
    if MatrixMapType(map_type) == MatrixMapType.BROADCAST:
        require(n_matrices == 1, f"n_matrices: {n_matrices} for a broadcast")
        gates = gates.expand(n_svs, size, size)
    else:
        indices = memory(matrix_indices, n_svs, torch.int32, "matrix_indices")
        require(bool(((indices >= 0) & (indices < n_matrices)).all()), f"matrix_indices: {indices}")
        gates = gates[indices.long()]
    needed = extra_workspace_size(n_svs, n_targets, adjoint)
    require(extra_workspace_size_in_bytes >= needed, f"extra_workspace_size_in_bytes: less than {needed}")
    if extra_workspace_size_in_bytes:
        memory(extra_workspace, extra_workspace_size_in_bytes, torch.uint8, "extra_workspace").fill_(255)

    index = torch.arange(2**n_index_bits)
    rows, rest = digits(index, order), index & ~sum(1 << bit for bit in order)
    before = states.clone()
    states.zero_()
    for column in range(size):
        source = rest | sum(((column >> k) & 1) << bit for k, bit in enumerate(order))
        states += gates[:, rows, column] * before[:, source]


@c_function(
    "intptr_t handle, intptr_t batched_sv, int sv_data_type, uint32_t n_index_bits, uint32_t n_svs, int64_t sv_stride, "
    "intptr_t abs2sum_arrays, int64_t abs2sum_array_stride, bit_ordering, uint32_t bit_ordering_len, mask_bit_strings, "
    "mask_ordering, uint32_t mask_len"
)
def abs2sum_array_batched(
    handle,
    batched_sv,
    sv_data_type,
    n_index_bits,
    n_svs,
    sv_stride,
    abs2sum_arrays,
    abs2sum_array_stride,
    bit_ordering,
    bit_ordering_len,
    mask_bit_strings,
    mask_ordering,
    mask_len,
):
    states = batch(handle, batched_sv, sv_data_type, n_index_bits, n_svs, sv_stride)
    order = bits(bit_ordering, bit_ordering_len, n_index_bits, "bit_ordering")
    require((mask_bit_strings, mask_ordering, mask_len) == (0, 0, 0), "mask: not emulated")
    size = 2**bit_ordering_len
    require(abs2sum_array_stride >= size, f"abs2sum_array_stride: {abs2sum_array_stride} is less than {size}")
    numbers = memory(abs2sum_arrays, (n_svs - 1) * abs2sum_array_stride + size, torch.float64, "abs2sum_arrays")
    result = numbers.as_strided((n_svs, size), (abs2sum_array_stride, 1), numbers.storage_offset())
    where = digits(torch.arange(2**n_index_bits), order)
    result.zero_().index_add_(1, where, states.abs().double().square())
