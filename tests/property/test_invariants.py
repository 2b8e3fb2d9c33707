"""What holds for every circuit: norms, bounds, periods, and what probabilities have to do with expectation values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hqfkernels as hqf
from tests.property.cases import ENGINES, FEWER, Case, cases, how, unless_refused

pytestmark = pytest.mark.usefixtures("threads")

EVERY = ("reference", *ENGINES)


def rounding(case: Case) -> float:
    return 1e-12 if case.inputs.dtype == torch.float64 else 2e-6


@FEWER
@given(cases())
def test_states_have_norm_one(case: Case) -> None:
    for engine in ("reference", "gate"):
        state = hqf.statevector(case.circuit, case.inputs, case.weights, **how(engine))
        norms = state.to(torch.complex128).abs().square().sum(-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=rounding(case), rtol=0)


@FEWER
@given(cases(letters=("IZ",)), st.sampled_from(EVERY))
def test_expectation_values_are_those_of_probabilities(case: Case, engine: str) -> None:
    found = unless_refused(
        lambda: [f(case.circuit, case.inputs, case.weights, **how(engine)) for f in (hqf.expval, hqf.probs)]
    )
    if found is None:
        return
    values, probs = found
    n = case.circuit.n_qubits
    index = torch.arange(2**n)
    signs = torch.ones(2**n, case.circuit.n_observables, dtype=torch.float64)
    for k, string in enumerate(case.circuit.observables):
        for q, letter in enumerate(string):
            if letter == "Z":
                signs[:, k] *= 1 - 2.0 * (index >> (n - 1 - q) & 1)
    torch.testing.assert_close(probs.double() @ signs, values.double(), atol=rounding(case), rtol=0)
    assert (probs >= -rounding(case)).all()
    total = probs.double().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=rounding(case), rtol=0)


@FEWER
@given(cases(), st.sampled_from(EVERY))
def test_expectation_values_are_at_most_one(case: Case, engine: str) -> None:
    values = unless_refused(lambda: hqf.expval(case.circuit, case.inputs, case.weights, **how(engine)))
    if values is None:
        return
    assert (values.abs() <= 1 + rounding(case)).all()
    identity = values[..., -1].double()  # the last string is the identity
    torch.testing.assert_close(identity, torch.ones_like(identity), atol=rounding(case), rtol=0)


@FEWER
@given(cases(dtypes=(torch.float64,), coefficients=(1, 1, 2, 3)), st.sampled_from(EVERY), st.integers(0, 2**32 - 1))
def test_angles_have_periods(case: Case, engine: str, seed: int) -> None:
    """4 pi where a controlled rotation is, else 2 pi: per sample for inputs, for all samples for weights."""
    controlled = any(gate.name in ("crx", "cry", "crz") for gate in case.circuit.gates)
    period = 2 * math.pi * (1 + controlled)
    rng = np.random.default_rng(seed)

    def turned(tensor: torch.Tensor, first: int) -> torch.Tensor:
        turns = torch.from_numpy(rng.integers(-3, 4, size=tuple(tensor.shape))).double()
        turns[..., :first] = 0  # amplitudes are no angles
        return tensor + turns * period

    amplitudes = len(case.circuit.gates[0].angles) if case.circuit.gates[0].name == "amplitudes" else 0
    before = unless_refused(lambda: hqf.expval(case.circuit, case.inputs, case.weights, **how(engine)))
    if before is None:
        return
    after = hqf.expval(case.circuit, turned(case.inputs, amplitudes), turned(case.weights, 0), **how(engine))
    torch.testing.assert_close(after, before, atol=1e-11, rtol=0)


@pytest.mark.parametrize("engine", EVERY)
def test_controlled_rotations_have_no_smaller_period(engine: str) -> None:
    circuit = hqf.Circuit(2).h(0).crx(hqf.Input(0), 0, 1).measure("XI")
    inputs = torch.tensor([[0.3], [0.3 + 2 * math.pi], [0.3 + 4 * math.pi]], dtype=torch.float64)
    if engine == "unitary":  # measures strings of Z only
        circuit = hqf.Circuit(2).h(0).crx(hqf.Input(0), 0, 1).h(0).measure("ZI")
    values = hqf.expval(circuit, inputs, **how(engine))
    torch.testing.assert_close(values[0], values[2], atol=1e-14, rtol=0)
    torch.testing.assert_close(values[0], -values[1], atol=1e-14, rtol=0)
