"""The plain-torch reference against Kronecker products, parameter shift and finite differences."""

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from hqfkernels import ansatz, ops
from hqfkernels.circuit import GATES, Angle, Circuit, Input, Weight
from hqfkernels.program import lower
from hqfkernels.reference import circuit as reference
from tests import oracles

SEEDS = range(12)


def case(seed, dtype=torch.float64, **kwargs):
    """A random circuit on 1 to 4 qubits (every third from amplitudes) with inputs and weights for one sample."""
    rng = np.random.default_rng(seed)
    circuit = oracles.random_circuit(rng, seed % 4 + 1, 30, 3, 4, amplitudes=seed % 3 == 0, **kwargs)
    inputs, weights = rng.normal(size=circuit.n_inputs), rng.normal(size=circuit.n_weights)
    return circuit, torch.tensor(inputs, dtype=dtype), torch.tensor(weights, dtype=dtype)


def random_tensor(rng, *shape):
    return torch.tensor(rng.normal(size=shape))


@pytest.mark.parametrize("seed", SEEDS)
def test_values_agree_with_kronecker_products(seed):
    circuit, inputs, weights = case(seed)
    for name in ("statevector", "probs", "expval"):
        actual = getattr(reference, name)(circuit, inputs, weights).numpy()
        expected = getattr(oracles, name)(circuit, inputs.numpy(), weights.numpy())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", GATES)
def test_each_gate_on_every_ordered_choice_of_qubits(name):
    n_angles, size = GATES[name]
    rng = np.random.default_rng(len(name))
    for a, b in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)]:
        circuit = (
            Circuit(3).unitary(oracles.random_unitary(rng, 4), [0, 1]).unitary(oracles.random_unitary(rng, 4), [1, 2])
        )
        circuit.append(name, [Input(k) for k in range(n_angles)], [a, b][:size])
        inputs, weights = random_tensor(rng, n_angles), torch.zeros(0)
        actual = reference.statevector(circuit, inputs, weights).numpy()
        expected = oracles.statevector(circuit, inputs.numpy(), weights.numpy())
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_agree_with_parameter_shift(seed):
    circuit, inputs, weights = case(seed)
    actual = torch.autograd.functional.jacobian(lambda x, w: reference.expval(circuit, x, w), (inputs, weights))
    expected = oracles.gradients(circuit, inputs.numpy(), weights.numpy())
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), e, rtol=0, atol=1e-10)


@pytest.mark.parametrize("function", ["expval", "probs"])
def test_gradcheck_and_gradgradcheck(function):
    rng = np.random.default_rng(5)
    circuit = Circuit(2).ry(Input(0), 0).rot(Weight(0), Input(1) + Weight(1), 0.3, 1).crx(Weight(2), 0, 1)
    circuit.cp(0.5 * Input(0), 1, 0).ryy(Weight(0), 0, 1).measure("ZX", "YI")
    inputs = random_tensor(rng, 2, 1, 2).requires_grad_()
    weights = random_tensor(rng, 2, 3).requires_grad_()

    def call(x, w):
        return getattr(reference, function)(circuit, x, w)

    assert torch.autograd.gradcheck(call, (inputs, weights.detach()[:1].requires_grad_()))
    assert torch.autograd.gradgradcheck(call, (inputs, weights.detach()[:1].requires_grad_()))
    assert torch.autograd.gradcheck(call, (inputs.detach().expand(2, 2, 2), weights))


def test_gradgradcheck_through_amplitudes():
    circuit = ansatz.amplitude_encoding(2).ry(Weight(0), 0).cx(0, 1)
    inputs = random_tensor(np.random.default_rng(0), 2, 4).requires_grad_()
    weights = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: reference.expval(circuit, x, w), (inputs, weights))


def test_amplitudes_are_normalised_and_padded():
    circuit = Circuit(2).amplitudes(first_input=1, count=3)
    state = reference.statevector(circuit, torch.tensor([[9.0, 3.0, 0.0, -4.0]]), torch.zeros(0))
    torch.testing.assert_close(state, torch.tensor([[0.6, 0.0, -0.8, 0.0]], dtype=torch.complex64))


@pytest.mark.parametrize("seed", SEEDS[:4])
def test_float32_is_close_to_float64(seed):
    circuit, inputs, weights = case(seed, torch.float32)
    single = reference.expval(circuit, inputs, weights)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), reference.expval(circuit, inputs.double(), weights), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "weights", "result"),
    [
        (torch.float16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float64, torch.float32),
        (torch.float32, torch.float64, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_the_dtype_follows_the_inputs(inputs, weights, result):
    circuit = ansatz.local_circuit()
    x, w = torch.ones(3, 4, dtype=inputs), torch.ones(8, dtype=weights)
    assert reference.expval(circuit, x, w).dtype == result
    assert reference.probs(circuit, x, w).dtype == result
    assert reference.statevector(circuit, x, w).dtype == result.to_complex()


@pytest.mark.parametrize("groups", [(), (1,), (3,), (2, 1), (2, 3), (5, 1, 1)])
def test_weights_broadcast_against_the_batch_from_the_right(groups):
    rng = np.random.default_rng(1)
    circuit = oracles.random_circuit(rng, 3, 20, 2, 3)
    inputs, weights = random_tensor(rng, 5, 2, 3, 2), random_tensor(rng, *groups, 3)
    result = reference.expval(circuit, inputs, weights)
    assert result.shape == (5, 2, 3, circuit.n_observables)
    each = weights.expand(5, 2, 3, 3)
    for i in np.ndindex(5, 2, 3):
        torch.testing.assert_close(result[i], reference.expval(circuit, inputs[i], each[i]), rtol=0, atol=1e-13)


def test_strided_inputs_equal_their_copy():
    rng = np.random.default_rng(2)
    circuit = oracles.random_circuit(rng, 3, 20, 4, 3)
    inputs, weights = random_tensor(rng, 4, 6, 5).permute(2, 1, 0)[::2, 1:], random_tensor(rng, 3)
    assert not inputs.is_contiguous()
    torch.testing.assert_close(
        reference.expval(circuit, inputs, weights), reference.expval(circuit, inputs.contiguous(), weights)
    )


@pytest.mark.parametrize("batch", [(0,), (3, 0), (0, 2)])
def test_an_empty_batch_gives_an_empty_result(batch):
    circuit = oracles.random_circuit(np.random.default_rng(3), 3, 25, 4, 3)
    inputs, weights = torch.zeros(*batch, 4, requires_grad=True), torch.ones(3, requires_grad=True)
    result = reference.expval(circuit, inputs, weights)
    assert result.shape == (*batch, circuit.n_observables)
    inputs_grad, weights_grad = torch.autograd.grad(result.sum(), (inputs, weights))
    assert inputs_grad.shape == inputs.shape
    assert torch.equal(weights_grad, torch.zeros(3))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_sample_stays_by_itself(bad):
    circuit = oracles.random_circuit(np.random.default_rng(4), 3, 25, 2, 3)
    inputs, weights = torch.ones(4, 2), torch.ones(3)
    inputs[2, 0] = bad
    inputs.requires_grad_()
    result = reference.expval(circuit, inputs, weights)
    (gradient,) = torch.autograd.grad(result[[0, 1, 3]].sum(), inputs)
    assert result[[0, 1, 3]].isfinite().all()
    assert gradient[[0, 1, 3]].isfinite().all()
    assert not result[2].isfinite().all()


def test_constants_inputs_and_weights_add_up_in_an_angle():
    circuit = Circuit(1).ry(2 * Input(1) - 0.5 * Weight(0) + 0.25, 0)
    x, w = torch.tensor([9.0, 0.3], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    assert reference.expval(circuit, x, w).item() == pytest.approx(np.cos(2 * 0.3 - 0.5 * 0.8 + 0.25), abs=1e-14)
    assert circuit.gates[0].angles[0] == Angle(0.25, ((1, 2.0),), ((0, -0.5),))


def test_works_under_vmap():
    rng = np.random.default_rng(6)
    circuit = oracles.random_circuit(rng, 3, 25, 2, 3)
    inputs, weights = random_tensor(rng, 5, 2), random_tensor(rng, 3)
    mapped = torch.func.vmap(lambda x: reference.expval(circuit, x, weights))(inputs)
    torch.testing.assert_close(mapped, reference.expval(circuit, inputs, weights))


def dual(f, x, w):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x)), w)).tangent


def jvp(f, x, w):
    return torch.func.jvp(f, (x, w), (torch.ones_like(x), torch.ones_like(w)))[1]


# Each with what it must equal, by reverse mode alone.
FORWARD_MODES = {
    "jvp": (jvp, lambda f, x, w: sum(j.flatten(f(x, w).dim()).sum(-1) for j in torch.func.jacrev(f, (0, 1))(x, w))),
    "dual numbers": (dual, lambda f, x, w: torch.func.jacrev(f)(x, w).flatten(f(x, w).dim()).sum(-1)),
    "jacfwd": (
        lambda f, x, w: torch.cat([j.flatten() for j in torch.func.jacfwd(f, (0, 1))(x, w)]),
        lambda f, x, w: torch.cat([j.flatten() for j in torch.func.jacrev(f, (0, 1))(x, w)]),
    ),
    "forward over reverse": (
        lambda f, x, w: torch.func.hessian(lambda w: f(x, w)[..., 0].sum())(w),
        lambda f, x, w: torch.func.jacrev(torch.func.jacrev(lambda w: f(x, w)[..., 0].sum()))(w),
    ),
    "reverse over forward": (
        lambda f, x, w: torch.func.jacrev(torch.func.jacfwd(lambda x, w: f(x, w)[..., 0].sum(), 1), 0)(x, w),
        lambda f, x, w: torch.func.jacrev(torch.func.jacrev(lambda x, w: f(x, w)[..., 0].sum(), 1), 0)(x, w),
    ),
}


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float32), (torch.float32, torch.float64), (torch.float16, torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("mode", FORWARD_MODES)
@pytest.mark.parametrize(("seed", "batch", "function"), [(4, (), reference.expval), (6, (2,), reference.probs)])
def test_forward_mode_in_every_dtype(seed, batch, function, mode, dtypes):
    """Over all gates with all kinds of angles; one sample alone, and a batch from amplitudes."""
    rng = np.random.default_rng(seed)
    circuit = oracles.random_circuit(rng, 2, 28, 2, 3, amplitudes=seed == 6)
    x, w = random_tensor(rng, *batch, circuit.n_inputs).to(dtypes[0]), random_tensor(rng, 3).to(dtypes[1])
    forward, reverse = FORWARD_MODES[mode]

    def call(x, w):
        return function(circuit, x, w)

    actual, wanted = forward(call, x, w), reverse(call, x.double(), w.double())
    assert actual.dtype in (*dtypes, torch.float32)
    tolerance = (2e-2 if torch.float16 in dtypes else 1e-5) * max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(actual.double(), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("angle", [1e10 / 3, -1e20, 1e39, 1e300])
def test_constant_angles_of_any_size_in_float32(angle):
    circuit = Circuit(2).ry(Input(0), 0).rx(angle, 0).cx(0, 1).crx(angle, 1, 0).p(0.7 * angle, 1).ry(1.0, 1)
    inputs, weights = torch.rand(3, 1), torch.empty(0)
    wanted = reference.probs(circuit, inputs.double(), weights)
    torch.testing.assert_close(reference.probs(circuit, inputs, weights).double(), wanted, rtol=0, atol=1e-6)
    plain = ops.PLAIN["gate_forward"](inputs, weights, lower(circuit.text, "probs"), 1, [])
    torch.testing.assert_close(plain.double(), wanted, rtol=0, atol=1e-6)


def test_factors_beyond_float32_give_nan():
    circuit = Circuit(1).ry(1e300 * Input(0), 0).rx(-1e300 * Weight(0), 0)
    assert reference.probs(circuit, torch.rand(3, 1), torch.rand(1)).isnan().all()
