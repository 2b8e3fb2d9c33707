"""Banks against their circuits one by one, layers of patches against patches taken out one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import hqfkernels as hqf
from hqfkernels.nn import CircuitBank, PatchBank2d, PatchCircuit2d
from hqfkernels.nn.patch import Gather, Output
from tests import oracles
from tests.property.cases import DTYPES, FEWER, unless_refused
from tests.test_nn import CHANNELS_LAST, GATHERS, expected

pytestmark = pytest.mark.usefixtures("threads")

TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def random_circuits(rng: np.random.Generator, count: int, n_inputs: int, n_observables: int) -> list[hqf.Circuit]:
    return [
        oracles.random_circuit(
            rng, int(rng.integers(1, 5)), 8, n_inputs, int(rng.integers(0, 4)), n_observables=n_observables
        )
        for _ in range(count)
    ]


def outcome(function: Callable[[Tensor], Tensor], weights: Iterable[Tensor], tensor: Tensor) -> list[Tensor]:
    """The value and gradients of a weighted sum of it."""
    leaf = tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(leaf)
    slope = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).view(value.shape)
    grads = torch.autograd.grad((value.double() * slope).sum(), [leaf, *weights], materialize_grads=True)
    return [value.detach(), *grads]


def assert_close(actual: list[Tensor], wanted: list[Tensor], dtype: torch.dtype) -> None:
    for a, w in zip(actual, wanted, strict=True):
        scale = max(1.0, w.abs().max().item()) if w.numel() else 1.0
        torch.testing.assert_close(a.double(), w.double(), atol=TOLERANCES[dtype] * scale, rtol=0)


@FEWER
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.sampled_from([(), (0,), (5,), (40,), (3, 2)]),
    st.sampled_from(DTYPES),
    st.sampled_from(["auto", "gate", "fourier"]),
)
def test_a_bank_is_its_circuits(seed: int, count: int, batch: tuple[int, ...], dtype: torch.dtype, engine: str) -> None:
    rng = np.random.default_rng(seed)
    bank = CircuitBank(random_circuits(rng, count, int(rng.integers(1, 4)), 2), engine)
    for weights in bank.weights:
        nn.init.normal_(weights, generator=torch.Generator().manual_seed(seed))
    bank = bank.double() if dtype == torch.float64 else bank
    inputs = torch.from_numpy(rng.normal(size=(*batch, bank.circuits[0].n_inputs))).to(dtype)

    def one_by_one(leaf: Tensor) -> Tensor:
        pairs = zip(bank.circuits, bank.weights, strict=True)
        return torch.cat([hqf.expval(c, leaf.double(), w.double(), backend="reference") for c, w in pairs], -1)

    actual = unless_refused(lambda: outcome(bank, bank.weights, inputs))
    if actual is None:
        assert engine == "fourier"
        return
    assert_close(actual, outcome(one_by_one, bank.weights, inputs), dtype)


@FEWER
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2), (1, 3)]),
    st.sampled_from(GATHERS),
    st.sampled_from(["pixels", "channels"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(DTYPES),
    st.sampled_from([torch.contiguous_format, CHANNELS_LAST]),
)
def test_patches_of_maps(
    seed: int,
    patch: tuple[int, int],
    gather: Gather,
    output: Output,
    groups: int,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> None:
    rng = np.random.default_rng(seed)
    pixels = patch[0] * patch[1]
    n_observables = pixels if output == "pixels" else int(rng.integers(1, 4))
    circuits = random_circuits(rng, 2, pixels, n_observables)
    shape = (int(rng.integers(1, 3)), 4, *rng.integers(1, 9, size=2).tolist())
    maps = torch.from_numpy(rng.normal(size=shape)).to(dtype).to(memory_format=memory_format)
    layer = PatchCircuit2d(4, circuits[0], patch, gather, groups, output)
    nn.init.normal_(layer.weights, generator=torch.Generator().manual_seed(seed))
    layer = layer.double() if dtype == torch.float64 else layer
    assert_close(
        outcome(layer, [layer.weights], maps),
        outcome(lambda m: expected(layer, m), [layer.weights], maps),
        dtype,
    )
    if output == "pixels":
        bank = PatchBank2d(4, circuits, patch, gather, groups)
        for member, weights in enumerate(bank.weights):
            nn.init.normal_(weights, generator=torch.Generator().manual_seed(seed + member))
        bank = bank.double() if dtype == torch.float64 else bank

        def one_by_one(m: Tensor) -> Tensor:
            results = []
            for circuit, weights in zip(bank.circuits, bank.weights, strict=True):
                single = PatchCircuit2d(4, circuit, patch, gather, groups)
                single.weights = weights
                results.append(expected(single, m))
            return torch.stack(results, 1)

        assert_close(outcome(bank, bank.weights, maps), outcome(one_by_one, bank.weights, maps), dtype)
