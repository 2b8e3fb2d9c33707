"""The device hqf.qubit against default.qubit: values, derivatives, broadcasting, measurements, refusals."""

import math

import numpy as np
import pytest
import torch

from tests import oracles

qml = pytest.importorskip("pennylane")
from pennylane import numpy as pnp  # noqa: E402
from pennylane.devices import ExecutionConfig, MCMConfig  # noqa: E402
from pennylane.exceptions import DeviceError, QuantumFunctionError, WireError  # noqa: E402

from hqfkernels.interop.pennylane import HQFQubit  # noqa: E402
from tests.test_pennylane_agreement import apply  # noqa: E402

BATCH = 4


def both(function, wires, **options):
    """QNodes of the same function on our device and on PennyLane's."""
    devices = HQFQubit(wires=wires), qml.device("default.qubit", wires=wires)
    return [qml.QNode(function, device, **options) for device in devices]


def random_function(seed, n):
    """A function (inputs, weights) of random gates over all that hqfkernels has, and fitting arguments."""
    rng = np.random.default_rng(seed)
    circuit = oracles.random_circuit(rng, n, 40, 3, 4)

    def function(inputs, weights):
        for gate in circuit.gates:
            angles = []
            for a in gate.angles:
                terms = [c * inputs[..., j] for j, c in a.inputs] + [c * weights[k] for k, c in a.weights]
                angles.append(sum(terms, a.constant + 0 * weights[0]))  # PennyLane wants all angles of one kind
            apply(gate, angles)
        words = [qml.pauli.string_to_pauli_word(o) for o in circuit.observables[:-1]]
        return [*map(qml.expval, words), qml.expval(0.3 * words[0] - 1.5 * words[1]), qml.probs(wires=[n - 1, 0])]

    return function, rng.normal(size=(BATCH, 3)), rng.normal(size=4)


def loss(results, stack, total):
    """A scalar to which every entry of every result contributes differently."""
    flat = [total((k + 1.0) * r**2 + 0.1 * r) for k, r in enumerate(results)]
    return total(stack(flat))


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("seed", range(6))
def test_torch(seed, batched):
    function, inputs, weights = random_function(seed, seed % 4 + 2)
    outcomes = []
    for node in both(function, seed % 4 + 2):
        x = torch.tensor(inputs if batched else inputs[0], requires_grad=True)
        w = torch.tensor(weights, requires_grad=True)
        results = node(x, w)
        loss(results, torch.stack, torch.sum).backward()
        outcomes.append((*results, x.grad, w.grad))
    for actual, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("seed", range(3))
def test_autograd(seed, batched):
    function, inputs, weights = random_function(seed, seed + 2)
    outcomes = []
    for node in both(function, seed + 2):
        x, w = pnp.array(inputs if batched else inputs[0], requires_grad=True), pnp.array(weights, requires_grad=True)
        grads = qml.grad(lambda x, w, node=node: loss(node(x, w), pnp.stack, pnp.sum))(x, w)
        outcomes.append((*node(x, w), *grads))
    for actual, expected in zip(*outcomes, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
def test_jax(batched):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    inputs = np.array([0.1, -0.7, 2.0]) if batched else np.array(0.3)
    weights = np.array([0.5, 1.5])

    def function(x, w):
        qml.RX(x, 0)
        qml.RY(w[0], 1)
        qml.CRZ(w[1], [1, 0])
        qml.CNOT([0, 1])
        return [qml.expval(qml.Z(1)), qml.probs(wires=[0])]

    ours, theirs = both(function, 2)
    x, w = torch.tensor(inputs, requires_grad=True), torch.tensor(weights, requires_grad=True)
    expected = loss(theirs(x, w), torch.stack, torch.sum)
    expected.backward()

    def scalar(x, w):
        return loss(ours(x, w), jax.numpy.stack, jax.numpy.sum)

    for run in (scalar, jax.jit(scalar)):
        np.testing.assert_allclose(run(inputs, weights), expected.item(), rtol=0, atol=1e-9)
        for actual, tensor in zip(jax.grad(run, argnums=(0, 1))(inputs, weights), (x, w), strict=True):
            assert tensor.grad is not None
            np.testing.assert_allclose(actual, tensor.grad, rtol=0, atol=1e-9)
    jacobian = jax.jacobian(lambda w: ours(inputs, w)[0])(weights)
    shift = np.eye(2) * 1e-5
    slopes = [(ours(inputs, weights + s)[0] - ours(inputs, weights - s)[0]) / 2e-5 for s in shift]
    np.testing.assert_allclose(jacobian, np.stack(slopes, -1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("interface", ["numpy", "torch"])
def test_a_broadcast_batch_is_one_call(interface, recorder):
    @qml.qnode(HQFQubit(wires=2))
    def node(x, w):
        qml.RY(x, 0)
        qml.RX(w, 1)
        qml.CNOT([0, 1])
        return qml.expval(qml.Z(0)), qml.expval(qml.X(0) @ qml.Z(1)), qml.expval(qml.Z(1) + 2 * qml.Z(0))

    x = np.linspace(0, 1, 64)
    with recorder:
        node(torch.tensor(x, requires_grad=True) if interface == "torch" else x, 0.3)
    calls = [name for name in recorder.names if name.startswith("hqfkernels")]
    assert len(calls) == 1, calls


MEASUREMENTS = {
    "state": lambda: qml.state(),
    "density matrix": lambda: qml.density_matrix([2, 0]),
    "variance": lambda: qml.var(qml.X(0) @ qml.Z(2)),
    "matrix": lambda: qml.expval(qml.Hermitian(np.array([[1, 2j], [-2j, 0.5]]), 1)),
    "projector": lambda: qml.expval(qml.Projector([1, 0], wires=[0, 2])),
    "probs in another basis": lambda: qml.probs(op=qml.Y(1)),
    "purity": lambda: qml.purity(wires=[1]),
    "entropy": lambda: qml.vn_entropy(wires=[0]),
    "identity": lambda: qml.expval(qml.I(1)),
    "all probs": lambda: qml.probs(),
}


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("name", MEASUREMENTS)
def test_measurements(name, batched):
    def function(x):
        qml.RY(x, 0)
        qml.CRX(0.7, wires=[0, 1])
        qml.Toffoli([0, 1, 2])
        qml.IsingXY(0.4, [0, 2])
        qml.GlobalPhase(0.2)
        return MEASUREMENTS[name](), qml.expval(qml.Z(0))

    actual, expected = (node(np.array([0.3, -1.2, 2.0]) if batched else 0.3) for node in both(function, 3))
    for a, e in zip(actual, expected, strict=True):
        # An identity has no batch in PennyLane.
        np.testing.assert_allclose(a, np.broadcast_to(e, np.shape(a)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("wires", [None, ["b", "a", 3]], ids=str)
def test_wires_by_label(wires):
    def function():
        qml.RY(0.3, "a")
        qml.CNOT(["a", "b"])
        qml.RX(0.4, 3)
        return qml.probs(wires=[3, "b"]), qml.expval(qml.Z("a"))

    for a, e in zip(*(node() for node in both(function, wires)), strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12)


def test_a_circuit_without_gates():
    for node in both(lambda: (qml.expval(qml.Z(0)), qml.state()), 2):
        value, state = node()
        assert value == pytest.approx(1)
        np.testing.assert_allclose(state, [1, 0, 0, 0])


@pytest.mark.parametrize("features", [2, 4])
def test_real_amplitudes_are_differentiable(features):
    def function(x, w):
        qml.AmplitudeEmbedding(x, wires=[2, 0] if features == 4 else [1], normalize=True)
        qml.RX(w, 0)
        qml.RY(2 * x[..., 1], 1)
        qml.CNOT([0, 1])
        return [qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Y(2)), qml.probs(wires=[0, 2])]

    rng = np.random.default_rng(0)
    for shape in ((features,), (BATCH, features)):
        data, outcomes = rng.normal(size=shape), []
        for node in both(function, 3):
            x, w = torch.tensor(data, requires_grad=True), torch.tensor(0.3, requires_grad=True)
            results = node(x, w)
            loss(results, torch.stack, torch.sum).backward()
            outcomes.append((*results, x.grad, w.grad))
        for actual, expected in zip(*outcomes, strict=True):
            torch.testing.assert_close(actual, expected, check_dtype=False, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_complex_states_are_prepared(batch):
    rng = np.random.default_rng(0)
    state = rng.normal(size=(*batch, 4)) + 1j * rng.normal(size=(*batch, 4))
    state /= np.linalg.norm(state, axis=-1, keepdims=True)

    def function():
        qml.StatePrep(state, wires=[1, 0])
        qml.RX(0.3, 0)
        return qml.state()

    actual, expected = (node() for node in both(function, 2))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-9)


def test_coefficients_of_observables_are_differentiable_in_torch():
    def function(c):
        qml.RY(0.3, 0)
        return qml.expval(qml.Hamiltonian(c, [qml.Z(0), qml.X(0)]))

    (node, _) = both(function, 1)
    c = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    node(c).backward()
    torch.testing.assert_close(c.grad, torch.tensor([math.cos(0.3), math.sin(0.3)], dtype=torch.float64))
    c = pnp.array([1.0, 2.0], requires_grad=True)
    np.testing.assert_allclose(qml.grad(node)(c), [math.cos(0.3), math.sin(0.3)])


def test_what_the_engines_do_not_differentiate():
    actual, expected = both(lambda x: (qml.RX(x, 0), qml.var(qml.Z(0)))[1], 1)
    x = torch.tensor(0.4, requires_grad=True)
    grads = [torch.autograd.grad(node(x), x)[0] for node in (actual, expected)]
    torch.testing.assert_close(*grads)
    with pytest.raises(QuantumFunctionError, match="does not support adjoint"):
        qml.QNode(actual.func, actual.device, diff_method="adjoint")(x)


@pytest.mark.parametrize("method", ["adjoint", "device", "best", "parameter-shift", "finite-diff"])
def test_every_method_agrees(method):
    node = qml.QNode(lambda x: (qml.RX(x, 0), qml.expval(qml.Z(0)))[1], HQFQubit(wires=1), diff_method=method)
    assert qml.grad(node)(pnp.array(0.4, requires_grad=True)) == pytest.approx(-math.sin(0.4), abs=1e-6)


def test_second_derivatives():
    def function(x):
        qml.RX(x[0], 0)
        qml.RY(x[1], 0)
        return qml.expval(qml.Z(0))

    c0, s0, c1, s1 = math.cos(0.4), math.sin(0.4), math.cos(0.7), math.sin(0.7)
    expected = [[-c0 * c1, s0 * s1], [s0 * s1, -c0 * c1]]
    node = qml.QNode(function, HQFQubit(wires=1), max_diff=2)
    x = torch.tensor([0.4, 0.7], dtype=torch.float64)
    np.testing.assert_allclose(torch.autograd.functional.hessian(node, x), expected, atol=1e-9)
    np.testing.assert_allclose(
        qml.jacobian(qml.grad(node))(pnp.array(x.numpy(), requires_grad=True)), expected, atol=1e-9
    )
    once = qml.QNode(function, HQFQubit(wires=1))
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.functional.hessian(once, x)


def tape(*measurements, batch=False):
    x = np.array([0.1, 0.2, 0.3]) if batch else 0.1
    gates = [qml.RX(x, 0), qml.CRY(0.5, [0, 1]), qml.QubitUnitary(np.eye(2), 0), qml.GlobalPhase(0.4), qml.RY(0.7, 1)]
    script = qml.tape.QuantumScript(gates, measurements)
    script.trainable_params = [0, 1, 3, 4]
    return script


def test_jacobians_are_default_qubits():
    ours, theirs = HQFQubit(), qml.device("default.qubit")
    for measured in ([qml.expval(qml.Z(1))], [qml.expval(qml.Z(0)), qml.expval(qml.X(1) - qml.Z(0))]):
        script = tape(*measured)
        config = ExecutionConfig(gradient_method="adjoint")
        jacobians = [np.array(device.compute_derivatives([script], config)[0]) for device in (ours, theirs)]
        np.testing.assert_allclose(jacobians[0], jacobians[1], atol=1e-12)
        results, jacobian = ours.execute_and_compute_derivatives([script], config)
        np.testing.assert_allclose(np.array(jacobian[0]), jacobians[0], atol=1e-12)
        np.testing.assert_allclose(results[0], theirs.execute([script])[0], atol=1e-12)
    ((probabilities, value),) = ours.compute_derivatives([tape(qml.probs(wires=[0]), qml.expval(qml.Z(0)))])
    np.testing.assert_allclose(probabilities[0], [value[0] / 2, -value[0] / 2])
    with pytest.raises(NotImplementedError, match="broadcasting: ask for compute_vjp"):
        ours.compute_derivatives([tape(qml.expval(qml.Z(0)), batch=True)])


def test_vector_jacobian_products():
    device = HQFQubit()
    script = tape(qml.expval(qml.Z(1)), qml.probs(wires=[0]))
    (first, second) = device.compute_derivatives([script])[0]
    slopes = (np.array(2.0), np.array([0.5, -1.0]))
    expected = [2.0 * a + np.dot(slopes[1], b) for a, b in zip(first, second, strict=True)]
    (products,) = device.compute_vjp([script], [slopes])
    np.testing.assert_allclose(products, expected, atol=1e-12)
    stacked = (np.array([2.0, 0.0]), np.array([[0.5, -1.0], [0.0, 0.0]]))
    (products,) = device.compute_vjp([script], [stacked])
    np.testing.assert_allclose(products, [(e, 0.0) for e in expected], atol=1e-12)
    (products,) = device.compute_vjp([tape(qml.expval(qml.Z(1)), batch=True)], [np.ones(3)])
    assert [np.shape(p) for p in products] == [(3,), (), (), ()]
    with torch.device("meta"):  # as a GPU might be: what torch makes by default is none of the device's business
        _, products = device.execute_and_compute_vjp([script], [slopes])
    np.testing.assert_allclose(products[0], expected, atol=1e-12)


def test_products_with_the_coefficients_of_observables():
    script = qml.tape.QuantumScript([qml.RX(0.1, 0)], [qml.expval(2.0 * qml.Z(0))], trainable_params=[1])
    ((product,),) = (HQFQubit().compute_vjp([script], [3.0]),)
    np.testing.assert_allclose(product, [3.0 * math.cos(0.1)])


def test_finite_shots():
    def function():
        qml.RY(0.8, 0)
        qml.CNOT([0, 1])
        return qml.expval(qml.Z(0)), qml.counts(), qml.probs(wires=[1]), qml.sample(qml.Z(1))

    values = []
    for seed in (1, 1, 2):
        node = qml.set_shots(qml.QNode(function, HQFQubit(wires=2, seed=seed)), 5000)
        value, counts, probabilities, samples = node()
        assert value == pytest.approx(math.cos(0.8), abs=0.05)
        assert set(counts) == {"00", "11"}
        assert probabilities[0] == pytest.approx(math.cos(0.4) ** 2, abs=0.05)
        assert samples.shape == (5000,)
        values.append(float(value))
    assert values[0] == values[1] != values[2]


def test_finite_shots_of_a_batch():
    node = qml.set_shots(qml.QNode(lambda x: (qml.RY(x, 0), qml.expval(qml.Z(0)))[1], HQFQubit(wires=1, seed=0)), 5000)
    x = np.array([0.1, 1.0, 2.0])
    np.testing.assert_allclose(node(x), np.cos(x), atol=0.05)


def test_measured_in_between():
    def function(x):
        qml.RY(x, 0)
        m = qml.measure(0)
        qml.cond(m, qml.X)(1)
        return qml.expval(qml.Z(1)), qml.expval(m)

    for a, e in zip(*(node(0.3) for node in both(function, 3)), strict=True):
        np.testing.assert_allclose(a, e, atol=1e-12)


def test_the_tracker_counts():
    device = HQFQubit(wires=1)
    with qml.Tracker(device) as tracker:
        qml.grad(qml.QNode(lambda x: (qml.RX(x, 0), qml.expval(qml.Z(0)))[1], device))(
            pnp.array(0.1, requires_grad=True)
        )
    assert tracker.totals["batches"] == 1
    assert tracker.totals["vjp_batches"] == 1


def test_bad_input_is_named():
    def run(function, **options):
        return qml.QNode(function, HQFQubit(wires=2), **options)()

    with pytest.raises(DeviceError, match="AmplitudeDamping.* not supported with hqf.qubit"):
        run(lambda: (qml.AmplitudeDamping(0.1, 0), qml.expval(qml.Z(0)))[1])
    with pytest.raises(WireError, match="hqf.qubit"):
        run(lambda: qml.expval(qml.Z(5)))
    with pytest.raises(DeviceError, match='mcm_method="deferred" only'):
        HQFQubit().setup_execution_config(ExecutionConfig(mcm_config=MCMConfig(mcm_method="one-shot")))
    with pytest.raises(DeviceError, match="option 'speed'"):
        HQFQubit().setup_execution_config(ExecutionConfig(device_options={"speed": 9}))
    with pytest.raises(QuantumFunctionError, match="does not support backprop"):
        run(lambda: qml.expval(qml.Z(0)), diff_method="backprop")
    with pytest.raises(ValueError, match="unitary"):
        run(lambda: (qml.QubitUnitary(np.array([[1, 1], [0, 1]]), 0), qml.expval(qml.Z(0)))[1])


def test_the_entry_point_names_the_device(plugin_path, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin_path))
    qml.refresh_devices()
    device = qml.device("hqf.qubit", wires=3)
    assert isinstance(device, HQFQubit)
    assert device.name == "hqf.qubit"
    assert len(device.wires) == 3
