"""The contraction of `hqfkernels.ops` (``fourier_forward`` and ``fourier_backward``) by Triton kernels."""

from __future__ import annotations

import hashlib
import linecache
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hqfkernels.backends.triton import device, source
from hqfkernels.backends.triton.layout import Layout, layout_of
from hqfkernels.backends.triton.source import Kernel, Place
from hqfkernels.series import Series

PROGRAMS = 1024
"""Programs of a backward kernel at most: several for each multiprocessor, and few enough to add up their sums."""
MAX_NARROW = 2**31 - 2**16
"""Samples that 32 bits can number, blocks counted in full."""
_SMALL_BLOCK = 128
"""Numbers that a program prepares."""
_TILE = 32
"""Sums, and programs to sum over, that are read together."""


@lru_cache(maxsize=1024)
def compiled(text: str) -> Any:
    """The kernel of a source. Triton reads sources back, so this one is where Python looks for them while it lives."""
    name = f"<hqfkernels {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    entry = len(text), None, text.splitlines(keepends=True), name
    linecache.cache[name] = entry
    names: dict[str, Any] = {"triton": triton, "tl": tl, "__name__": __name__}
    for helper in ("place", "load1", "load2", "load4", "store1", "store2", "store4", "tame", "sincos", "EXACT_ANGLES"):
        names[helper] = getattr(device, helper)
    exec(compile(text, name, "exec"), names)
    weakref.finalize(names["kernel"], _forget, name, entry)
    return names["kernel"]


def _forget(name: str, entry: object) -> None:
    """Drops the source of a kernel that is gone, unless another kernel has been made of it."""
    if linecache.cache.get(name) is entry:
        del linecache.cache[name]


@lru_cache(maxsize=1024)
def _tuned(text: str, block: int, warps: int) -> Any:
    """The kernel, which on its first call for a size measures what block and number of warps are fastest."""
    sizes = {(block * factor, count) for factor in (1, 2) for count in (4, 8)} | {(block, warps)}
    configurations = [triton.Config({"BLOCK": size}, num_warps=count) for size, count in sorted(sizes)]
    tune = triton.autotune(configurations, key=["n_samples"], restore_value=["grads"])
    return tune(compiled(text))


def _launch(kernel: Kernel, grid: Callable[[int], tuple[int, ...]], *arguments: object) -> None:
    """Launches a kernel on the grid for its block, which is the pinned one unless `HQF_TRITON_AUTOTUNE` is set."""
    if os.environ.get("HQF_TRITON_AUTOTUNE", "0") not in ("", "0"):
        _tuned(kernel.source, kernel.block, kernel.warps)[lambda names: grid(names["BLOCK"])](
            *arguments, enable_fp_fusion=True
        )
        return
    launcher = compiled(kernel.source)[grid(kernel.block)]
    launcher(*arguments, BLOCK=kernel.block, num_warps=kernel.warps, enable_fp_fusion=True)


def _always(grid: tuple[int, ...], block: int) -> tuple[int, ...]:
    """A grid that does not depend on the block."""
    return grid


def precision() -> str:
    """How matrix products treat float32, as `tl.dot` names it.

    In three products of TensorFloat-32, which keep float32's precision, unless torch was told that one is enough
    (`torch.set_float32_matmul_precision`).
    """
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def trial(device_: torch.device) -> str | None:
    """Runs the smallest kernel on a device; returns what went wrong, in a line."""
    try:
        parameters = torch.ones(1, 1, dtype=torch.float64, device=device_)
        prepared, sources = torch.empty_like(parameters), torch.zeros(1, dtype=torch.int32, device=device_)
        with torch.cuda.device_of(parameters):
            device.prepare[(1, 1)](parameters, prepared, sources, 1, 1, BLOCK=_SMALL_BLOCK)
        return None if prepared.item() == 1 else f"it computed {prepared.item()} in the place of 1"
    except Exception as error:  # a broken compiler raises anything
        return f"{type(error).__name__}: {error}".splitlines()[0]


@dataclass(frozen=True)
class _Task:
    """What the kernels of a series do in one direction, prepared once for all calls.

    Attributes:
        kernels: each with the place where the numbers that it reads begin, and for a backward kernel (n_parameters,)
            which of its sums belongs to each parameter, -1 for none.
        sources: the numbers to prepare for all kernels, as `hqfkernels.backends.triton.device.prepare` names them.
    """

    kernels: tuple[tuple[Kernel, int, Tensor], ...]
    sources: Tensor


@lru_cache(maxsize=1024)
def _task(text: str, forward: bool, place: Place, device_: torch.device) -> _Task:
    """The task for a series, found by its text: hashing series and tables anew would take longer than a launch."""
    series = Series.from_text(text)
    sources: list[int] = []
    kernels: list[tuple[Kernel, int, Tensor]] = []
    for k, piece in enumerate(source.pieces(series, forward)):
        own = (source.forward(series, piece, place),) if forward else source.backward(series, piece, place, k > 0)
        for kernel in own:
            sums = [-1] * (0 if forward else series.n_parameters)
            for number, parameter in enumerate(kernel.slopes):
                if parameter >= 0:
                    sums[parameter] = number
            kernels.append((kernel, len(sources), torch.tensor(sums, dtype=torch.int32, device=device_)))
        sources += source.prepared(series, piece)
    return _Task(tuple(kernels), torch.tensor(sources, dtype=torch.int32, device=device_))


class _Call:
    """What forward and backward of a call have in common."""

    def __init__(self, inputs: Tensor, parameters: Tensor, outputs: Tensor, grads: Tensor, dims: int):
        self.inputs, self.parameters = inputs, parameters
        batch = inputs.shape[: inputs.dim() - dims]
        self.layout: Layout = layout_of(batch, parameters.shape[:-1], (inputs, outputs, grads))
        double = inputs.dtype == torch.float64
        self.number = torch.float64 if double else torch.float32
        self.place = Place(
            self.layout.n_sample_dims,
            self.layout.n_group_dims,
            self.layout.widths,
            double,
            self.layout.n_samples > MAX_NARROW,
            precision(),
        )
        self.table = self.layout.on(inputs.device)

    def task(self, text: str, forward: bool) -> _Task:
        """The task of a direction."""
        return _task(text, forward, self.place, self.inputs.device)

    def prepare(self, sources: Tensor) -> Tensor:
        """The numbers that the kernels of a task read, (n_groups, n)."""
        groups, count = self.layout.n_groups, len(sources)
        parameters = self.parameters.reshape(groups, -1).contiguous()
        result = torch.empty(groups, count, dtype=self.number, device=self.inputs.device)
        grid = triton.cdiv(count, _SMALL_BLOCK), groups
        device.prepare[grid](parameters, result, sources, parameters.shape[-1], count, BLOCK=_SMALL_BLOCK)
        return result


def forward(inputs: Tensor, parameters: Tensor, outputs: Tensor, text: str, feature_dims: int) -> None:
    """Computes ``outputs``, (*batch, *features); see `hqfkernels.ops` for the other arguments.

    Raises:
        ValueError: if the series is too large for these kernels.
    """
    if not outputs.numel():
        return
    call = _Call(inputs, parameters, outputs, inputs, feature_dims)
    task = call.task(text, forward=True)
    prepared = call.prepare(task.sources)
    for kernel, begin, _ in task.kernels:
        _launch(
            kernel,
            lambda block: (triton.cdiv(call.layout.n_samples, block), call.layout.n_groups),
            call.table,
            inputs,
            prepared,
            outputs,
            inputs,
            prepared,
            call.layout.n_samples,
            prepared.shape[-1],
            begin,
        )


def backward(
    grad: Tensor,
    inputs: Tensor,
    parameters: Tensor,
    grad_inputs: Tensor,
    grad_parameters: Tensor,
    text: str,
    feature_dims: int,
) -> None:
    """Computes ``grad_inputs`` and ``grad_parameters`` from the gradient of the outputs."""
    grad_parameters.zero_()
    if not grad.numel():
        grad_inputs.zero_()
        return
    # Pieces add to what others left: not in half precision.
    exact = grad_inputs if grad_inputs.element_size() >= 4 else grad_inputs.to(torch.float32)
    call = _Call(inputs, parameters, grad, exact, feature_dims)
    groups, n_parameters = call.layout.n_groups, parameters.shape[-1]
    task = call.task(text, forward=False)
    prepared = call.prepare(task.sources)
    sums = torch.zeros(groups, n_parameters, dtype=torch.float64, device=inputs.device)
    for kernel, begin, where in task.kernels:
        n_slopes = len(kernel.slopes)
        blocks = triton.cdiv(call.layout.n_samples, kernel.block)
        programs = min(blocks, max(PROGRAMS // (groups * kernel.chunks), 1))
        own_sums = torch.empty(groups, programs, n_slopes, dtype=call.number, device=inputs.device)
        _launch(
            kernel,
            partial(_always, (programs, groups, kernel.chunks)),
            call.table,
            inputs,
            prepared,
            grad,
            exact,
            own_sums,
            call.layout.n_samples,
            prepared.shape[-1],
            begin,
        )
        device.collect[(triton.cdiv(n_parameters, _TILE), groups)](
            own_sums, sums, where, programs, n_slopes, n_parameters, BLOCK=_TILE
        )
    grad_parameters.copy_(sums.view(grad_parameters.shape))
    if exact is not grad_inputs:
        grad_inputs.copy_(exact)
