"""The compiled gate engine against the plain-torch reference, over circuits, sizes, layouts and dtypes."""

import math
from functools import partial

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from tests import oracles

pytestmark = pytest.mark.usefixtures("native", "threads")

BATCHES = (1, 3, 15, 16, 17, 33, 257)  # around the lane counts 2, 4, 8, 16
expval, probs, statevector = (partial(f, engine="gate") for f in (hqf.expval, hqf.probs, hqf.statevector))
FUNCTIONS = {"expval": expval, "probs": probs}
KINDS = [
    ("rx", "ry", "rxx"),
    ("rx", "rz", "cz", "h"),
    ("ry", "rz", "rzz", "cp"),
    ("ry", "cx", "cry"),
    ("unitary",),
    ("crx", "ryy", "sx", "swap"),
]
LARGE = [1e4, 0.99e5, 1.01e5, 1e8]
"""Angles around the size from which on they are reduced in another way."""


def random_circuit(
    seed: int, n_qubits: int, n_gates: int = 30, n_inputs: int = 3, n_weights: int = 4, **options
) -> Circuit:
    return oracles.random_circuit(np.random.default_rng(seed), n_qubits, n_gates, n_inputs, n_weights, **options)


def layered(n_qubits: int, depth: int) -> Circuit:
    """RY encoding, then layers of RY, RZ and a ring of CNOTs."""
    circuit = ansatz.angle_encoding(n_qubits)
    weights = iter(range(2 * n_qubits * depth))
    for _ in range(depth):
        for q in range(n_qubits):
            circuit.ry(Weight(next(weights)), q).rz(Weight(next(weights)), q)
        for q in range(n_qubits if n_qubits > 1 else 0):
            circuit.cx(q, (q + 1) % n_qubits)
    return circuit


def parameters(
    circuit: Circuit, batch, groups=(), dtype=torch.float64, weight_dtype=None
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    inputs = 2 * torch.randn(*batch, circuit.n_inputs, dtype=torch.float64)
    weights = 2 * torch.randn(*groups, circuit.n_weights, dtype=torch.float64)
    return inputs.to(dtype), weights.to(weight_dtype or dtype)


def evaluate(circuit, inputs, weights, function="expval", backend="cpu", slope=None):
    """Values and the gradients of their sum weighted by ``slope``."""
    inputs, weights = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
    values = FUNCTIONS[function](circuit, inputs, weights, backend=backend)
    if slope is None:
        slope = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad((values * slope.to(values.dtype)).sum(), (inputs, weights), materialize_grads=True)
    return [values.detach(), *grads]


def assert_agrees(circuit, inputs, weights, function="expval", tolerance=None):
    """The engine's values and gradients are those of the reference in float64, for the same numbers."""
    actual = evaluate(circuit, inputs, weights, function)
    expected = evaluate(circuit, inputs.double(), weights.double(), function, "reference")
    computed = 1e-10 if inputs.dtype == torch.float64 else 2e-5
    stored = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float32: 1e-6}
    for a, e, dtype in zip(actual, expected, (actual[0].dtype, inputs.dtype, weights.dtype), strict=True):
        assert a.dtype == dtype
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        limit = (tolerance or computed) + stored.get(dtype, 0.0)
        torch.testing.assert_close(a.double(), e, atol=limit * scale, rtol=0)


# --- circuits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("n_qubits", range(1, 9))
def test_random_circuits(n_qubits, function, dtype):
    for seed in range(2 if n_qubits < 7 else 1):
        circuit = random_circuit(10 * n_qubits + seed, n_qubits, n_observables=6)
        batch = BATCHES[(n_qubits + seed) % len(BATCHES)] if n_qubits < 6 else 17
        assert_agrees(circuit, *parameters(circuit, (batch,), dtype=dtype), function)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", BATCHES)
def test_batch_sizes(batch, dtype):
    circuit = random_circuit(3, 4)
    assert_agrees(circuit, *parameters(circuit, (batch,), dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_qubits", [1, 2, 3, 4, 6, 8])
def test_layered_circuits(n_qubits, dtype):
    circuit = layered(n_qubits, 2 if n_qubits > 6 else 3)
    assert_agrees(circuit, *parameters(circuit, (37 if n_qubits < 6 else 17,), dtype=dtype))


@pytest.mark.parametrize(("n_qubits", "dtype"), [(11, torch.float32), (12, torch.float64), (14, torch.float32)])
def test_registers_beyond_the_caches(n_qubits, dtype):
    circuit = layered(n_qubits, 1).rxx(Input(0), 0, n_qubits - 1).ry(Weight(0), 1)
    circuit.measure("Z" * n_qubits, "X" + "I" * (n_qubits - 1), "I" * (n_qubits - 2) + "YZ")
    assert_agrees(circuit, *parameters(circuit, (3,), dtype=dtype))


def test_twenty_qubits():
    circuit = ansatz.angle_encoding(20)
    for q in range(19):
        circuit.cz(q, q + 1)
    circuit.rx(Weight(0), 7)
    inputs, weights = parameters(circuit, (2,), dtype=torch.float32)
    inputs.requires_grad_()
    total = probs(circuit, inputs, weights, backend="cpu").double().sum(-1)
    torch.testing.assert_close(total, torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
    values = expval(circuit, inputs, weights, backend="cpu")
    # RX behind CZ with both neighbours: <Z> = cos w cos x - sin w <Y>, and <Y> vanishes for a real state.
    expected = inputs.cos() * torch.where(torch.arange(20) == 7, weights.cos(), 1.0)
    torch.testing.assert_close(values, expected, atol=5e-5, rtol=0)
    (grad,) = torch.autograd.grad(values.sum(), inputs)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), inputs)[0], atol=5e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_deep_real_circuit_keeps_its_norm(function, dtype):
    """250 shared rotations in a row: the factors divided out of each are made up for again and again."""
    circuit = ansatz.basic_entangler(5, 50, "y")
    inputs, weights = parameters(circuit, (5,), dtype=dtype)
    assert_agrees(circuit, inputs, weights, function, tolerance=1e-4 if dtype == torch.float32 else 1e-10)
    total = probs(circuit, inputs, weights, backend="cpu").sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("offset", [0.0, 1e-3, -1e-3, 1e-9])
def test_shared_rotations_near_quarter_and_half_turns(offset):
    """Either of cos and sin may be the one that is divided out, and may be zero."""
    circuit = ansatz.basic_entangler(3, 16, "y")
    turns = math.pi / 2 * torch.arange(circuit.n_weights, dtype=torch.float64) % 9
    inputs, _ = parameters(circuit, (9,))
    assert_agrees(circuit, inputs, turns + offset)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("gates", KINDS, ids=" ".join)
def test_kinds_of_gates(gates, function):
    for seed, n_qubits in enumerate((2, 4, 5)):
        circuit = random_circuit(seed, n_qubits, 40, 2, 0 if gates == ("unitary",) else 3, gates=(*gates, "ry"))
        assert_agrees(circuit, *parameters(circuit, (19,)), function)


def test_phases_of_samples_between_mixing_layers():
    circuit = ansatz.angle_encoding(4)
    for layer in range(3):
        for q in range(4):
            circuit.rz(Input(q), q).rzz(2 * Input(q) + Weight(layer), q, (q + 1) % 4)
        for q in range(4):
            circuit.rx(Weight(4 * layer + q), q).ry(Input(q) - Weight(q), q)
    assert_agrees(circuit, *parameters(circuit, (33,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_amplitude_encoding(function, dtype):
    for seed, n_qubits in enumerate((1, 3, 5)):
        circuit = random_circuit(seed, n_qubits, amplitudes=True)
        assert_agrees(circuit, *parameters(circuit, (18,), dtype=dtype), function)
    short = Circuit(3).amplitudes(2, 5).ry(Input(0), 1).rx(Input(3), 2).rz(Weight(0), 0).rx(Weight(1), 0).cx(0, 1)
    assert_agrees(short, *parameters(short, (7,), dtype=dtype), function)


def test_observables_of_every_kind():
    strings = ("ZIII", "ZIII", "IZII", "ZZII", "IIII", "XIII", "IYIZ", "XYZX", "ZZZZ", "IIZZ", "YYII", "IIZI", "ZIII")
    circuit = random_circuit(11, 4).measure(*strings)
    assert circuit.n_observables == 17
    assert_agrees(circuit, *parameters(circuit, (21,)))
    assert_agrees(layered(4, 2).measure(*strings), *parameters(layered(4, 2), (21,)))


@pytest.mark.parametrize("string", ["ZZZ", "IZI", "XXX", "YII", "III"])
def test_one_observable(string):
    circuit = layered(3, 2).measure(string)
    assert_agrees(circuit, *parameters(circuit, (9,)))


def test_observables_out_of_reach_of_the_state():
    """The state never leaves the span of one rotation, where <X> on an idle qubit vanishes."""
    circuit = Circuit(3).ry(Input(0), 0).cx(0, 2).ry(Weight(0), 0).cx(0, 2).measure("IXI", "IZI", "ZII", "XIX", "IYY")
    assert_agrees(circuit, *parameters(circuit, (5,)))


def test_circuits_that_lower_to_nothing():
    circuit = Circuit(2).h(0).rz(Weight(0), 1).p(Input(0), 1).measure("XI", "IZ", "YI")
    assert_agrees(circuit, *parameters(circuit, (6,)))
    assert_agrees(circuit, *parameters(circuit, (6,)), "probs")


def test_circuits_without_inputs_or_weights():
    no_inputs = Circuit(2).ry(Weight(0), 0).cx(0, 1).rx(Weight(1), 1)
    assert_agrees(no_inputs, *parameters(no_inputs, (5,)))
    assert_agrees(no_inputs, *parameters(no_inputs, ()))
    no_weights = ansatz.angle_encoding(3, "x").cx(0, 1)
    assert_agrees(no_weights, *parameters(no_weights, (5,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_states(dtype):
    for seed, (n_qubits, amplitudes) in enumerate([(1, False), (3, True), (4, False), (6, False)]):
        circuit = random_circuit(seed, n_qubits, amplitudes=amplitudes)
        inputs, weights = parameters(circuit, (9,), dtype=dtype)
        actual = statevector(circuit, inputs, weights, backend="cpu")
        expected = statevector(circuit, inputs.double(), weights.double(), backend="reference")
        assert actual.dtype == dtype.to_complex()
        tolerance = 1e-10 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(actual.to(torch.complex128), expected, atol=tolerance, rtol=0)


def test_the_oracle_of_kronecker_products_agrees():
    circuit = random_circuit(5, 3)
    inputs, weights = parameters(circuit, (2,))
    values, grad_inputs, _ = evaluate(circuit, inputs, weights, slope=torch.eye(4, dtype=torch.float64)[2].expand(2, 4))
    for b in range(2):
        expected = oracles.expval(circuit, inputs[b].numpy(), weights.numpy())
        d_inputs, _ = oracles.gradients(circuit, inputs[b].numpy(), weights.numpy())
        np.testing.assert_allclose(values[b], expected, atol=1e-10)
        np.testing.assert_allclose(grad_inputs[b], d_inputs[2], atol=1e-10)


# --- angles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", LARGE)
def test_large_angles(size, dtype):
    """Inputs that are many turns, in some lanes or in all, and weights too."""
    circuit = layered(3, 2).rz(Input(1), 1).rx(Input(2), 1)
    inputs, weights = parameters(circuit, (20,), dtype=dtype)
    wide = size * inputs
    wide[::3] = inputs[::3]
    assert_agrees(circuit, wide, weights)
    # A sum of several weights of this size has lost digits before any engine sees it.
    assert_agrees(circuit, size * inputs, size * weights, tolerance=1e-7 if dtype == torch.float64 else None)


def test_many_terms_in_one_angle():
    total = sum((Input(k) * (k + 1) for k in range(40)), start=Weight(0) * 3)
    circuit = Circuit(2).ry(total, 0).cx(0, 1).ry(total, 1).measure("ZI", "XI", "IZ")
    assert_agrees(circuit, *parameters(circuit, (17,)))
    assert_agrees(circuit, *parameters(circuit, (17,), dtype=torch.float32), tolerance=2e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bad_sample_touches_no_other(function, dtype, bad):
    circuit = random_circuit(3, 4)
    inputs, weights = parameters(circuit, (40,), dtype=dtype)
    clean = evaluate(circuit, inputs, weights, function)
    sick = [5, 16, 39]  # the last one also fills the lanes beyond the batch
    inputs[sick, 1] = bad
    mixed = evaluate(circuit, inputs, weights, function)
    others = [b for b in range(40) if b not in sick]
    assert mixed[0][sick].isnan().any(-1).all()
    for before, after in zip(clean[:2], mixed[:2], strict=True):
        assert torch.equal(before[others], after[others])
    # Nothing of it stays in the working memory either.
    again = evaluate(circuit, parameters(circuit, (40,), dtype=dtype)[0], weights, function)
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))


def test_zero_amplitudes_are_bad_in_their_sample_alone():
    circuit = Circuit(2).amplitudes().ry(Weight(0), 0)
    inputs, weights = parameters(circuit, (20,))
    clean = evaluate(circuit, inputs, weights)
    inputs[7] = 0
    mixed = evaluate(circuit, inputs, weights)
    others = torch.arange(20) != 7
    assert mixed[0][7].isnan().all()
    assert torch.equal(clean[0][others], mixed[0][others])
    assert torch.equal(clean[1][others], mixed[1][others])


# --- layouts and dtypes -----------------------------------------------------------------------------------------------

LAYOUTS = {
    "every third sample": lambda x: torch.stack([x, x + 1, x + 2], 1)[:, 0],
    "every second feature": lambda x: torch.stack([x, x + 1], -1).flatten(-2)[..., ::2],
    "features first": lambda x: x.movedim(-1, 0).contiguous().movedim(0, -1),
    "offset": lambda x: torch.cat([x[:1] + 1, x])[1:],
    "batch transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "flipped axes": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_inputs_are_read_in_place(layout, dtype, recorder):
    circuit = random_circuit(4, 3)
    inputs, weights = parameters(circuit, (6, 5), dtype=dtype, weight_dtype=torch.float32)
    strided = LAYOUTS[layout](inputs)
    assert torch.equal(strided, inputs)
    slope = torch.randn(6, 5, circuit.n_observables).mT.contiguous().mT
    expected = evaluate(circuit, inputs, weights, slope=slope)
    for a, e in zip(evaluate(circuit, strided, weights, slope=slope), expected, strict=True):
        assert torch.equal(a, e)
    with recorder:
        expval(circuit, strided, weights, backend="cpu")
    assert recorder.names == ["hqfkernels.gate_forward"]


def test_expanded_inputs_weights_and_gradients():
    circuit = random_circuit(4, 3)
    inputs, weights = parameters(circuit, (1, 5))
    actual = evaluate(circuit, inputs.expand(12, 5, -1), weights)
    expected = evaluate(circuit, inputs.expand(12, 5, -1).contiguous(), weights)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    leaf = inputs.clone().requires_grad_()
    expval(circuit, leaf.expand(12, 5, -1), weights, backend="cpu").sum().backward()
    other = inputs.clone().requires_grad_()
    expval(circuit, other.expand(12, 5, -1), weights, backend="reference").sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, atol=1e-10, rtol=0)
    shared = weights.expand(5, -1)  # one set of weights, seen as five
    torch.testing.assert_close(
        expval(circuit, inputs.expand(12, 5, -1), shared, backend="cpu"), expected[0], atol=1e-12, rtol=0
    )


def test_lazily_negated_inputs():
    circuit = random_circuit(4, 3)
    inputs, weights = parameters(circuit, (9,))
    lazy = torch.complex(inputs, -inputs).conj().imag
    assert lazy.is_neg()
    assert torch.equal(expval(circuit, lazy, weights), expval(circuit, inputs, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float64, None])
def test_half_inputs_are_computed_in_float32(dtype, weight_dtype):
    circuit = random_circuit(6, 3)
    inputs, weights = parameters(circuit, (35,), dtype=dtype, weight_dtype=weight_dtype)
    assert expval(circuit, inputs, weights, backend="cpu").dtype == torch.float32
    assert_agrees(circuit, inputs, weights)


@pytest.mark.parametrize(("dtype", "weight_dtype"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_weights_of_another_dtype(dtype, weight_dtype):
    circuit = random_circuit(6, 3)
    inputs, weights = parameters(circuit, (35,), dtype=dtype, weight_dtype=weight_dtype)
    assert expval(circuit, inputs, weights, backend="cpu").dtype == dtype
    assert_agrees(circuit, inputs, weights)


GROUPS = [(), (1,), (3,), (11, 1), (11, 3), (1, 3), (2, 1, 1), (2, 1, 3), (2, 11, 1), (2, 11, 3), (1, 1, 1)]


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_weights_per_group_and_per_sample(groups, function):
    circuit = random_circuit(8, 3)
    assert_agrees(circuit, *parameters(circuit, (2, 11, 3), groups), function)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 40])
def test_groups_of_few_and_many_samples(samples):
    """Few samples to a set of weights are computed another way than many."""
    circuit = random_circuit(8, 3)
    assert_agrees(circuit, *parameters(circuit, (samples, 4), (4,)))
    assert_agrees(circuit, *parameters(circuit, (4, samples), (4, 1), torch.float32))
    amplitudes = random_circuit(9, 2, amplitudes=True)
    assert_agrees(amplitudes, *parameters(amplitudes, (samples, 4), (4,)))


@pytest.mark.parametrize("samples", [1, 20])
def test_half_inputs_do_not_round_the_weights(samples):
    circuit = Circuit(1).ry(Input(0), 0).ry(Weight(0), 0)
    weights = torch.tensor([[1.2385], [2.7590]])
    values = expval(circuit, torch.zeros(samples, 2, 1, dtype=torch.bfloat16), weights, backend="cpu")
    torch.testing.assert_close(values, weights.cos().expand(samples, 2, 1), atol=1e-6, rtol=0)


def test_strided_weights():
    circuit = random_circuit(8, 3)
    inputs, weights = parameters(circuit, (20, 3), (3,))
    expected = evaluate(circuit, inputs, weights)
    strided = weights.mT.contiguous().mT
    assert all(torch.equal(a, e) for a, e in zip(evaluate(circuit, inputs, strided), expected, strict=True))
    sliced = torch.stack([weights, weights], -1)[..., 0]
    assert all(torch.equal(a, e) for a, e in zip(evaluate(circuit, inputs, sliced), expected, strict=True))


@pytest.mark.parametrize("batch", [(0,), (3, 0), (0, 3)])
@pytest.mark.parametrize("groups", [(), (1,), "batch"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_empty_batches(batch, groups, function):
    circuit = random_circuit(8, 3)
    inputs, weights = parameters(circuit, batch, batch if groups == "batch" else groups)
    values, grad_inputs, grad_weights = evaluate(circuit, inputs, weights, function)
    assert values.shape == (*batch, 4 if function == "expval" else 8)
    assert grad_inputs.shape == inputs.shape
    assert torch.equal(grad_weights, torch.zeros_like(weights))


def test_a_single_sample_without_batch():
    circuit = random_circuit(8, 3)
    assert_agrees(circuit, *parameters(circuit, ()))


# --- reproducibility --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [(), (3,), (1025, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_results_are_bitwise_equal_for_any_number_of_threads(groups, dtype, threads):
    circuit = layered(4, 2).rx(Weight(0), 2).rz(Input(1), 1).ry(Weight(1), 1)
    inputs, weights = parameters(circuit, (1025, 3), groups, dtype)
    torch.set_num_threads(1)
    once = evaluate(circuit, inputs, weights)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert all(torch.equal(a, b) for a, b in zip(once, evaluate(circuit, inputs, weights), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_splitting_the_batch_changes_no_bit(dtype):
    circuit = random_circuit(12, 4)
    inputs, weights = parameters(circuit, (257,), dtype=dtype)
    slope = torch.randn(257, circuit.n_observables)
    whole = evaluate(circuit, inputs, weights, slope=slope)
    for k in (16, 64, 160):
        parts = [evaluate(circuit, inputs[s], weights, slope=slope[s]) for s in (slice(k), slice(k, None))]
        for result in (0, 1):
            assert torch.equal(torch.cat([part[result] for part in parts]), whole[result])


def test_large_batch_sums_its_weight_gradients():
    """More vectors than tasks, so that a task takes several."""
    circuit = layered(2, 1)
    inputs, weights = parameters(circuit, (6000,))
    values, grad_inputs, grad_weights = evaluate(circuit, inputs, weights)
    slope = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [evaluate(circuit, inputs[k : k + 100], weights, slope=slope[k : k + 100]) for k in range(0, 6000, 100)]
    assert torch.equal(torch.cat([p[0] for p in parts]), values)
    assert torch.equal(torch.cat([p[1] for p in parts]), grad_inputs)
    torch.testing.assert_close(sum(p[2] for p in parts), grad_weights, atol=1e-10, rtol=0)


# --- for other instruction sets (test_variants.py) --------------------------------------------------------------------


def everything() -> list[torch.Tensor]:
    """Values and gradients that use every part of the kernels, like those that the tests above check."""
    short = Circuit(3).amplitudes(2, 5).ry(Input(0), 1).rx(Input(3), 2).rz(Weight(0), 0).rx(Weight(1), 0).cx(0, 1)
    cases = [(layered(n, 2 if n > 6 else 3), 37 if n < 6 else 17) for n in (1, 2, 3, 4, 6, 8)]
    cases += [(random_circuit(3, 4), batch) for batch in BATCHES]
    cases += [(random_circuit(seed, n, amplitudes=True), 18) for seed, n in enumerate((1, 3, 5))]
    cases += [(short, 7), (ansatz.basic_entangler(5, 50, "y"), 5)]
    for gates in KINDS:
        n_weights = 0 if gates == ("unitary",) else 3
        cases += [
            (random_circuit(seed, n, 40, 2, n_weights, gates=(*gates, "ry")), 19) for seed, n in enumerate((2, 4, 5))
        ]
    results = []
    for circuit, batch in cases:
        for dtype in (torch.float64, torch.float32):
            for function in FUNCTIONS:
                results += evaluate(circuit, *parameters(circuit, (batch,), dtype=dtype), function)
    circuit = layered(3, 2).rz(Input(1), 1).rx(Input(2), 1)
    for dtype in (torch.float64, torch.float32):
        inputs, weights = parameters(circuit, (20,), dtype=dtype)
        for size in LARGE:
            wide = size * inputs
            wide[::3] = inputs[::3]
            results += evaluate(circuit, wide, weights)
        inputs[5, 1], inputs[16, 2] = math.nan, math.inf
        values, grads, _ = evaluate(circuit, inputs, weights)
        results += [values, grads]
    for dtype in (torch.float16, torch.bfloat16):
        for weight_dtype in (torch.float32, None):
            results += evaluate(circuit, *parameters(circuit, (35,), dtype=dtype, weight_dtype=weight_dtype))
    return results
