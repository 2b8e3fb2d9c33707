"""Where the samples of a call lie in memory, as a table of integers that kernels read.

A table on the device rather than arguments: kernels then need not be compiled anew for every size of map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

N_TENSORS = 3
"""Tensors that a kernel steps through: inputs, outputs (or their gradient), gradient of the inputs."""

_Dim = tuple[int, tuple[int, ...]]  # size, and stride in each tensor


@dataclass(frozen=True)
class Layout:
    """How samples are numbered and found.

    The samples that share parameters are a group; groups and the samples in each are numbered from 0.

    Attributes:
        n_samples: in each group.
        n_groups: sets of parameters.
        n_sample_dims: dimensions that the number of a sample decomposes into ...
        n_group_dims: ... and that of a group.
        words: for each of these dimensions, the innermost first, its size and its stride in each tensor; then the
            offsets of the features of each tensor.
        widths: for each tensor how many features lie side by side and aligned, so that one access takes them: 1, 2, 4.
    """

    n_samples: int
    n_groups: int
    n_sample_dims: int
    n_group_dims: int
    words: tuple[int, ...]
    widths: tuple[int, ...]

    def on(self, device: torch.device) -> Tensor:
        """The words as a tensor."""
        return _on_device(self.words, device)


@lru_cache(maxsize=1024)
def _on_device(words: tuple[int, ...], device: torch.device) -> Tensor:
    """Integers as a tensor that stays on the device: copying them for every call would wait for it."""
    return torch.tensor(words, dtype=torch.int64, device=device)


def layout_of(batch: Sequence[int], groups: Sequence[int], tensors: Sequence[Tensor]) -> Layout:
    """The layout of a call.

    Args:
        batch: shape of the batch.
        groups: shape of the sets of parameters, aligned with the batch on the right.
        tensors: (*batch, *features); dimensions of features count as one, the last running fastest. A tensor that a
            kernel does not use is given as any other.
    """
    dims = [(size, tuple(t.stride(d) for t in tensors)) for d, size in enumerate(batch)]
    first = len(batch) - len(groups)
    grouped = [d >= first and groups[d - first] > 1 for d in range(len(batch))]
    group_dims = [dim for dim, apart in zip(dims, grouped, strict=True) if apart]
    sample_dims = [dim for dim, apart in zip(dims, grouped, strict=True) if not apart]
    # Samples may come in any order, so neighbours in memory shall have neighbouring numbers; groups come in theirs.
    sample_dims = _merged(sorted(sample_dims, key=lambda dim: dim[1], reverse=True))
    offsets = [_feature_offsets(t, len(batch)) for t in tensors]
    widths = [
        _width(t, [strides[k] for size, strides in group_dims + sample_dims], offsets[k]) for k, t in enumerate(tensors)
    ]
    words = [word for size, strides in [*sample_dims[::-1], *group_dims[::-1]] for word in (size, *strides)]
    return Layout(
        _product(sample_dims),
        _product(group_dims),
        len(sample_dims),
        len(group_dims),
        (*words, *(offset for own in offsets for offset in own)),
        tuple(widths),
    )


def _product(dims: Sequence[_Dim]) -> int:
    result = 1
    for size, _ in dims:
        result *= size
    return result


def _merged(dims: Sequence[_Dim]) -> list[_Dim]:
    """Dimensions without those of size 1, and with one in the place of two that all tensors step through as one."""
    result: list[_Dim] = []
    for size, strides in dims:
        if size == 1:
            continue
        if result and all(outer == size * inner for outer, inner in zip(result[-1][1], strides, strict=True)):
            size *= result.pop()[0]
        result.append((size, strides))
    return result


def _feature_offsets(tensor: Tensor, batch_dims: int) -> list[int]:
    offsets = [0]
    for size, stride in zip(tensor.shape[batch_dims:], tensor.stride()[batch_dims:], strict=True):
        offsets = [offset + k * stride for offset in offsets for k in range(size)]
    return offsets


def _width(tensor: Tensor, strides: Sequence[int], offsets: Sequence[int]) -> int:
    """How many features one access can take."""
    for width in (4, 2):
        aligned = tensor.data_ptr() % (width * tensor.element_size()) == 0 and not any(s % width for s in strides)
        if not aligned or len(offsets) % width or width * tensor.element_size() > 16:
            continue
        starts = offsets[::width]
        if not any(s % width for s in starts) and list(offsets) == [s + k for s in starts for k in range(width)]:
            return width
    return 1
