"""Engines against the reference, the reference against Kronecker products, gradients in four ways."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hqfkernels as hqf
from hqfkernels.program import PASSES, Measurement, to_rotations
from hqfkernels.reference import rotations
from tests import oracles
from tests.property.cases import ENGINES, FEWER, Case, cases, how, results
from tests.property.record import RECORD

pytestmark = pytest.mark.usefixtures("threads")

VALUES = {torch.float64: 1e-11, torch.float32: 1e-5, torch.float16: 1e-5, torch.bfloat16: 1e-5}
GRADIENTS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest errors by dtype of the inputs, which gradients of inputs are stored in: relative to the largest entry, or
absolute if that is below 1."""


def error(actual: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest entry, if that is above 1; infinite for NaN."""
    if not wanted.numel():
        return 0.0
    worst = ((actual.double() - wanted).abs().max() / max(1.0, wanted.abs().max().item())).item()
    return worst if math.isfinite(worst) else math.inf


def errors(case: Case, actual: list[Tensor], wanted: list[Tensor]) -> dict[str, float]:
    """The largest of values and of gradients, the latter in the case's units."""
    (value, *grads), (wanted_value, *wanted_grads) = (
        [r[0], r[1].double() * case.units, r[2]] for r in (actual, wanted)
    )
    return {
        "values": error(value, wanted_value),
        "gradients": max(error(a, w) for a, w in zip(grads, wanted_grads, strict=True)),
    }


@given(cases(), st.sampled_from(["expval", "expval", "probs"]))
def test_engines_agree_with_the_reference(case: Case, function: str) -> None:
    wanted = results(case, "reference", function, double=True)
    assert wanted is not None
    for engine in (*ENGINES, *(["reference"] if case.inputs.dtype != torch.float64 else [])):
        if (actual := results(case, engine, function)) is not None:
            dtype, found = case.inputs.dtype, errors(case, actual, wanted)
            RECORD.add(engine, dtype, case.circuit.text, found, wanted[0].numel())
            assert actual[1].dtype == dtype
            assert found["values"] <= VALUES[dtype], (engine, found)
            assert found["gradients"] <= GRADIENTS[dtype], (engine, found)
    if one := case.sample():  # and the reference with products of Kronecker matrices
        oracle = {"expval": oracles.expval, "probs": oracles.probs}[function]
        value = oracle(one.circuit, one.inputs.double().numpy(), one.weights.double().numpy())
        worst = error(wanted[0].view(-1, len(value))[0], torch.from_numpy(value))
        RECORD.add("reference", torch.float64, case.circuit.text, {"values": worst}, value.size)
        assert worst <= VALUES[torch.float64]


@FEWER
@given(cases(dtypes=(torch.float64,), batches=((),), layouts=("contiguous",), max_gates=8))
def test_four_ways_to_gradients(case: Case) -> None:
    """Parameter shift on Kronecker products, automatic differentiation, each engine's way, and finite differences."""
    slope = torch.linspace(-1, 2, case.circuit.n_observables, dtype=torch.float64)
    arrays = (case.inputs / case.units).numpy(), case.weights.numpy()
    along_inputs, along_weights = (slope.numpy() @ jacobian for jacobian in oracles.gradients(case.circuit, *arrays))
    value = torch.from_numpy(oracles.expval(case.circuit, *arrays))
    wanted = [value, torch.from_numpy(along_inputs) / case.units, torch.from_numpy(along_weights)]
    for engine in ("reference", *ENGINES):
        if (actual := results(case, engine, slope=slope)) is not None:
            found = errors(case, actual, wanted)
            assert max(found.values()) < 1e-9, (engine, found)  # the oracle takes those of amplitudes by differences
            if engine == "reference" and case.circuit.gates[0].name != "amplitudes":
                RECORD.add(engine, torch.float64, case.circuit.text, found, value.numel())
            assert_differences(case, engine, slope, actual)


def assert_differences(case: Case, engine: str, slope: Tensor, actual: list[Tensor]) -> None:
    """The gradients are those of finite differences of the engine's own values."""
    step = 1e-3
    tensors, units = (case.inputs, case.weights), (case.units, torch.ones_like(case.weights))
    for which, (tensor, unit, gradient) in enumerate(zip(tensors, units, actual[1:], strict=True)):
        for k in range(len(tensor)):
            moves = torch.tensor([-2, -1, 1, 2], dtype=torch.float64)[:, None] * step * unit[k]
            moved = tensor + moves * torch.nn.functional.one_hot(torch.tensor(k), len(tensor))
            inputs = moved if which == 0 else case.inputs.expand(4, -1)
            values = hqf.expval(case.circuit, inputs, moved if which == 1 else case.weights, **how(engine)) @ slope
            stencil = values.new_tensor([1, -8, 8, -1]) / (12 * step)
            assert error(stencil @ values, gradient[k] * unit[k]) < 1e-6, engine


@FEWER
@given(cases(dtypes=(torch.float64,)), st.sampled_from(["expval", "probs", "state"]), st.data())
def test_lowering_passes_change_nothing(case: Case, measurement: Measurement, data: st.DataObject) -> None:
    """Any of them, in any order, as often as one likes."""
    program = to_rotations(case.circuit, measurement)
    weights = case.weights.expand(*case.inputs.shape[:-1], -1)
    before = rotations.forward(program, case.inputs, weights)
    slope = torch.linspace(-1, 2, before.numel(), dtype=torch.float64).view(before.shape)
    gradients = rotations.backward(program, slope, case.inputs, weights)
    for simplify in data.draw(st.lists(st.sampled_from(PASSES), min_size=1, max_size=6)):
        program = simplify(program)
    after = [
        rotations.forward(program, case.inputs, weights),
        *rotations.backward(program, slope, case.inputs, weights),
    ]
    found = errors(case, after, [before, *gradients])
    assert max(found.values()) < 1e-11
