"""What is measured: one circuit family at several sizes, and every implementation that runs it.

The circuit: RY encoding of one input per qubit, then layers of RY and RZ with their own weight on each qubit and a
ring of CNOTs q -> (q + 1) % n; measured are all <Z_k>. The work: forward and backward of sum(y**2), with gradients
for inputs and weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import hqfkernels as hqf
from bench.handwritten import Form, Halves, LowRank, Unitary
from hqfkernels import reference

OURS = "hqfkernels"
LOW_RANK = "low rank"
COMPILED = ", compiled"


@dataclass(frozen=True)
class Case:
    """A register of ``n`` qubits, a number of ``layers`` and a ``batch`` of circuits."""

    n: int
    layers: int
    batch: int

    def __str__(self) -> str:
        return f"n={self.n} L={self.layers} B={self.batch}"

    @staticmethod
    def parse(text: str) -> Case:
        """The case written as ``n,layers,batch``."""
        try:
            n, layers, batch = map(int, text.split(","))
        except ValueError:
            raise ValueError(f"case: takes n,layers,batch as integers, got {text!r}") from None
        if n < 2 or layers < 2 or batch < 1:
            raise ValueError(f"case: needs at least 2 qubits, 2 layers and a batch of 1, got {text!r}")
        return Case(n, layers, batch)

    def circuit(self) -> hqf.Circuit:
        """The circuit, with weight (layer, qubit, RY or RZ) at ``(layer * n + qubit) * 2 + (0 or 1)``."""
        circuit = hqf.Circuit(self.n)
        for q in range(self.n):
            circuit.ry(hqf.Input(q), q)
        for layer in range(self.layers):
            for q in range(self.n):
                k = (layer * self.n + q) * 2
                circuit.ry(hqf.Weight(k), q).rz(hqf.Weight(k + 1), q)
            for q in range(self.n):
                circuit.cx(q, (q + 1) % self.n)
        return circuit

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Inputs (batch, n) and weights (layers * n * 2,), float32, always the same, both asking for gradients."""
        generator = torch.Generator().manual_seed(0)
        inputs, weights = torch.empty(self.batch, self.n), torch.empty(self.layers * self.n * 2)
        for tensor in (inputs, weights):  # in place: temporaries would show in the peak memory
            tensor.uniform_(-math.pi, math.pi, generator=generator).requires_grad_()
        return inputs, weights


CASES = tuple(
    Case(*sizes)
    for sizes in (
        (4, 2, 131072),
        (4, 2, 16384),
        (4, 6, 16384),
        (6, 2, 16384),
        (8, 2, 4096),
        (8, 6, 2048),
        (10, 3, 512),
        (12, 2, 64),
    )
)


def implementations(case: Case, compiled: bool = True) -> dict[str, Form]:
    """Every way to run ``case``, by name: `OURS` and the hand-written forms, as they are and through torch.compile."""
    handwritten: dict[str, Form] = {"halves": Halves(case.n, case.layers)}
    if 2**case.n <= case.batch:  # else the matrix costs more than the batch
        handwritten["unitary"] = Unitary(case.n, case.layers)
    if case.layers == 2 and case.n >= 6:  # below, sixteen Gram entries are more than the state
        handwritten[LOW_RANK] = LowRank(case.n, case.layers)
    if compiled:
        torch.compiler.reset()  # an earlier case's graphs count against the recompilation limit
        handwritten |= {
            name + COMPILED: torch.compile(form, dynamic=False, fullgraph=True) for name, form in handwritten.items()
        }
    circuit = case.circuit()
    return {OURS: lambda inputs, weights: hqf.expval(circuit, inputs, weights)} | handwritten


@dataclass(frozen=True)
class Step:
    """Forward and backward on given tensors; ``expected`` holds values, input and weight gradients in float64."""

    inputs: Tensor
    weights: Tensor
    grad: Tensor
    expected: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def of(case: Case) -> Step:
        """Prepares tensors, the gradient 2 y of the loss sum(y**2) and the expected results, from the reference."""
        inputs, weights = case.tensors()
        circuit = case.circuit()
        w = weights.detach().double().requires_grad_()
        values, input_grads, weight_grad = [], [], torch.zeros_like(w)
        for part in inputs.detach().double().split(max(1, 2**18 >> case.n)):
            x = part.requires_grad_()
            y = reference.circuit.expval(circuit, x, w)
            gx, gw = torch.autograd.grad(y, (x, w), 2 * y.detach())
            values.append(y.detach())
            input_grads.append(gx)
            weight_grad += gw
        y = torch.cat(values)
        return Step(inputs, weights, 2 * y.float(), (y, torch.cat(input_grads), weight_grad))

    def run(self, form: Form) -> tuple[Tensor, Tensor, Tensor]:
        """Values (batch, n) and the gradients of inputs and weights."""
        y = form(self.inputs, self.weights)
        input_grad, weight_grad = torch.autograd.grad(y, (self.inputs, self.weights), self.grad)
        return y, input_grad, weight_grad

    def check(self, name: str, form: Form) -> None:
        """Raises AssertionError where ``form`` disagrees with the reference."""
        self.check_results(name, self.run(form))

    def check_results(self, name: str, results: Iterable[Tensor]) -> None:
        """Raises AssertionError where ``results`` differ from the reference by more than 1e-4 of the largest entry."""
        names = ("values", "input gradients", "weight gradients")
        for what, got, want in zip(names, results, self.expected, strict=True):
            assert got.shape == want.shape, f"{name}: {what} have shape {(*got.shape,)} instead of {(*want.shape,)}"
            error = ((got - want).abs().max() / want.abs().max()).item()
            assert error < 1e-4, f"{name}: {what} differ from the reference by {error:.1e}"
