"""The templates of `hqfkernels.ansatz` under pytest-benchmark, forward and backward, in both precisions."""

from __future__ import annotations

import math

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import hqfkernels as hqf
from hqfkernels import ansatz

BATCH = 4096
CIRCUITS = {
    "local 2x2": ansatz.local_circuit((2, 2), depth=2),
    "local 2x4": ansatz.local_circuit((2, 4), depth=2),
    "local 3x3": ansatz.local_circuit((3, 3), depth=2),
    "global 4": ansatz.global_circuit(4, depth=2),
    "directional 2x2": ansatz.directional_circuit(
        (2, 2), ("horizontal", "vertical", "diagonal", "antidiagonal"), depth=8
    ),
    "strongly entangling 6": ansatz.strongly_entangling(6, depth=3),
    "basic entangler 8": ansatz.basic_entangler(8, depth=4),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_forward_and_backward(benchmark: BenchmarkFixture, name: str, dtype: torch.dtype) -> None:
    circuit = CIRCUITS[name]
    generator = torch.Generator().manual_seed(0)
    inputs, weights = (
        torch.empty(shape, dtype=dtype).uniform_(-math.pi, math.pi, generator=generator).requires_grad_()
        for shape in ((BATCH, circuit.n_inputs), (circuit.n_weights,))
    )

    def step(x: Tensor, backend: str = "auto") -> tuple[Tensor, ...]:
        y = hqf.expval(circuit, x, weights, backend=backend)
        return y, *torch.autograd.grad(y.square().sum(), (x, weights))

    few = inputs[:32].detach().requires_grad_()
    for got, want in zip(step(few), step(few, "reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    benchmark.group = f"{name}, batch {BATCH}"
    benchmark(step, inputs)
