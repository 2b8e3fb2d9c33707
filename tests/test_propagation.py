"""Pauli propagation: the operators against plain torch, differences and the circuits themselves; bad texts."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz, propagation
from hqfkernels.program import Program, lower
from hqfkernels.propagation import Collect, Propagation, Turn, propagate
from hqfkernels.reference import propagation as plain
from hqfkernels.series import Polynomials, Series, axes_of
from tests import oracles

pytestmark = pytest.mark.usefixtures("threads")

forward = torch.ops.hqfkernels.propagation_forward
backward = torch.ops.hqfkernels.propagation_backward


def uploaded_again() -> Circuit:
    circuit = Circuit(2)
    for layer in range(3):
        circuit.ry(Input(0), 0).rx(2 * Input(1), 1).ry(Weight(layer), 0).cx(0, 1).rx(Weight(3 + layer) - 0.2, 0)
    return circuit.measure("ZI", "XY")


CIRCUITS = {
    "local": ansatz.local_circuit((2, 2), 2),
    "global": ansatz.global_circuit(4, 1),
    "entangling": ansatz.strongly_entangling(3, 3),
    "uploaded again": uploaded_again(),
    "controlled": Circuit(3).h(0).crx(Input(0), 0, 1).ry(Weight(0), 0).cry(Weight(1), 1, 2).crz(Input(1), 2, 0).h(2),
    "one weight everywhere": Circuit(2)
    .ry(Input(0), 0)
    .rx(Weight(0), 0)
    .cx(0, 1)
    .ry(2 * Weight(0), 1)
    .rx(-Weight(0), 0),
    "no weights": ansatz.angle_encoding(3).cx(0, 1).measure("ZZX", "IXI"),
    "no inputs": Circuit(2).ry(Weight(0), 0).cx(0, 1).rx(Weight(1), 1),
    "no rotations": Circuit(2).ry(Input(0), 0).ry(Weight(0), 0).measure("IX", "IZ", "IY", "II"),
    "dead": Circuit(2).ry(Input(0) + Weight(0), 0).rz(Weight(1), 1).rz(Input(1), 1).measure("IX", "ZX", "YI"),
}
MEASUREMENTS: tuple[Literal["expval", "probs"], ...] = ("expval", "probs")


def prepare(circuit: Circuit, measurement: Literal["expval", "probs"] = "expval") -> tuple[Polynomials, Propagation]:
    program = Program.from_text(lower(circuit.text, measurement))
    found = propagate(program, axes_of(program), 10**5)
    assert found is not None
    return found


def everything_lives(rotations: object, n_qubits: int) -> Callable[..., NDArray[np.bool_]]:
    """In the place of `hqfkernels.propagation._liveness`."""
    return lambda position, strings: np.ones(len(strings), np.bool_)


def weights_of(circuit: Circuit, *groups: int) -> Tensor:
    torch.manual_seed(0)
    return 2 * torch.randn(*groups, circuit.n_weights, dtype=torch.float64)


def evaluate(polynomials: Polynomials, parameters: Tensor, inputs: Tensor) -> Tensor:
    """The polynomials as their definition has them, one product of features after the other."""
    *coefficients, shifts = parameters.split([*map(len, polynomials.terms), len(polynomials.axes)])
    features = []
    for axis, shift in zip(polynomials.axes, shifts, strict=True):
        u = axis.unit * inputs[:, axis.input] + shift
        waves = [w for h in range(1, axis.degree + 1) for w in ((h * u).cos(), (h * u).sin())]
        features.append([torch.ones_like(u), *waves])
    half = polynomials.split

    def products(own: list[list[Tensor]]) -> list[Tensor]:
        ones = torch.ones(len(inputs), dtype=inputs.dtype)
        return [math.prod(choice, start=ones) for choice in itertools.product(*own)]

    a, b = products(features[:half]), products(features[half:])
    zero = torch.zeros(len(inputs), dtype=inputs.dtype)
    return torch.stack(
        [
            sum((c * a[i] * b[j] for c, (i, j) in zip(own, terms, strict=True)), zero)
            for own, terms in zip(coefficients, polynomials.terms, strict=True)
        ],
        -1,
    )


# --- what comes out ---------------------------------------------------------------------------------------------------


def assert_describes(circuit: Circuit, measurement: Literal["expval", "probs"]) -> None:
    polynomials, recipe = prepare(circuit, measurement)
    weights = weights_of(circuit)
    inputs = 2 * torch.randn(7, circuit.n_inputs, dtype=torch.float64)
    actual = evaluate(polynomials, forward(weights, recipe.text), inputs)
    run = {"expval": hqf.expval, "probs": hqf.probs}[measurement]
    torch.testing.assert_close(actual, run(circuit, inputs, weights, backend="reference"), atol=1e-12, rtol=0)


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("name", CIRCUITS)
def test_polynomials_are_those_of_the_circuit(name, measurement):
    assert_describes(CIRCUITS[name], measurement)


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("seed", range(25))
def test_random_circuits(seed, measurement):
    rng = np.random.default_rng(seed)
    body = oracles.random_circuit(
        rng, 3, 10, 0, 3, gates=("rx", "ry", "rz", "crz", "cx", "h", "rxx", "sx", "swap", "cry")
    )
    circuit = Circuit(3)
    for position, gate in enumerate(body.gates):
        if position % 4 == 1:
            multiple = float(rng.choice([1, 2, -1, 0.5]))
            circuit.ry(multiple * Input(position % 2) + Weight(position % 3), int(rng.integers(3)))
        circuit.append(gate.name, gate.angles, gate.qubits)
    strings = ["".join(rng.choice(list("IXYZ"), 3)) for _ in range(5)]
    assert_describes(circuit.measure(*strings), measurement)


@pytest.mark.parametrize("seed", range(12))
def test_clifford_circuits(seed):
    """Where lowering leaves few rotations, or none."""
    rng = np.random.default_rng(seed)
    circuit = Circuit(3).ry(Input(0), int(rng.integers(3)))
    for gate in oracles.random_circuit(rng, 3, 8, 0, 0, gates=("h", "s", "cx", "cz", "x", "sx", "swap", "y")).gates:
        circuit.append(gate.name, gate.angles, gate.qubits)
    assert_describes(circuit.measure(*("".join(rng.choice(list("IXYZ"), 3)) for _ in range(8))), "expval")


def test_engines_agree_where_no_rotation_is_left():
    circuit = CIRCUITS["no rotations"]
    inputs, weights = torch.randn(4, 1), torch.randn(1)
    wanted = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(4, 4)
    for engine in ("gate", "fourier"):
        torch.testing.assert_close(hqf.expval(circuit, inputs, weights, engine=engine), wanted)


# --- the operators ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), (1,), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("name", CIRCUITS)
def test_native_is_the_reference(native, name, measurement, groups):
    recipe = prepare(CIRCUITS[name], measurement)[1]
    weights = weights_of(CIRCUITS[name], *groups)
    values = forward(weights, recipe.text)
    torch.testing.assert_close(values, plain.forward(recipe, weights), atol=1e-13, rtol=0)
    slope = torch.randn_like(values)
    wanted = plain.backward(recipe, slope, weights)
    torch.testing.assert_close(backward(slope, weights, recipe.text), wanted, atol=1e-11, rtol=0)
    assert wanted.shape == weights.shape


@pytest.mark.parametrize("run", ["operator", "plain"])
@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("name", CIRCUITS)
def test_gradients_are_differences(name, measurement, run):
    recipe = prepare(CIRCUITS[name], measurement)[1]
    weights = weights_of(CIRCUITS[name], 2)
    slope = torch.randn_like(forward(weights, recipe.text))
    step = 1e-5
    wanted = torch.zeros_like(weights)
    for k in range(weights.shape[-1]):
        move = torch.zeros_like(weights)
        move[:, k] = step
        ahead, behind = (plain.forward(recipe, weights + sign * move) for sign in (1, -1))
        wanted[:, k] = ((ahead - behind) / (2 * step) * slope).sum(-1)
    actual = backward(slope, weights, recipe.text) if run == "operator" else plain.backward(recipe, slope, weights)
    torch.testing.assert_close(actual, wanted, atol=1e-7, rtol=0)


def test_sets_of_weights_do_not_touch_each_other(native):
    circuit = CIRCUITS["local"]
    recipe = prepare(circuit)[1]
    weights = weights_of(circuit, 40)
    values = forward(weights, recipe.text)
    slope = torch.randn_like(values)
    grads = backward(slope, weights, recipe.text)
    for k in (0, 17, 39):
        assert torch.equal(forward(weights[k], recipe.text), values[k])
        assert torch.equal(backward(slope[k], weights[k], recipe.text), grads[k])
    weights[11] = torch.nan
    sick = forward(weights, recipe.text)
    assert sick[11].isnan().any()
    others = [k for k in range(40) if k != 11]
    assert torch.equal(sick[others], values[others])


def test_any_number_of_threads(native, threads):
    circuit = CIRCUITS["local"]
    recipe = prepare(circuit)[1]
    weights = weights_of(circuit, 50)
    slope = torch.randn_like(forward(weights, recipe.text))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append((forward(weights, recipe.text), backward(slope, weights, recipe.text)))
    assert all(torch.equal(a, b) for later in results[1:] for a, b in zip(results[0], later, strict=True))


def test_arguments_that_do_not_fit(native):
    circuit = CIRCUITS["local"]
    text = prepare(circuit)[1].text
    weights = weights_of(circuit, 4)
    grad = torch.zeros_like(forward(weights, text))
    for bad in (weights.float(), weights.T.contiguous().T, torch.tensor(1.0, dtype=torch.float64)):
        with pytest.raises(RuntimeError, match="expected contiguous float64 weights"):
            forward(bad, text)
        with pytest.raises(RuntimeError, match="expected contiguous float64 weights"):
            backward(grad, bad, text)
    with pytest.raises(RuntimeError, match="weights do not fit the text"):
        forward(weights[:, 1:].contiguous(), text)
    for bad in (grad[:3], grad[:, 1:].contiguous()):
        with pytest.raises(RuntimeError, match="the gradient does not fit"):
            backward(bad, weights, text)


# --- what is prepared -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("name", CIRCUITS)
def test_text_round_trip(name, measurement):
    recipe = prepare(CIRCUITS[name], measurement)[1]
    again = Propagation.from_text(recipe.text)
    assert again is not recipe
    assert again.text == recipe.text


def test_text_keeps_numbers_exactly():
    turn = Turn(hqf.Weight(1) / 3 + 0.1, np.array([(0, 1, -1), (2, 0, 1)]))
    collect = Collect(1, np.array([(0, 2)]), np.array([2 / 3]))
    recipe = Propagation(2, (1 / 3, -1e-300, 0.1), (turn, collect), (Weight(0) / 7, hqf.Angle()))
    again = Propagation.from_text(recipe.text)
    assert (again.n_weights, again.initial, again.shifts) == (recipe.n_weights, recipe.initial, recipe.shifts)
    first, second = again.steps
    assert isinstance(first, Turn)
    assert first.angle == turn.angle
    assert first.pairs.tolist() == turn.pairs.tolist()
    assert isinstance(second, Collect)
    assert (second.size, second.entries.tolist(), second.factors.tolist()) == (1, [[0, 2]], [2 / 3])
    with pytest.raises(ValueError, match="propagation1"):
        Propagation.from_text("propagation0 " + recipe.text.partition(" ")[2])


def test_strings_that_die():
    polynomials, recipe = prepare(CIRCUITS["dead"])
    assert [len(terms) for terms in polynomials.terms] == [0, 0, 0]
    assert not recipe.n_pairs
    assert forward(weights_of(CIRCUITS["dead"]), recipe.text).shape == (len(polynomials.axes),)


@pytest.mark.parametrize("name", CIRCUITS)
def test_dead_strings_are_dropped_early(name, monkeypatch):
    """Dropping them changes nothing but the work."""
    polynomials, recipe = prepare(CIRCUITS[name])
    monkeypatch.setattr(propagation, "_liveness", everything_lives)
    all_polynomials, everything = prepare(CIRCUITS[name])
    assert polynomials == all_polynomials
    assert recipe.n_pairs <= everything.n_pairs
    weights = weights_of(CIRCUITS[name], 3)
    torch.testing.assert_close(forward(weights, recipe.text), forward(weights, everything.text), atol=1e-13, rtol=0)


def test_unneeded_steps_are_left_out(monkeypatch):
    circuit = CIRCUITS["local"]
    recipe = prepare(circuit)[1]

    def complete(steps: list[Turn | Collect], sizes: list[int]) -> tuple[Turn | Collect, ...]:
        after = iter(sizes[1:])
        return tuple(replace(s, size=next(after)) if isinstance(s, Collect) else s for s in steps)

    monkeypatch.setattr(propagation, "_needed", complete)
    monkeypatch.setattr(propagation, "_liveness", everything_lives)
    everything = prepare(circuit)[1]
    assert recipe.n_pairs < everything.n_pairs
    weights = weights_of(circuit, 3)
    torch.testing.assert_close(forward(weights, recipe.text), forward(weights, everything.text), atol=1e-13, rtol=0)


def test_too_many_pairs():
    program = Program.from_text(lower(CIRCUITS["local"].text, "expval"))
    assert propagate(program, axes_of(program), 20) is None
    assert propagate(program, axes_of(program), 1000) is not None


# --- bad texts --------------------------------------------------------------------------------------------------------

FUZZ = """
import json
import random
import sys

import torch

import hqfkernels

torch.set_num_threads(1)
ops = torch.ops.hqfkernels
WORDS = ["-1", "0", "1", "2", "3", "7", "63", "1000", "123456789", "4294967296", "-9223372036854775809", "1e999", "nan"]
WORDS += ["inf", "0x1", "1.5", "turn", "collect", "expval", "probs", "state", "hqf1", "series2", "\\u00e9", "+1", "1e"]


def run(kind, text, n_inputs, n_parameters):
    if kind == "propagation":
        weights = torch.zeros(2, n_parameters, dtype=torch.float64)
        result = ops.propagation_forward(weights, text)
        ops.propagation_backward(torch.ones_like(result), weights, text)
        return
    inputs, parameters = torch.zeros(3, n_inputs), torch.zeros(n_parameters)
    forward, backward = (getattr(ops, f"{kind}_{way}") for way in ("forward", "backward"))
    result = forward(inputs, parameters, text, 1, [])
    backward(torch.ones_like(result), inputs, parameters, text, 1, [])


def mutate(words, rng):
    words = list(words)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        k = rng.randrange(len(words))
        change = rng.randrange(5)
        if change == 0:
            words[k] = rng.choice(WORDS)
        elif change == 1:
            words.insert(k, rng.choice(WORDS))
        elif change == 2 and len(words) > 1:
            del words[k]
        elif change == 3:
            other = rng.randrange(len(words))
            words[k], words[other] = words[other], words[k]
        else:
            words[k] = words[k][:-1] + rng.choice("0123456789-. e")
    return " ".join(words)


def refused(kind, text, *sizes):
    try:
        run(kind, text, *sizes)
    except (ValueError, RuntimeError):
        return True
    return False


rng = random.Random(0)
accepted, tried = [], 0
for kind, text, *sizes in json.load(open(sys.argv[1])):
    assert not refused(kind, text, *sizes), f"{kind}: the good text is refused"
    words = text.split(" ")
    cuts = range(len(words)) if len(words) < 60 else rng.sample(range(len(words)), 60)
    for count in cuts:
        if not refused(kind, " ".join(words[:count]), *sizes):
            accepted.append((kind, count))
    for _ in range(150):
        refused(kind, mutate(words, rng), *sizes)
        refused(kind, text[: rng.randrange(len(text))], *sizes)
        tried += 2
    for other in ("gate", "fourier", "propagation"):
        if other != kind and not refused(other, text, *sizes):
            accepted.append((kind, other))
    assert not refused(kind, text, *sizes), f"{kind}: the good text is refused afterwards"
print(json.dumps([accepted, tried]))
"""


def test_bad_texts_are_refused(native, tmp_path):
    """In a process of its own, which a bad text must not bring down."""
    texts = []
    for circuit in (CIRCUITS["local"], CIRCUITS["uploaded again"], CIRCUITS["no inputs"]):
        polynomials, recipe = prepare(circuit)
        series = Series(circuit.n_inputs, (polynomials,))
        texts.append(("fourier", series.text, circuit.n_inputs, series.n_parameters))
        texts.append(("propagation", recipe.text, circuit.n_inputs, circuit.n_weights))
        for measurement in ("expval", "probs", "state"):
            texts.append(("gate", lower(circuit.text, measurement), circuit.n_inputs, circuit.n_weights))
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(texts))
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    accepted, tried = json.loads(done.stdout)
    assert accepted == []
    assert tried > 4000
