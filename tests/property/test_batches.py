"""Where a sample stands in its batch, and how the batch lies in memory, changes no bit of its results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.property.cases import FEWER, LAYOUTS, Case, cases, results

pytestmark = pytest.mark.usefixtures("threads")

EXACT = ("gate", "fourier", "unitary")
"""Engines whose results are bitwise reproducible."""
FLAT = ((1,), (2,), (7,), (17,), (33,), (70,), (150,))


def assert_equal(actual: list[Tensor], wanted: list[Tensor]) -> None:
    for a, w in zip(actual, wanted, strict=True):
        assert torch.equal(a, w)


@FEWER
@given(cases(batches=FLAT, grouped=False), st.sampled_from(["expval", "probs"]), st.integers(0, 2**32 - 1))
def test_order_and_cuts(case: Case, function: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = len(case.inputs)
    order = torch.from_numpy(rng.permutation(count))
    cuts = np.sort(rng.integers(0, count + 1, size=3)).tolist()
    for engine in EXACT:
        shape = (count, case.circuit.n_observables if function == "expval" else 2**case.circuit.n_qubits)
        slope = torch.from_numpy(rng.normal(size=shape))
        whole = results(case, engine, function, slope)
        if whole is None:
            continue

        def of(samples: Tensor | slice, engine: str = engine, slope: Tensor = slope) -> list[Tensor]:
            part = Case(case.circuit, case.inputs[samples], case.weights, case.scale)
            found = results(part, engine, function, slope[samples])
            assert found is not None
            return found[:2]  # gradients of weights are sums over samples

        assert_equal(of(order), [r[order] for r in whole[:2]])
        parts = [of(slice(a, b)) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
        assert_equal([torch.cat(pieces) for pieces in zip(*parts, strict=True)], whole[:2])


@FEWER
@given(cases(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(["expval", "probs"]))
def test_layouts(case: Case, layout: str, function: str) -> None:
    other = Case(case.circuit, LAYOUTS[layout](case.inputs), case.weights, case.scale)
    assert torch.equal(other.inputs, case.inputs)
    for engine in EXACT:
        if (wanted := results(case, engine, function)) is not None:
            actual = results(other, engine, function)
            assert actual is not None
            assert_equal(actual, wanted)


@FEWER
@given(cases(batches=((5,), (17,), (2, 3)), grouped=False), st.sampled_from(["expval", "probs"]))
def test_expanded_batches(case: Case, function: str) -> None:
    """Repeated samples, seen through a stride of 0."""
    count = 3
    copies = case.inputs.expand(count, *case.inputs.shape)
    for engine in EXACT:
        slope = torch.linspace(-1, 2, 5, dtype=torch.float64)
        if (one := results(case, engine, function, slope[0])) is not None:
            several = results(Case(case.circuit, copies, case.weights, case.scale), engine, function, slope[0])
            assert several is not None
            assert_equal(several[:2], [r.expand(count, *r.shape) for r in one[:2]])
