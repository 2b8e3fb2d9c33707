"""The opponents: what an expert would write in plain torch for the circuits of `bench.cases`, without any library.

All of them use what the circuit family allows. The first layer's RY weights add to the encoding, so the batch starts
as a real product state. A ring of CNOTs is one permutation of the basis states. The last RZ layer and the last ring
are folded into the signs of the measured Z's. States are real tensors with the batch last, so that every gate is a
GEMM with long rows, and the batch runs in slices that fit the cache.

- `Halves`: the rotations of half of the qubits as one matrix, applied from each side; the phases of the RZ layer
  before them ride along in the first half's matrices.
- `Unitary`: everything after the encoding as one matrix shared by the batch, a single real GEMM.
- `LowRank` (two layers only): one ring entangles two halves with rank 4, so four vectors per half and their Gram
  matrices give every expectation value. It never forms the 2**n amplitudes: not a state-vector simulation any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Form = Callable[[Tensor, Tensor], Tensor]
"""(inputs (B, n), weights (layers * n * 2,)), both float32 in radians -> expectation values (B, n)."""

SLICE = 2**19
"""Amplitudes of the batch in work at a time: a few MB with both halves of a complex state."""


class _TakeRows(torch.autograd.Function):
    """Rows in the order ``index``, a permutation: the gradient takes them back instead of adding them up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _SignedSquares(torch.autograd.Function):
    """signs @ z**2, with a gradient in one pass over ``z``."""

    @staticmethod
    def forward(ctx: Any, signs: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(signs, z)
        return signs @ (z * z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        signs, z = ctx.saved_tensors
        return None, (signs.T @ (2 * grad)) * z


def _ring(n: int) -> Tensor:
    """Permutation p of the CNOT ring: the state after it is ``state[p]``."""
    index = torch.arange(2**n)
    order = index
    for q in range(n):
        target = (q + 1) % n
        order = order[index ^ ((index >> (n - 1 - q) & 1) << (n - 1 - target))]
    return order


def _signs(n: int) -> Tensor:
    """Eigenvalues of Z on each qubit, (n, 2**n)."""
    bits = torch.arange(2**n) >> torch.arange(n - 1, -1, -1)[:, None] & 1
    return 1.0 - 2.0 * bits


def _product(factors: Tensor) -> Tensor:
    """Kronecker product of (k, 2, B) along the middle: (2**k, B)."""
    state = factors[0]
    for factor in factors[1:]:
        state = (state[:, None] * factor).flatten(0, 1)
    return state


def _encode(factors: Tensor) -> Tensor:
    """`_product` in two halves, which writes the long state once."""
    half = len(factors) // 2
    return (_product(factors[:half])[:, None] * _product(factors[half:])).flatten(0, 1)


def _ry(angles: Tensor) -> Tensor:
    """Kronecker product of RY(angles[k]): (2**k, 2**k)."""
    c, s = torch.cos(angles / 2), torch.sin(angles / 2)
    gates = torch.stack([c, -s, s, c], 1).view(-1, 2, 2)
    matrix = gates[0]
    for gate in gates[1:]:
        matrix = (matrix[:, None, :, None] * gate[None, :, None, :]).reshape(2 * len(matrix), -1)
    return matrix


class _Family:
    """Encoding, slicing and what depends on the register alone; a form defines `prepare` and `run`."""

    def __init__(self, n: int, layers: int) -> None:
        self.n, self.layers = n, layers
        self.m = n // 2  # qubits in the first half
        self.a, self.b = 2**self.m, 2 ** (n - self.m)
        self.ring = _ring(n)
        self.signs = _signs(n)[:, torch.argsort(self.ring)].contiguous()  # of Z after the last ring

    def prepare(self, weights: Tensor) -> list[Tensor]:
        """Matrices that depend on the weights (layers, n, 2) alone."""
        raise NotImplementedError

    def run(self, factors: Tensor, matrices: list[Tensor]) -> Tensor:
        """Expectation values (n, B) of encoded qubits (n, 2, B)."""
        raise NotImplementedError

    def __call__(self, inputs: Tensor, weights: Tensor) -> Tensor:
        weights = weights.view(self.layers, self.n, 2)
        matrices = self.prepare(weights)
        half = (inputs.T + weights[0, :, :1]) / 2
        slices = half.split(max(1, SLICE >> self.n), 1)
        outputs = [self.run(torch.stack([h.cos(), h.sin()], 1), matrices) for h in slices]
        return torch.cat(outputs, 1).T


class Halves(_Family):
    """Rotations of each half as one matrix; rows of a state are ordered (second half, re/im, first half)."""

    def __init__(self, n: int, layers: int) -> None:
        super().__init__(n, layers)
        a, b = self.a, self.b
        swap = torch.arange(2**n).view(a, b).T.flatten()
        first = self.ring[swap]
        self.phase_signs = _signs(n)[:, first].contiguous()
        self.row_signs = self.signs[:, swap].view(n, b, 1, a).expand(n, b, 2, a).reshape(n, -1).contiguous()
        from_a, from_b = first.view(b, 1, a) // b, first.view(b, 1, a) % b
        rows = (from_b * (2 * a) + torch.arange(2).view(1, 2, 1) * a + from_a).flatten()
        self.first, self.later = ((order, torch.argsort(order)) for order in (first, rows))

    def prepare(self, weights: Tensor) -> list[Tensor]:
        phases = (weights[:-1, :, 1] @ self.phase_signs / 2).view(-1, self.b, 1, self.a)
        matrices = []
        for layer in range(1, self.layers):
            ry = _ry(weights[layer, : self.m, 0])
            re, im = ry * phases[layer - 1].cos(), ry * -phases[layer - 1].sin()
            matrix = torch.cat([re, im], 1)
            if layer > 1:
                matrix = torch.cat([matrix, torch.cat([-im, re], 1)], 2)
            matrices += [matrix, _ry(weights[layer, self.m :, 0])]
        return matrices

    def evolve(self, state: Tensor, matrices: list[Tensor]) -> Tensor:
        """From real amplitudes after the first RY layer, (2**n, B), to real and imaginary parts (2 * 2**n, B)."""
        batch = state.shape[1]
        state = _TakeRows.apply(state, *self.first)
        for layer, (first, second) in enumerate(zip(matrices[::2], matrices[1::2], strict=True)):
            if layer:
                state = _TakeRows.apply(state, *self.later)
            state = torch.bmm(first, state.view(self.b, -1, batch))
            state = (second @ state.view(self.b, -1)).view(-1, batch)
        return state

    def run(self, factors: Tensor, matrices: list[Tensor]) -> Tensor:
        return _SignedSquares.apply(self.row_signs, self.evolve(_encode(factors), matrices))


class Unitary(Halves):
    """Everything after the encoding as one matrix, built from the basis states by `Halves`."""

    def prepare(self, weights: Tensor) -> list[Tensor]:
        return [self.evolve(torch.eye(2**self.n), super().prepare(weights))]

    def run(self, factors: Tensor, matrices: list[Tensor]) -> Tensor:
        return _SignedSquares.apply(self.row_signs, matrices[0] @ _encode(factors))


class LowRank(_Family):
    """Two layers: four complex vectors per half, indexed by the last bit of each half before the second rotations."""

    def __init__(self, n: int, layers: int) -> None:
        if layers != 2:
            raise ValueError(f"layers: the rank is 4 for two layers only, got {layers}")
        super().__init__(n, layers)
        a, b = self.a, self.b
        ring = self.ring.view(a, b)
        pairs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])  # last bit of the first half, of the second half
        self.halves = []
        for size, last, order, signs in (
            (a, pairs[:, 0], ring[:, :2] // b, self.signs.view(n, a, b)[:, :, 0]),
            (b, pairs[:, 1], ring[:2].T % b, self.signs.view(n, a, b)[:, 0] * self.signs.view(n, a, b)[:, 0, :1]),
        ):
            other = pairs.sum(1) - last
            source = torch.stack([order[bit::2, o] for bit, o in zip(last, other, strict=True)])  # (4, size / 2)
            self.halves.append((size, last, source, signs.contiguous(), _signs(size.bit_length() - 1)))
        # real parts of the Gram matrix's upper triangle, then imaginary parts: off-diagonal pairs count twice
        self.scale = torch.tensor([1.0, 2, 2, 2, 1, 2, 2, 1, 2, 1] + [-2.0] * 6).view(16, 1, 1)

    def prepare(self, weights: Tensor) -> list[Tensor]:
        matrices = []
        parts = weights.split([self.m, self.n - self.m], 1)
        for (size, last, source, _, signs), w in zip(self.halves, parts, strict=True):
            ry = _ry(w[1, :, 0]).view(size, size // 2, 2).permute(2, 0, 1)[last]
            phase = (w[0, :, 1] @ signs / 2)[source][:, None]
            matrices.append(torch.cat([ry * phase.cos(), ry * -phase.sin()], 1))
        return matrices

    def run(self, factors: Tensor, matrices: list[Tensor]) -> Tensor:
        grams = []
        parts = factors.split([self.m, self.n - self.m])
        for (size, _, source, signs, _), matrix, part in zip(self.halves, matrices, parts, strict=True):
            encoded = _product(part).index_select(0, source.flatten()).view(4, size // 2, -1)
            re, im = torch.bmm(matrix, encoded).view(4, 2, size, -1).unbind(1)
            pairs = [re[i] * re[i:] + im[i] * im[i:] for i in range(4)]
            pairs += [im[i] * re[i + 1 :] - re[i] * im[i + 1 :] for i in range(3)]
            grams.append(torch.matmul(signs, torch.cat(pairs)))
        return (self.scale * grams[0] * grams[1]).sum(0)
