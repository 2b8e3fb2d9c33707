"""The Fourier engine: against the reference on all circuits that it takes, and refusals of those that it does not."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz, costs, ops
from hqfkernels.engines import fourier
from hqfkernels.engines.fourier import MAX_TERMS, Grid, recipe
from hqfkernels.program import Program, lower
from hqfkernels.propagation import Propagation
from hqfkernels.series import MAX_DEGREE, MAX_FEATURES, MAX_PRODUCTS, Polynomials, Series, axes_of, centred
from tests import oracles

pytestmark = pytest.mark.usefixtures("threads")

FUNCTIONS = {f.__name__: partial(f, engine="fourier") for f in (hqf.expval, hqf.probs)}
REFERENCE = {f.__name__: partial(f, backend="reference") for f in (hqf.expval, hqf.probs)}
expval = FUNCTIONS["expval"]


def program_text(circuit: Circuit) -> str:
    return lower(circuit.text, "expval")


def lowered(circuit: Circuit) -> Program:
    return Program.from_text(program_text(circuit))


def polynomials(circuit: Circuit) -> Polynomials:
    return recipe(program_text(circuit)).polynomials


def series(*circuits: Circuit) -> Series:
    return Series(circuits[0].n_inputs, tuple(map(polynomials, circuits)))


def random_circuit(seed: int, n_qubits: int = 3, n_inputs: int = 2) -> Circuit:
    """Few gates per input, so that the polynomials stay small."""
    rng = np.random.default_rng(seed)
    gates = ("rx", "ry", "crz", "cx", "h", "rzz", "cry", "sx")
    body = oracles.random_circuit(rng, n_qubits, 12, 0, 5, gates=gates)
    circuit = Circuit(n_qubits)
    for position, gate in enumerate(body.gates):
        if position % 4 == 1:
            multiple = float(rng.choice([1, 1, 2, -1, 0.5]))
            circuit.ry(multiple * Input(position // 4 % n_inputs) + Weight(0), int(rng.integers(n_qubits)))
        circuit.append(gate.name, gate.angles, gate.qubits)
    return circuit.measure(*body.observables)


def parameters(circuit: Circuit, *batch: int, groups=(), dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 2 * torch.randn(*batch, circuit.n_inputs, dtype=dtype), 2 * torch.randn(
        *groups, circuit.n_weights, dtype=dtype
    )


def gradients(function, *tensors: torch.Tensor, slope: torch.Tensor | None = None) -> list[torch.Tensor]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    value = function(*leaves)
    if slope is None:
        slope = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).view(value.shape)
    grads = torch.autograd.grad((value * slope.to(value.dtype)).sum(), leaves, materialize_grads=True)
    return [value.detach(), *grads]


def assert_agrees(circuit: Circuit, inputs, weights, function: str = "expval", tolerance: float | None = None) -> None:
    actual = gradients(partial(FUNCTIONS[function], circuit), inputs, weights)
    expected = gradients(partial(REFERENCE[function], circuit), inputs.double(), weights.double())
    limit = tolerance or (1e-10 if inputs.dtype == torch.float64 else 2e-5)
    stored = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6}
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a.double(), e, atol=(limit + stored.get(a.dtype, 0.0)) * scale, rtol=0)


# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_random_circuits(seed, function, dtype):
    circuit = random_circuit(seed)
    assert_agrees(circuit, *parameters(circuit, 19, dtype=dtype), function)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", [1, 3, 15, 16, 17, 33, 257])
def test_batch_sizes(batch, dtype):
    circuit = ansatz.local_circuit((2, 2), 2)
    assert_agrees(circuit, *parameters(circuit, batch, dtype=dtype))


@pytest.mark.parametrize(
    "circuit",
    [
        ansatz.local_circuit((2, 2), 3),
        ansatz.global_circuit(4, 2),
        ansatz.directional_circuit((2, 2), "diagonal", 2),
        ansatz.strongly_entangling(5, 2),
        ansatz.basic_entangler(6, 2),
        ansatz.local_circuit((1, 7), 1),
        ansatz.angle_encoding(1),
    ],
    ids=["local", "global", "directional", "strong", "basic", "seven qubits", "one qubit"],
)
def test_templates(circuit):
    assert_agrees(circuit, *parameters(circuit, 20))


# --- degrees and units ------------------------------------------------------------------------------------------------


def reuploading() -> Circuit:
    circuit = Circuit(2)
    for layer in range(3):
        circuit.ry(Input(0), 0).rx(Input(1), 1).ry(Weight(layer), 0).cx(0, 1).rx(Weight(3 + layer), 0)
    return circuit


UNITS = {
    "once": (Circuit(1).ry(Input(0), 0).rx(Weight(0), 0), [(1.0, 1)]),
    "three times, with and without CX between": (reuploading(), [(1.0, 3), (3.0, 1)]),
    "twice the input": (Circuit(1).ry(2 * Input(0), 0).rx(Weight(0), 0), [(2.0, 1)]),
    "negative multiple": (Circuit(1).ry(-3 * Input(0), 0).rx(Weight(0), 0), [(3.0, 1)]),
    "two and three": (Circuit(1).ry(2 * Input(0), 0).rx(Weight(0), 0).ry(3 * Input(0), 0), [(1.0, 5)]),
    "two thirds": (Circuit(1).ry(Input(0) / 3, 0).rx(Weight(0), 0).ry(Input(0) / 2, 0), [(1 / 6, 5)]),
    "controlled": (Circuit(2).h(0).ry(0.4, 1).crx(Input(0), 0, 1).ry(Weight(0), 0), [(0.5, 2)]),
    "two inputs in one angle": (
        Circuit(1).ry(Input(0) + 2 * Input(1), 0).rx(Weight(0), 0).ry(Input(1), 0),
        [(1.0, 1), (1.0, 3)],
    ),
}


@pytest.mark.parametrize("name", UNITS)
def test_degrees_and_units(name):
    circuit, expected = UNITS[name]
    axes = axes_of(lowered(circuit))
    assert [a.degree for a in axes] == [degree for _, degree in expected]
    assert [a.unit for a in axes] == pytest.approx([unit for unit, _ in expected])
    assert_agrees(circuit, *parameters(circuit, 21))
    assert_agrees(circuit, *parameters(circuit, 21, dtype=torch.float32))


def test_inputs_that_no_observable_sees_have_no_axis():
    circuit = ansatz.angle_encoding(12).cx(0, 1).rx(Weight(0), 2).measure("ZIIIIIIIIIII", "IIZIIIIIIIII")
    assert [axis.input for axis in polynomials(circuit).axes] == [0, 2]
    inputs, weights = parameters(circuit, 9)
    assert_agrees(circuit, inputs, weights)


# --- sparsity ---------------------------------------------------------------------------------------------------------


def test_terms_that_vanish_for_all_weights_are_left_out():
    product = ansatz.angle_encoding(4)
    for q in range(4):
        product.ry(Weight(q), q)
    assert polynomials(product).n_terms == 4  # one cosine, of x + w, for each qubit
    assert_agrees(product, *parameters(product, 17))


def test_shared_angles_move_into_the_variables():
    """Also where an input comes again, with other multiples, or shares its rotation with another one."""
    circuit = Circuit(2).ry(2 * Input(0) + Weight(0) - 0.3, 0).rx(Input(1) - Input(0) + Weight(1), 1)
    circuit.cx(0, 1).ry(Input(0) + Weight(2), 0).rx(Weight(3), 1).ry(3 * Input(1), 1)
    plain, shifts = centred(lowered(circuit))
    assert set(shifts) == {0, 1}
    assert all(shift.weights for shift in shifts.values())
    assert not any(shift.inputs for shift in shifts.values())
    with_inputs = [r.angle for r in plain.rotations if r.angle.inputs]
    assert sum(not angle.weights and not angle.constant for angle in with_inputs) == 2
    assert_agrees(circuit, *parameters(circuit, 17))


def test_a_grid_of_states_that_no_kernel_holds(monkeypatch):
    """Kernels would refuse the program, and name its text."""
    circuit = Circuit(2).ry(Input(0), 0).crx(Weight(0), 0, 1).ry(Input(0) + Weight(1), 1)
    program = Program.from_text(lowered(circuit).text)
    grid = fourier._grid(program, fourier._dense(axes_of(program), program.n_outputs))
    weights = torch.rand(3, 2, dtype=torch.float64)
    wanted = grid.parameters(weights)
    slopes = torch.randn_like(wanted)
    wanted_slopes = grid.adjoint(slopes, weights)
    ran = []

    def noted(name, *arguments):
        ran.append(name)
        return plain[name](*arguments)

    plain = dict(ops.PLAIN)
    for name in plain:
        monkeypatch.setitem(ops.PLAIN, name, partial(noted, name))
    monkeypatch.setattr("hqfkernels.engines.gate.MAX_NATIVE_QUBITS", 1)
    torch.testing.assert_close(grid.parameters(weights), wanted)
    torch.testing.assert_close(grid.adjoint(slopes, weights), wanted_slopes)
    assert [name for name in ran if name.startswith("gate")] == ["gate_forward", "gate_backward"]


@pytest.mark.parametrize("value", [0.0, math.pi / 2, 1.0])
def test_terms_survive_at_special_weights(value):
    """Where a term happens to vanish at some weights, its gradient need not."""
    circuit = ansatz.local_circuit((2, 2), 2)
    inputs, weights = parameters(circuit, 9)
    assert_agrees(circuit, inputs, torch.full_like(weights, value))


def test_terms_that_need_large_weights_are_kept():
    circuit = Circuit(8).ry(Input(0), 0)
    for k in range(1, 8):
        circuit.rx(0.01 * Weight(k - 1), k)
    circuit.measure("XYYYYYYY")
    inputs, _ = parameters(circuit, 5)
    assert_agrees(circuit, inputs, torch.full((7,), 50 * math.pi - 1, dtype=torch.float64))


def test_polynomials_that_vanish():
    circuit = Circuit(2).ry(Input(0), 0).ry(Weight(0), 0).measure("IX", "ZI")
    assert list(map(len, polynomials(circuit).terms)) == [0, 1]
    assert_agrees(circuit, *parameters(circuit, 5))


def test_text_round_trip():
    for circuits in ((random_circuit(0),), (reuploading(),), (ansatz.local_circuit(), ansatz.global_circuit(4))):
        assert Series.from_text(series(*circuits).text) == series(*circuits)
    with pytest.raises(ValueError, match="series2"):
        Series.from_text("series0 1 1 0 0 0")


# --- where the parameters come from -----------------------------------------------------------------------------------


def test_few_strings_are_propagated_and_many_give_way_to_a_grid():
    shallow, deep = ansatz.local_circuit((2, 2), 2), ansatz.strongly_entangling(6, 8)
    assert isinstance(recipe(program_text(shallow)).source, Propagation)
    assert isinstance(recipe(program_text(deep)).source, Grid)
    assert polynomials(deep).n_terms == 6 * 3**6  # what strings there are is not known, so every term is kept
    assert_agrees(deep, *parameters(deep, 9))


@pytest.mark.parametrize("groups", [(), (3,)])
@pytest.mark.parametrize("measurement", ["expval", "probs"])
@pytest.mark.parametrize("seed", range(8))
def test_both_sources_give_the_same_parameters(seed, measurement, groups):
    circuit = random_circuit(seed)
    program = lower(circuit.text, measurement)
    found = recipe(program)
    grid = fourier._grid(Program.from_text(program), found.polynomials)
    assert isinstance(found.source, Propagation)
    weights = parameters(circuit, groups=groups)[1]
    values = found.parameters(weights)
    torch.testing.assert_close(grid.parameters(weights), values, atol=1e-12, rtol=0)
    slope = torch.randn_like(values)
    torch.testing.assert_close(grid.adjoint(slope, weights), found.adjoint(slope, weights), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("own", "state"), enumerate([FakeTensorMode, lambda: torch.device("meta"), torch.inference_mode])
)
def test_what_is_in_force_at_the_first_call_does_not_stay(own, state):
    circuit = Circuit(6).ry(Input(0), 0).ry(Input(1), 1).rz(1.25 + own, 0)  # a circuit that no other test has run
    weights = map(Weight, range(90))
    for _ in range(5):
        for q in range(6):
            circuit.rot(next(weights), next(weights), next(weights), q)
        for q in range(6):
            circuit.cx(q, (q + 1) % 6)
    inputs, values = parameters(circuit, 5)
    with state() as mode:
        given = [mode.from_tensor(t) if state is FakeTensorMode else t for t in (inputs, values)]
        assert expval(circuit, *given).shape == (5, 6)
    assert isinstance(recipe(program_text(circuit)).source, Grid)
    assert_agrees(circuit, inputs, values)


@pytest.mark.parametrize("seed", range(8))
def test_terms_that_are_left_out_are_zero(seed):
    circuit = random_circuit(seed)
    kept = polynomials(circuit)
    dense = fourier._dense(kept.axes, circuit.n_observables)
    weights = parameters(circuit, groups=(5,))[1]
    values = fourier._grid(lowered(circuit), dense).parameters(weights)
    index = [
        k
        for k, term in enumerate((o, *t) for o, terms in enumerate(dense.terms) for t in terms)
        if term[1:] not in kept.terms[term[0]]
    ]
    assert len(index) == dense.n_terms - kept.n_terms
    assert values[:, index].abs().max() < 1e-12 if index else True


# --- layouts, dtypes, sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), (1,), (3,), (11, 1), (11, 3), (2, 1, 1), (2, 1, 3), (2, 11, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_per_group(groups, dtype):
    circuit = ansatz.local_circuit((2, 2), 1)
    assert_agrees(circuit, *parameters(circuit, 2, 11, 3, groups=groups, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs(dtype):
    circuit = ansatz.local_circuit((2, 2), 1)
    inputs, weights = parameters(circuit, 35)
    assert expval(circuit, inputs.to(dtype), weights.float()).dtype == torch.float32
    assert_agrees(circuit, inputs.to(dtype), weights.float())


@pytest.mark.parametrize("batch", [(0,), (3, 0)])
@pytest.mark.parametrize("groups", [(), (0,)])
def test_empty_batches(batch, groups):
    circuit = ansatz.local_circuit()
    inputs, weights = parameters(circuit, *batch, groups=groups)
    values, grad_inputs, grad_weights = gradients(partial(expval, circuit), inputs, weights)
    assert values.shape == (*batch, 4)
    assert grad_inputs.shape == inputs.shape
    assert torch.equal(grad_weights, torch.zeros_like(weights))


def test_strided_inputs_and_gradients():
    circuit = ansatz.local_circuit()
    inputs, weights = parameters(circuit, 6, 5)
    slope = torch.randn(4, 5, 6, dtype=torch.float64).movedim(0, -1).transpose(0, 1)
    expected = gradients(partial(expval, circuit), inputs, weights, slope=slope.contiguous())
    strided = inputs.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    actual = gradients(partial(expval, circuit), strided, weights, slope=slope)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e4, 1.01e5, 1e8])
def test_large_angles(size, dtype):
    circuit = ansatz.local_circuit((2, 2), 2)
    inputs, weights = parameters(circuit, 20, dtype=dtype)
    wide = size * inputs
    wide[::3] = inputs[::3]
    assert_agrees(circuit, wide, weights)
    assert_agrees(circuit, inputs, size * weights, tolerance=1e-7 if dtype == torch.float64 else None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_bad_sample_touches_no_other(dtype, bad):
    circuit = ansatz.local_circuit((2, 2), 2)
    inputs, weights = parameters(circuit, 40, dtype=dtype)
    clean = gradients(partial(expval, circuit), inputs, weights)
    sick = [5, 16, 39]
    inputs[sick, 1] = bad
    mixed = gradients(partial(expval, circuit), inputs, weights)
    others = [b for b in range(40) if b not in sick]
    assert mixed[0][sick].isnan().any(-1).all()
    for before, after in zip(clean[:2], mixed[:2], strict=True):
        assert torch.equal(before[others], after[others])
    again = gradients(partial(expval, circuit), parameters(circuit, 40, dtype=dtype)[0], weights)
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))


@pytest.mark.parametrize("groups", [(), (3,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_results_are_bitwise_equal_for_any_number_of_threads(groups, dtype, threads):
    circuit = ansatz.local_circuit((2, 2), 2)
    inputs, weights = parameters(circuit, 2000, 3, groups=groups, dtype=dtype)
    torch.set_num_threads(1)
    once = gradients(partial(expval, circuit), inputs, weights)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        again = gradients(partial(expval, circuit), inputs, weights)
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert_agrees(circuit, inputs, weights)


# --- refusals and routing ---------------------------------------------------------------------------------------------


def many_features(half: int) -> Circuit:
    """Every product of 1, cosine and sine of ``half`` inputs, for each half of them."""
    circuit = Circuit(2 * half)
    for q in range(2 * half):
        circuit.ry(Input(q), q).rx(Weight(0), q).rz(Weight(1), q).ry(Input(q), q)
    return circuit.measure("Z" * half + "I" * half, "I" * half + "Z" * half)


def many_products() -> Circuit:
    """Degree 1001 in each of five inputs."""
    circuit = Circuit(1)
    for k in range(5):
        circuit.ry(1000 * Input(k), 0).rx(Weight(0), 0).ry(Input(k), 0).rz(Weight(1), 0)
    return circuit


REFUSED = {
    "amplitudes": (Circuit(2).amplitudes().ry(Weight(0), 0), "amplitude encoding"),
    "no common unit": (Circuit(1).ry(Input(0), 0).rx(Weight(0), 0).ry(math.sqrt(2) * Input(0), 0), "no common unit"),
    "too high a degree": (
        Circuit(1).ry(1500 * Input(0), 0).rx(Weight(0), 0).ry(Input(0), 0),
        f"a degree of more than {MAX_DEGREE} in input 0",
    ),
    "too many terms": (ansatz.strongly_entangling(10, 4), f"590490 terms, more than {MAX_TERMS}"),
    "too many features": (many_features(8), f"6561 products of features, more than {MAX_FEATURES}"),
    "products without number": (many_products(), f"8036054027 products of features, more than {MAX_PRODUCTS}"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_circuits_it_cannot_take_are_refused_by_name(name):
    circuit, reason = REFUSED[name]
    inputs, weights = parameters(circuit, 5)
    with pytest.raises(ValueError, match=f"engine 'fourier' refuses the circuit: .*{reason}"):
        expval(circuit, inputs, weights)
    with pytest.raises(ValueError, match=reason):
        hqf.explain(circuit, inputs, weights, engine="fourier")
    plan = hqf.explain(circuit, inputs.expand(10**7, 5, -1)[:, 0], weights)
    assert plan.engine != "fourier"
    assert reason in dict(plan.reasons)["fourier"]
    torch.testing.assert_close(
        hqf.expval(circuit, inputs, weights), hqf.expval(circuit, inputs, weights, backend="reference")
    )


def test_shallow_circuits_of_any_size_are_taken(native):
    """Of all products of features they need few."""
    circuit = ansatz.basic_entangler(16, 1)
    inputs, weights = parameters(circuit, 2)
    assert max(polynomials(circuit).n_products) < 16 < MAX_FEATURES < 3**8
    assert hqf.explain(circuit, inputs, weights).engine == "fourier"
    assert_agrees(circuit, inputs, weights)
    with pytest.raises(ValueError, match=f"6561 products of features, more than {MAX_FEATURES}"):
        hqf.nn.CircuitLayer(circuit).export()


def test_how_many_strings_may_be_turned_depends_on_the_price_of_simulation(monkeypatch):
    program = program_text(ansatz.strongly_entangling(4, 2))
    source = recipe.__wrapped__(program).source
    assert isinstance(source, Propagation)

    def given_up(free: int, worth: float, most: int) -> bool:
        for name, value in (("FREE_PAIRS", free), ("WORTH", worth), ("MAX_PAIRS", most)):
            monkeypatch.setattr(fourier, name, value)
        found = recipe.__wrapped__(program)
        return found.polynomials.n_terms == 4 * 3**4 and isinstance(found.source, Grid)

    assert [given_up(source.n_pairs, 0, 10**6), given_up(source.n_pairs - 1, 0, 10**6)] == [False, True]
    assert [given_up(0, 1e6, source.n_pairs), given_up(0, 1e6, source.n_pairs - 1)] == [False, True]


def test_states_are_refused():
    circuit = ansatz.local_circuit()
    with pytest.raises(ValueError, match="engine 'fourier' refuses the circuit"):
        hqf.statevector(circuit, *parameters(circuit, 3), engine="fourier")


def test_the_planner_takes_it_for_large_batches(native, recorder):
    circuit = ansatz.local_circuit((2, 2), 3)
    inputs, weights = parameters(circuit, 1)
    chosen = {}
    for samples in (1, 10**7):
        plan = hqf.explain(circuit, inputs.expand(samples, -1), weights)
        chosen[samples] = plan.engine
        assert set(dict(plan.costs)) == {"gate", "fourier", "unitary"}
        assert "engine " + plan.engine in str(plan)
    assert chosen == {1: "gate", 10**7: "fourier"}
    many = torch.randn(50000, 4)
    assert hqf.explain(circuit, many, weights.float()).engine == "fourier"
    with recorder:
        auto = hqf.expval(circuit, many, weights.float())
    assert "hqfkernels.fourier_forward" in recorder.names
    gate = hqf.expval(circuit, many, weights.float(), engine="gate")
    torch.testing.assert_close(auto, gate, atol=1e-5, rtol=0)
    # One set of weights for each sample leaves nothing to share.
    assert hqf.explain(circuit, many, torch.randn(50000, circuit.n_weights)).engine == "gate"


@pytest.mark.parametrize("n_qubits", [5, 6, 7])
@pytest.mark.parametrize("layers", [2, 3, 10])
def test_the_planner_simulates_many_sets_of_weights_without_inputs(n_qubits, layers, native):
    """Neither the grid of a set nor its propagation comes at the price of one sample."""
    circuit = Circuit(n_qubits)
    for k in range(layers * n_qubits):
        q = k % n_qubits
        circuit.ry(Weight(2 * k), q).rz(Weight(2 * k + 1), q).cx(q, (q + 1) % n_qubits)
    plan = hqf.explain(circuit, torch.zeros(1000, 0), torch.zeros(1000, circuit.n_weights))
    assert plan.engine == "gate"
    assert dict(plan.costs).get("fourier", math.inf) > 2 * dict(plan.costs)["gate"]


def test_lanes_that_stay_empty_are_charged(native):
    """One sample of a large register takes as long as a vector of them."""
    circuit = ansatz.strongly_entangling(14, 2)
    cost = {
        samples: dict(hqf.explain(circuit, torch.zeros(samples, 14), torch.zeros(circuit.n_weights)).costs)["gate"]
        for samples in (1, costs.LANES, 2 * costs.LANES)
    }
    assert cost[1] == cost[costs.LANES] < cost[2 * costs.LANES]


# --- inside torch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("groups", [(), (3,)])
def test_opcheck(dtype, groups):
    circuit = ansatz.local_circuit()
    inputs, weights = parameters(circuit, 5, 3, groups=groups, dtype=dtype)
    text, program = series(circuit).text, program_text(circuit)
    ops = torch.ops.hqfkernels
    own = ops.fourier_parameters(weights, program)
    value = ops.fourier_forward(inputs, own, text, 1, [])
    torch.library.opcheck(ops.fourier_backward.default, (value, inputs, own, text, 1, []))
    torch.library.opcheck(ops.fourier_parameters_backward.default, (own, weights, program))
    torch.library.opcheck(ops.fourier_forward.default, (inputs.requires_grad_(), own.requires_grad_(), text, 1, []))
    torch.library.opcheck(ops.fourier_parameters.default, (weights.requires_grad_(), program))


@pytest.mark.parametrize("groups", [(), (2,)])
def test_gradcheck(groups):
    circuit = reuploading()
    leaves = [p.requires_grad_() for p in parameters(circuit, 3, 2, groups=groups)]
    assert torch.autograd.gradcheck(partial(expval, circuit), leaves, fast_mode=True)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
def test_double_backward_is_refused(first, second):
    circuit = reuploading()
    leaves = [p.requires_grad_() for p in parameters(circuit, 5)]
    (grad,) = torch.autograd.grad(expval(circuit, *leaves).square().sum(), leaves[first], create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(grad.sum(), leaves[second])


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_vmap(in_dims):
    circuit = reuploading()
    inputs, weights = parameters(circuit, 5)
    if in_dims[0] is not None:
        inputs = torch.randn(6, 5, circuit.n_inputs, dtype=torch.float64).movedim(0, in_dims[0])
    if in_dims[1] is not None:
        weights = torch.randn(6, circuit.n_weights, dtype=torch.float64).movedim(0, in_dims[1])
    actual, expected = (
        gradients(torch.func.vmap(partial(f["expval"], circuit), in_dims=in_dims), inputs, weights)
        for f in (FUNCTIONS, REFERENCE)
    )
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


def test_batched_gradients():
    circuit = reuploading()
    jacobians = []
    for function in (FUNCTIONS["expval"], REFERENCE["expval"]):
        leaves = [p.requires_grad_() for p in parameters(circuit, 4)]
        value = function(circuit, *leaves)
        units = torch.eye(value.numel(), dtype=value.dtype).view(-1, *value.shape)
        jacobians.append(torch.autograd.grad(value, leaves, units, is_grads_batched=True))
    torch.testing.assert_close(*jacobians, atol=1e-10, rtol=0)


@pytest.mark.parametrize("groups", [(), (3,)])
def test_compile(groups):
    circuit = ansatz.local_circuit()
    inputs, weights = parameters(circuit, 12, 3, groups=groups)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, w: 2 * expval(circuit, x, w), fullgraph=True, backend="aot_eager")
    actual = gradients(compiled, inputs, weights)
    torch.testing.assert_close(actual, gradients(lambda x, w: 2 * expval(circuit, x, w), inputs, weights))
    for samples in (7, 50):  # other batch sizes
        inputs, weights = parameters(circuit, samples, 3, groups=groups)
        torch.testing.assert_close(compiled(inputs, weights), 2 * expval(circuit, inputs, weights))


def everything() -> list[torch.Tensor]:
    """Values and gradients for another process to compare with (test_variants.py)."""
    results = []
    for circuit, groups in ((random_circuit(1), ()), (ansatz.local_circuit((2, 2), 2), (3,)), (reuploading(), (20, 1))):
        for dtype in (torch.float64, torch.float32):
            results += gradients(partial(expval, circuit), *parameters(circuit, 20, 3, groups=groups, dtype=dtype))
    return results
