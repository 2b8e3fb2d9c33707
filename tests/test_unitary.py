"""The unitary engine: against the reference on all circuits that it takes, and refusals of those that it does not."""

from functools import partial

import numpy as np
import pytest
import torch

import hqfkernels as hqf
from hqfkernels import Circuit, Input, Weight, ansatz
from tests import oracles

pytestmark = pytest.mark.usefixtures("threads")


def deep(n_qubits: int, first: Circuit, depth: int = 3) -> Circuit:
    """``first``, then layers of weights."""
    for layer in range(depth):
        for q in range(n_qubits):
            k = 2 * (layer * n_qubits + q)
            first.ry(Weight(k), q).rz(Weight(k + 1), q)
        for q in range(n_qubits - 1):
            first.cx(q, q + 1)
    return first


CIRCUITS = {
    "amplitudes": deep(3, Circuit(3).amplitudes()).measure("ZII", "IZZ", "III"),
    "some amplitudes, from input 2 on": deep(3, Circuit(3).amplitudes(2, 5)).measure("ZIZ"),
    "real encoding": deep(4, ansatz.angle_encoding(4)),
    "complex encoding": deep(2, Circuit(2).rx(Input(0), 0).ry(Input(1) + Weight(3), 1).cx(0, 1).p(Input(0), 1)),
    "amplitudes and angles": deep(2, Circuit(2).amplitudes().rx(Input(4), 0)),
    "input at the very end": Circuit(2).ry(Weight(0), 0).cx(0, 1).rx(Input(0), 1),
    "no weights": Circuit(2).amplitudes().h(0).cx(0, 1).rx(0.3, 1),
    "one qubit": Circuit(1).ry(Input(0), 0).rx(Weight(0), 0),
}
FUNCTIONS = {f.__name__: f for f in (hqf.expval, hqf.probs)}


def results(function, circuit, inputs, weights, **how) -> list[torch.Tensor]:
    leaves = [t.detach().requires_grad_() for t in (inputs, weights)]
    value = FUNCTIONS[function](circuit, *leaves, **how)
    slope = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).view(value.shape).to(value.dtype)
    return [value.detach(), *torch.autograd.grad((value * slope).sum(), leaves, materialize_grads=True)]


def tensors(circuit, *batch, groups=(), dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 2 * torch.randn(*batch, circuit.n_inputs, dtype=dtype), torch.randn(*groups, circuit.n_weights, dtype=dtype)


def assert_agrees(function, circuit, inputs, weights) -> None:
    actual = results(function, circuit, inputs, weights, engine="unitary")
    expected = results(function, circuit, inputs.double(), weights.double(), backend="reference")
    limit = 1e-10 if inputs.dtype == torch.float64 else 2e-5
    for a, e in zip(actual, expected, strict=True):
        scale = max(1.0, e.abs().max().item()) if e.numel() else 1.0
        torch.testing.assert_close(a.double(), e, atol=limit * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", CIRCUITS)
def test_agrees_with_the_reference(name, function, dtype):
    assert_agrees(function, CIRCUITS[name], *tensors(CIRCUITS[name], 7, dtype=dtype))


def test_probabilities_of_circuits_that_measure_other_strings():
    circuit = deep(3, ansatz.angle_encoding(3)).measure("XYZ")
    assert_agrees("probs", circuit, *tensors(circuit, 5))


@pytest.mark.parametrize("seed", range(6))
def test_random_circuits(seed):
    rng = np.random.default_rng(seed)
    body = oracles.random_circuit(rng, 3, 14, 3, 5)
    circuit = Circuit(3)
    for gate in body.gates:
        circuit._append(gate)
    circuit.measure("ZII", "IZI", "ZZZ")
    assert_agrees("expval", circuit, *tensors(circuit, 4, 3))


@pytest.mark.parametrize("groups", [(1,), (3,), (5, 1), (5, 3), (2, 1, 1), (2, 1, 3)])
def test_weights_per_group(groups):
    for name in ("amplitudes", "complex encoding"):
        assert_agrees("expval", CIRCUITS[name], *tensors(CIRCUITS[name], 2, 5, 3, groups=groups))


def test_batches_without_dimensions_or_samples():
    circuit = CIRCUITS["real encoding"]
    assert_agrees("expval", circuit, *tensors(circuit))
    inputs, weights = tensors(circuit, 0)
    value, grad_inputs, grad_weights = results("expval", circuit, inputs, weights, engine="unitary")
    assert value.shape == (0, 4)
    assert grad_inputs.shape == inputs.shape
    assert not grad_weights.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs(dtype):
    circuit = CIRCUITS["real encoding"]
    inputs, weights = tensors(circuit, 9)
    actual = hqf.expval(circuit, inputs.to(dtype), weights.float(), engine="unitary")
    assert actual.dtype == torch.float32
    torch.testing.assert_close(
        actual.double(), hqf.expval(circuit, inputs.to(dtype).double(), weights, backend="reference"), atol=2e-5, rtol=0
    )


def test_a_bad_sample_touches_no_other():
    circuit = CIRCUITS["amplitudes"]
    inputs, weights = tensors(circuit, 6)
    clean = hqf.expval(circuit, inputs, weights, engine="unitary")
    inputs[2] = 0  # no state at all
    inputs[4, 1] = torch.nan
    mixed = hqf.expval(circuit, inputs, weights, engine="unitary")
    assert mixed[[2, 4]].isnan().all()
    torch.testing.assert_close(mixed[[0, 1, 3, 5]], clean[[0, 1, 3, 5]], atol=1e-14, rtol=0)


REFUSED = {
    "too many qubits": (ansatz.angle_encoding(11).rx(Weight(0), 0), "at most 10 qubits, the circuit has 11"),
    "other strings": (Circuit(2).ry(Input(0), 0).rx(Weight(0), 1).measure("XZ"), "strings of Z only"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_circuits_it_cannot_take_are_refused_by_name(name):
    circuit, reason = REFUSED[name]
    inputs, weights = tensors(circuit, 5)
    with pytest.raises(ValueError, match=f"engine 'unitary' refuses the circuit: .*{reason}"):
        hqf.expval(circuit, inputs, weights, engine="unitary")
    assert reason in dict(hqf.explain(circuit, inputs, weights).reasons)["unitary"]
    with pytest.raises(ValueError, match="not states"):
        hqf.statevector(CIRCUITS["amplitudes"], *tensors(CIRCUITS["amplitudes"], 3), engine="unitary")


def test_the_planner_takes_it_for_deep_circuits_on_amplitudes(native):
    circuit = deep(5, Circuit(5).amplitudes(), 60)
    inputs, weights = tensors(circuit, 1)
    assert hqf.explain(circuit, inputs, weights).engine == "gate"
    plan = hqf.explain(circuit, inputs.expand(10**6, -1), weights)
    assert plan.engine == "unitary"
    assert "amplitude encoding" in dict(plan.reasons)["fourier"]


def test_vmap_and_compile():
    circuit = CIRCUITS["complex encoding"]
    run = partial(hqf.expval, circuit, engine="unitary")
    inputs, weights = tensors(circuit, 6, 5, groups=(6,))
    expected = torch.stack([run(x, w) for x, w in zip(inputs, weights, strict=True)])
    torch.testing.assert_close(torch.func.vmap(run)(inputs, weights), expected)
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs[0], weights[0]), expected[0])


# Groups, samples, amplitudes, qubits, strings: more and fewer states than a vector has lanes, one sample and many,
# matrices that tasks add up together and by themselves.
SHAPES = {
    "one of each": (1, 1, 2, 1, [1]),
    "no samples": (2, 0, 4, 2, [3]),
    "no groups": (0, 5, 4, 2, [3]),
    "few": (2, 7, 8, 3, [0, 5, 7]),
    "probabilities": (3, 13, 8, 3, []),
    "amplitudes that are not a power of two": (1, 11, 5, 4, [9, 1]),
    "more strings than lanes": (1, 100, 16, 4, [*range(16), *range(9)]),
    "many samples": (2, 5003, 32, 4, [8, 4, 2, 1]),
    "many groups": (300, 3, 16, 3, [4, 2]),
    "several chunks": (1, 1500, 128, 6, [32, 5]),
    "a large matrix": (2, 203, 512, 8, [128, 3]),
    "probabilities behind a large matrix": (1, 50, 256, 8, []),
}


def born(name: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[int]]:
    """Gradients, states, a matrix, and strings."""
    groups, samples, amplitudes, qubits, strings = SHAPES[name]
    torch.manual_seed(0)
    shapes = (samples, len(strings) or 2**qubits), (samples, amplitudes), (amplitudes, 2 ** (qubits + 1))
    return [torch.randn(groups, *shape, dtype=torch.float64).to(dtype) for shape in shapes], strings


def products(name: str, dtype: torch.dtype) -> list[torch.Tensor]:
    (grad, psi, matrix), strings = born(name, dtype)
    run = torch.ops.hqfkernels
    return [run.born_forward(psi, matrix, strings), *run.born_backward(grad, psi, matrix, strings)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_products_are_those_of_torch(name, dtype):
    (grad, psi, matrix), strings = born(name, dtype)
    wide = [t.double().requires_grad_() for t in (psi, matrix)]
    probabilities = (wide[0] @ wide[1]).square().unflatten(-1, (-1, 2)).sum(-1)
    odd = torch.tensor([[(state & s).bit_count() % 2 for s in strings] for state in range(probabilities.shape[-1])])
    values = probabilities @ (1.0 - 2 * odd).double() if strings else probabilities
    values = values / wide[0].square().sum(-1, keepdim=True)
    expected = [values, *torch.autograd.grad((values * grad.double()).sum(), wide)]
    limit = 1e-12 if dtype == torch.float64 else 2e-5
    for actual, wanted in zip(products(name, dtype), expected, strict=True):
        assert actual.dtype == dtype
        scale = wanted.abs().max().item() if wanted.numel() else 1.0
        torch.testing.assert_close(actual.double(), wanted, atol=limit * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_products_are_the_same_on_any_number_of_threads(name, dtype, native):
    results = []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        results.append(products(name, dtype))
    for later in results[1:]:
        assert all(map(torch.equal, later, results[0]))


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_a_product_is_the_same_on_any_number_of_threads(rows, native):
    torch.manual_seed(0)
    left, right = torch.randn(rows, 333, dtype=torch.float64), torch.randn(333, 77, dtype=torch.float64)
    run = torch.ops.hqfkernels.product
    once = run(left, right)
    torch.testing.assert_close(once, left @ right, atol=1e-12, rtol=0)
    for count in (2, 3):
        torch.set_num_threads(count)
        assert torch.equal(run(left, right), once)
    assert torch.equal(run(left[:1], right), once[:1])
    assert run(left[:0], right).shape == (0, 77)
    assert not run(left[:, :0].contiguous(), right[:0]).any()


def test_products_refuse_what_does_not_fit(native):
    (grad, psi, matrix), strings = born("few", torch.float64)
    run = torch.ops.hqfkernels
    for message, call in {
        "contiguous tensors of one dtype": lambda: run.born_forward(psi.float(), matrix, strings),
        "contiguous tensors of one dtype with 3": lambda: run.born_forward(psi.mT, matrix, strings),
        "the matrix does not fit": lambda: run.born_forward(psi, matrix[:, 1:].contiguous(), strings),
        "the gradient does not fit": lambda: run.born_backward(grad[:, 1:].contiguous(), psi, matrix, strings),
        "float32 or float64": lambda: run.product(psi[0].half(), matrix[0].half()),
        "the matrices do not fit": lambda: run.product(psi[0], psi[0]),
    }.items():
        with pytest.raises(RuntimeError, match=message):
            call()


@pytest.mark.parametrize("name", ["amplitudes", "real encoding", "complex encoding"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast_costs_no_precision(function, name):
    inputs, weights = tensors(CIRCUITS[name], 7, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual = results(function, CIRCUITS[name], inputs, weights, engine="unitary")
    expected = results(function, CIRCUITS[name], inputs, weights, engine="unitary")
    assert all(map(torch.equal, actual, expected))


def everything() -> list[torch.Tensor]:
    """Results for another process to compare with (test_variants.py)."""
    dtypes = (torch.float64, torch.float32)
    return [result for name in SHAPES for dtype in dtypes for result in products(name, dtype)]
