"""QNodes become circuits with the same values and gradients; TorchLayer is PennyLane's, value for value."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import hqfkernels as hqf
from tests import oracles

qml = pytest.importorskip("pennylane")
from hqfkernels.interop.pennylane import TorchLayer, from_qnode  # noqa: E402
from tests.test_pennylane_agreement import apply  # noqa: E402

WIRES = range(3)


def value(angle, inputs, weights):
    total = torch.full(inputs.shape[:-1], angle.constant, dtype=torch.float64)
    for j, c in angle.inputs:
        total = total + c * inputs[..., j]
    for k, c in angle.weights:
        total = total + c * weights[k]
    return total


def qnode_of(circuit, measure="expval"):
    """The circuit, written gate by gate for PennyLane."""

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits))
    def node(inputs, w):
        for gate in circuit.gates:
            apply(gate, [value(angle, inputs, w) for angle in gate.angles])
        if measure == "probs":
            return qml.probs(wires=range(circuit.n_qubits))
        return [qml.expval(qml.pauli.string_to_pauli_word(o)) for o in circuit.observables[:-1]]

    return node


@pytest.mark.parametrize("seed", range(8))
def test_random_circuits_come_back(seed):
    rng = np.random.default_rng(seed)
    n = seed % 4 + 2
    circuit = oracles.random_circuit(rng, n, 40, 3, 4, amplitudes=seed % 4 == 3)
    read = from_qnode(qnode_of(circuit), {"w": circuit.n_weights}, circuit.n_inputs)
    strings = dict.fromkeys(circuit.observables[:-1])
    inputs = torch.tensor(rng.normal(size=(5, circuit.n_inputs)), requires_grad=True)
    weights = torch.tensor(rng.normal(size=circuit.n_weights), requires_grad=True)
    assert len(strings) == len(circuit.observables) - 1, "the seed must draw different strings"
    assert read.observables == circuit.observables[:-1]
    grad = torch.tensor(rng.normal(size=(5, read.n_observables)))
    results = []
    for c in (read, circuit):
        y = hqf.expval(c, inputs, weights, engine="gate")[:, : read.n_observables]
        results.append((y, *torch.autograd.grad(y, (inputs, weights), grad)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_probabilities_of_all_wires():
    circuit = oracles.random_circuit(np.random.default_rng(0), 3, 20, 2, 2)
    read = from_qnode(qnode_of(circuit, "probs"), {"w": 2}, 2)
    inputs, weights = torch.rand(4, 2).double(), torch.rand(2).double()
    torch.testing.assert_close(hqf.probs(read, inputs, weights), hqf.probs(circuit, inputs, weights))


def templates(inputs, w, v, s):
    qml.AngleEmbedding(torch.pi * inputs, wires=WIRES, rotation="Y")
    qml.StronglyEntanglingLayers(w, wires=WIRES)
    qml.Toffoli(wires=[2, 0, 1])
    qml.MultiRZ(2 * s - inputs[..., 0] + 0.5, wires=WIRES)
    qml.BasicEntanglerLayers(v, wires=WIRES)
    qml.CRot(inputs[..., 1], v[0, 0], 0.3, wires=[1, 2])
    qml.adjoint(qml.SX)(0)
    qml.ctrl(qml.Hadamard, control=1)(0)
    qml.GlobalPhase(s, wires=0)
    qml.QubitUnitary(np.array([[1, 1], [-1, 1]]) / math.sqrt(2), wires=2)


SHAPES = {"w": (2, 3, 3), "v": (1, 3), "s": 1}
RETURNS = {
    "list": lambda: [qml.expval(qml.Z(k)) for k in WIRES],
    "tuple": lambda: (qml.expval(qml.Z(0)), qml.expval(qml.X(1) @ qml.Y(2))),
    "one": lambda: qml.expval(qml.Z(1)),
    "list of one": lambda: [qml.expval(qml.Z(1))],
    "tuple of one": lambda: (qml.expval(qml.Z(1)),),
    "sums": lambda: [qml.expval(qml.Z(0) + 2 * qml.X(1)), qml.expval(0.5 * qml.Y(2)), qml.expval(qml.Z(0))],
    "the same twice": lambda: [qml.expval(qml.Z(0)), qml.expval(qml.Z(0))],
    "identity": lambda: [qml.expval(qml.Z(0)), qml.expval(qml.I(1))],
    "probs": lambda: qml.probs(wires=WIRES),
    "probs, every wire": lambda: qml.probs(),
    "probs of some": lambda: qml.probs(wires=[2, 0]),
    "list with probs": lambda: [qml.probs(wires=1), qml.expval(qml.Z(0))],
}


def layers(function, shapes, wires=3):
    """PennyLane's layer and ours for the same function, with the same weights."""
    torch.manual_seed(3)
    theirs = qml.qnn.TorchLayer(qml.QNode(function, qml.device("default.qubit", wires=wires)), shapes)
    ours = TorchLayer(qml.QNode(function, qml.device("default.qubit", wires=wires)), shapes)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("returns", RETURNS)
def test_layer_is_pennylanes(returns, shape):
    def function(inputs, w, v, s):
        templates(inputs, w, v, s)
        return RETURNS[returns]()

    theirs, ours = layers(function, SHAPES)
    results = []
    for layer in (theirs, ours):
        inputs = torch.linspace(-2, 2, math.prod(shape)).reshape(shape).requires_grad_()
        y = layer(inputs)
        (y * torch.arange(1.0, y.numel() + 1).reshape(y.shape)).sum().backward()
        results.append((y, inputs.grad, *(p.grad for p in layer.parameters())))
    for actual, expected in zip(*reversed(results), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_state_dict_serves_both_ways():
    theirs, ours = layers(lambda inputs, w: (qml.RX(inputs[..., 0] + w, 0), qml.expval(qml.Z(0)))[1], {"w": 1}, 1)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    with torch.no_grad():
        ours.w.fill_(0.25)
    theirs.load_state_dict(ours.state_dict())
    assert theirs(torch.zeros(1)).item() == pytest.approx(math.cos(0.25))


def test_initial_weights_are_pennylanes():
    node = qml.QNode(lambda inputs, w: (qml.RX(w[0], 0), qml.expval(qml.Z(0)))[1], qml.device("default.qubit", wires=1))
    values = []
    for layer in (qml.qnn.TorchLayer, TorchLayer):
        torch.manual_seed(0)
        values.append(layer(node, {"w": 2}).w.detach())
    assert torch.equal(*values)
    assert torch.equal(TorchLayer(node, {"w": (2,)}, {"w": torch.ones(2)}).w, torch.ones(2))


def test_layer_can_be_copied_and_trained():
    _, layer = layers(lambda inputs, w: (qml.RX(inputs[..., 0] + w, 0), qml.expval(qml.Z(0)))[1], {"w": 1}, 1)
    layer(torch.zeros(2, 1))
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.w.add_(1.0)
    x = torch.zeros(1)
    assert twin(x).item() == pytest.approx(math.cos(layer.w.item() + 1.0), abs=1e-6)
    model = torch.nn.Sequential(torch.nn.Linear(3, 1), layer)
    model(torch.rand(4, 3)).sum().backward()
    assert layer.w.grad is not None


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")])
def test_the_first_call_may_come_anywhere(state):
    """A trained layer is loaded and evaluated: no gradients at the call that reads the QNode."""

    def function(inputs, w):
        qml.AngleEmbedding(inputs + torch.ones(3), wires=WIRES)
        qml.RX(w, 0)
        return [qml.expval(qml.Z(k)) for k in WIRES]

    theirs, ours = layers(function, {"w": 1})
    inputs = torch.rand(4, 3)
    with state():
        y = ours(inputs)
    torch.testing.assert_close(y.clone(), theirs(inputs).detach(), check_dtype=False)


def test_weights_that_are_not_used_get_no_gradient():
    _, layer = layers(lambda inputs, w: (qml.RX(w[0], 0), qml.expval(qml.Z(0)))[1], {"w": (3,)}, 1)
    layer(torch.rand(4, 2)).sum().backward()
    assert torch.equal(layer.w.grad[1:], torch.zeros(2))


def test_functions_of_a_batch_only():
    def function(inputs, w):
        qml.RX(inputs[:, 0] * 2 + w[0], 0)
        qml.RY(inputs[:, 1], 1)
        qml.CNOT([0, 1])
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]

    theirs, ours = layers(function, {"w": (1,)}, 2)
    x = torch.rand(6, 2)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("features", [3, 4, 8])
def test_amplitude_embedding(features):
    def function(inputs, w):
        qml.AmplitudeEmbedding(inputs, wires=WIRES, normalize=True, pad_with=0.0)
        qml.BasicEntanglerLayers(w, wires=WIRES)
        return [qml.expval(qml.Z(k)) for k in WIRES]

    theirs, ours = layers(function, {"w": (2, 3)})
    x = torch.rand(5, features) - 0.5
    torch.testing.assert_close(ours(x), theirs(x))


def test_amplitudes_of_some_inputs_on_the_last_wires():
    def function(inputs):
        qml.AmplitudeEmbedding(inputs[..., 1:5], wires=[1, 2], normalize=True)
        qml.RX(inputs[..., 0], 0)
        qml.CNOT([0, 2])
        return [qml.expval(qml.Z(k)) for k in WIRES]

    circuit = from_qnode(qml.QNode(function, qml.device("default.qubit", wires=3)), {}, 5)
    assert circuit.gates[0].angles[0] == hqf.Input(1)
    theirs, ours = layers(function, {})
    x = torch.rand(5, 5) - 0.5
    torch.testing.assert_close(ours(x), theirs(x))


def test_transforms_of_the_user_are_applied():
    @qml.transforms.merge_rotations
    @qml.qnode(qml.device("default.qubit", wires=1))
    def node(inputs, w):
        qml.RX(inputs[0], 0)
        qml.RX(w[0], 0)
        return qml.expval(qml.Z(0))

    circuit = from_qnode(node, {"w": (1,)})
    assert str(circuit.gates) == str(hqf.Circuit(1).rx(hqf.Input(0) + hqf.Weight(0), 0).gates)


def test_wires_keep_the_devices_order():
    @qml.qnode(qml.device("default.qubit", wires=["a", 7, "b"]))
    def node(inputs):
        qml.CNOT(["b", "a"])
        return qml.expval(qml.Z(7))

    circuit = from_qnode(node, {})
    assert circuit.gates[0].qubits == (2, 0)
    assert circuit.observables == ("IZI",)


LABELS = {
    "one first": [1, 0],
    "three": [2, 0, 1],
    "not from zero": [2, 1],
    "strings": ["b", "a"],
    "mixed": ["z", 1, "a"],
}
MEASURED = {
    "probs": lambda wires: qml.probs(),
    "probs of one": lambda wires: qml.probs(wires=wires[1]),
    "probs of all": lambda wires: qml.probs(wires=wires[::-1]),
    "expval and probs": lambda wires: [qml.expval(qml.Z(wires[0])), qml.probs()],
    "a wire that is only measured": lambda wires: [qml.expval(qml.Z("m") @ qml.Z(wires[0])), qml.probs()],
}


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
@pytest.mark.parametrize("wires", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("named", [False, True], ids=["device without wires", "device with wires"])
def test_wires_have_pennylanes_order(named, wires, measured):
    def function(inputs, w):
        qml.QFT(wires=wires)
        for k, wire in enumerate(wires):
            qml.RY(inputs[..., k] + w, wire)
        return measured(wires)

    names = sorted([*wires, "m"], key=str) if named else None
    theirs, ours = layers(function, {"w": 1}, names)
    x = torch.rand(4, 3)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_norms_of_the_function_itself():
    def function(inputs):
        qml.StatePrep(inputs / torch.linalg.norm(inputs, dim=-1, keepdim=True), wires=[1, 2])
        qml.CNOT([1, 0])
        return [qml.expval(qml.Z(k)) for k in WIRES]

    theirs, ours = layers(function, {})
    x = torch.rand(5, 4) - 0.5
    torch.testing.assert_close(ours(x), theirs(x))


def test_values_that_do_not_depend_on_the_data_may_be_read():
    """PennyLane looks for a real part in the factor of an exponential."""

    def function(inputs, w):
        qml.exp(qml.X(0), 1j * inputs[..., 0])
        qml.FermionicSWAP(w, [0, 1])
        return qml.expval(qml.Z(0))

    theirs, ours = layers(function, {"w": 1}, 2)
    for x in torch.tensor([[0.7], [-30.0]]):
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


# --- weights that torch replaces ------------------------------------------------------------------------------------


class Doubled(torch.nn.Module):
    def forward(self, weights):
        return 2 * weights


def trained_layer(seed=0):
    @qml.qnode(qml.device("default.qubit", wires=2))
    def node(inputs, w):
        qml.AngleEmbedding(inputs, wires=range(2))
        qml.BasicEntanglerLayers(w, wires=range(2))
        return [qml.expval(qml.Z(k)) for k in range(2)]

    torch.manual_seed(seed)
    return TorchLayer(node, {"w": (3, 2)})


def pruned(layer, x):
    prune.random_unstructured(layer, "w", 0.5)
    layer.w_orig.data += 0.1
    return layer(x), layer.w_orig * layer.w_mask


def parametrized(layer, x):
    torch.nn.utils.parametrize.register_parametrization(layer, "w", Doubled())
    return layer(x), layer.w


def weight_norm(layer, x):
    torch.nn.utils.parametrizations.weight_norm(layer, "w")
    layer.parametrizations.w.original0.data *= 1.5
    return layer(x), layer.w


def old_weight_norm(layer, x):
    torch.nn.utils.weight_norm(layer, "w")
    layer.w_g.data *= 1.5
    return layer(x), torch._weight_norm(layer.w_v, layer.w_g, 0)


def spectral_norm(layer, x):
    torch.nn.utils.parametrizations.spectral_norm(layer, "w")
    layer.eval()
    return layer(x), layer.w


def old_spectral_norm(layer, x):
    torch.nn.utils.spectral_norm(layer, "w")
    layer.eval()
    return layer(x), layer.w


def copied(layer, x):
    parametrized(layer, x)
    layer = copy.deepcopy(layer)
    return layer(x), layer.w


def replica(layer, x):
    """As `torch.nn.DataParallel` makes them."""
    twin = layer._replicate_for_data_parallel()
    twin.w = 1.5 * layer.w
    return twin(x), twin.w


def called_with(layer, x):
    weights = torch.rand(3, 2, requires_grad=True)
    return torch.func.functional_call(layer, {"w": weights}, (x,)), weights


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("called_before", [False, True])
@pytest.mark.parametrize(
    "replaced",
    [
        pruned,
        parametrized,
        weight_norm,
        old_weight_norm,
        spectral_norm,
        old_spectral_norm,
        copied,
        replica,
        called_with,
    ],
    ids=lambda f: f.__name__,
)
def test_weights_in_force_are_used(replaced, called_before):
    layer, x = trained_layer(), torch.rand(4, 2)
    if called_before:
        layer(x)
    y, weights = replaced(layer, x)
    plain = trained_layer()
    plain.w.data = weights.detach().clone()
    torch.testing.assert_close(y, plain(x))
    assert y.requires_grad
    y.sum().backward()


@pytest.mark.parametrize("called_before", [False, True])
def test_ensembles(called_before):
    models, x = [trained_layer(seed) for seed in range(3)], torch.rand(4, 2)
    base = trained_layer()
    if called_before:
        base(x)
    base = base.to("meta")
    parameters, buffers = torch.func.stack_module_state(models)
    y = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(parameters, buffers)
    torch.testing.assert_close(y, torch.stack([model(x) for model in models]))


def exported(layer, x):
    return torch.export.export(layer, (x,)).module()(x)


def compiled(layer, x):
    return torch.compile(layer, backend="eager")(x)


def mapped(layer, x):
    return torch.vmap(layer)(x)


def autocast(layer, x):
    with torch.autocast("cpu"):
        return layer(x)


@pytest.mark.parametrize("how", [exported, compiled, mapped, autocast], ids=lambda f: f.__name__)
def test_the_first_call_may_be_traced(how):
    layer, x = trained_layer(), torch.rand(4, 2)
    y = how(layer, x)
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("dtype", [torch.cfloat, torch.cdouble])
def test_complex_weights_are_named(dtype):
    with pytest.raises(TypeError, match=f"weight 'w': expected real numbers, got {dtype}"):
        trained_layer().to(dtype)(torch.rand(4, 2))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_weights(dtype):
    layer, x = trained_layer().to(dtype), torch.rand(4, 2)
    exact = trained_layer()
    exact.w.data = layer.w.detach().float()
    torch.testing.assert_close(layer(x), exact(x))
    assert layer(x.to(dtype)).dtype == dtype


# --- refusals -------------------------------------------------------------------------------------------------------


def measured_in_between(inputs, w):
    qml.RX(inputs[0], 0)
    qml.measure(0)


def depends_on_an_input(inputs, w):
    if inputs[0] > 0:
        qml.RX(inputs[0], 0)


def depends_on_a_number(inputs, w):
    qml.RX(inputs[0].item(), 0)


def depends_through_numpy(inputs, w):
    qml.RX(inputs.detach().numpy()[0], 0)


def jumps(inputs, w):
    for _ in range(int(inputs.detach().numpy()[0] > 0)):
        qml.RX(inputs[0], 0)


def product(inputs, w):
    qml.RY(0.1, 1)
    qml.RX(inputs[0] * w[0], 1)


def curved(inputs, w):
    qml.CRX(torch.sin(inputs[1]), wires=[0, 1])


def matrix(inputs, w):
    qml.QubitUnitary(torch.matrix_exp(1j * inputs[0] * torch.tensor([[0, 1.0], [1, 0]], dtype=torch.complex128)), 0)
    qml.RX(inputs[0] ** 2, 0)


def not_normalised(inputs, w):
    qml.AmplitudeEmbedding(inputs, wires=0)


def padded(inputs, w):
    qml.AmplitudeEmbedding(inputs, wires=[0, 1], pad_with=0.3, normalize=True)


def channel(inputs, w):
    qml.AmplitudeDamping(0.1, wires=0)


def elsewhere(inputs, w):
    qml.X(5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (measured_in_between, "mid-circuit measurement of wire 0.*defer_measurements"),
        (depends_on_an_input, "depends on the data"),
        (depends_on_a_number, "depends on the data"),
        (depends_through_numpy, r"reads a value that depends on inputs or weights \(detach\)"),
        (jumps, r"reads a value that depends on inputs or weights \(detach\)"),
        (product, "angle of RX on wire.*1 is not affine.*pass it in as an input"),
        (curved, r"angle of CRX on wire\(s\) 0, 1 is not affine"),
        (matrix, "is not affine"),
        (not_normalised, "state preparation.*normalize=True"),
        (padded, "normalize=True, pad_with=0"),
        (channel, "AmplitudeDamping.*not supported"),
        (elsewhere, "X acts on wire 5, which its device does not have"),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_what_is_no_circuit_is_refused(function, message):
    def whole(inputs, w):
        function(inputs, w)
        return qml.expval(qml.Z(0))

    node = qml.QNode(whole, qml.device("default.qubit", wires=2))
    with pytest.raises(ValueError, match=f"qnode: .*{message}"):
        from_qnode(node, {"w": (1,)})
    with pytest.raises(ValueError, match=f"qnode: .*{message}"):
        TorchLayer(node, {"w": (1,)})(torch.rand(3, 2))


def node_of(function, wires=2, **options):
    return qml.QNode(function, qml.device("default.qubit", wires=wires), **options)


def rx(inputs, w):
    qml.RX(inputs[0] + w[0], 0)
    return qml.expval(qml.Z(0))


@pytest.mark.parametrize(
    ("node", "shapes", "options", "error", "message"),
    [
        (rx, {"w": 1}, {}, TypeError, "qnode: expected a qml.QNode"),
        (node_of(rx), [1], {}, TypeError, "weight_shapes: expected a dict"),
        (node_of(rx), {}, {}, ValueError, "shape of 'w'.* is missing"),
        (node_of(rx), {"w": (1,), "v": (1,)}, {}, ValueError, "no argument 'v'"),
        (node_of(rx), {"w": (1,), "inputs": (2,)}, {}, ValueError, "'inputs' is the argument of the inputs"),
        (node_of(lambda *w: qml.expval(qml.Z(0))), {}, {}, TypeError, "which 'w' cannot be"),
        (node_of(rx, None), {"w": (1,)}, {}, ValueError, "n_inputs: .*must be given"),
        (node_of(rx), {"w": (1,)}, {"n_inputs": 0}, ValueError, "one sample of 0 inputs"),
        (node_of(rx, shots=10), {"w": (1,)}, {}, ValueError, "finite shots.*hqf.qubit"),
        (node_of(lambda inputs: qml.var(qml.Z(0))), {}, {}, ValueError, "var.*not supported"),
        (node_of(lambda inputs: qml.state()), {}, {}, ValueError, "state.*not supported"),
        (node_of(lambda inputs: qml.expval(qml.Hermitian(np.eye(2), 0))), {}, {}, ValueError, "Hermitian"),
        (node_of(lambda inputs: qml.expval(2 * qml.Z(0))), {}, {}, ValueError, "sums or multiples.*TorchLayer"),
        (node_of(lambda inputs: qml.expval(inputs[0] * qml.Z(0))), {}, {}, ValueError, "coefficients that depend"),
        (node_of(lambda inputs: qml.probs(wires=1)), {}, {}, ValueError, "all wires in order"),
        (
            node_of(lambda inputs: [qml.expval(qml.Z(0)), qml.expval(qml.Z(0))]),
            {},
            {},
            ValueError,
            "the same Pauli word twice",
        ),
    ],
)
def test_bad_arguments_are_named(node, shapes, options, error, message):
    with pytest.raises(error, match=message):
        from_qnode(node, shapes, **options)


@qml.transform
def doubled(tape):
    return [tape], lambda results: 2 * results[0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda: None, "expected it to return a measurement.*got NoneType None"),
        (lambda: 3.0, "expected it to return a measurement.*got float 3.0"),
        (list, r"expected it to return a measurement.*got list \[\]"),
        (lambda: qml.Z(0), "expected it to return a measurement.*got PauliZ"),
        (lambda: [qml.expval(qml.Z(0)), 1.0], "expected it to return a measurement.*got list"),
        (lambda: {"a": qml.expval(qml.Z(0))}, "expected it to return a measurement.*got dict"),
        (lambda: np.array([qml.expval(qml.Z(0))]), "expected it to return a measurement.*got ndarray"),
        (lambda: [qml.expval(qml.Z(0)), qml.expval(qml.X(0))][::-1], "in the order in which they are made"),
        (lambda: (qml.expval(qml.Z(0)), qml.expval(qml.X(0)))[0], "other measurements than it makes"),
        (lambda: 2 * [qml.expval(qml.Z(0))], "other measurements than it makes"),
        (lambda: qml.expval(qml.Z(1)), r"expval\(Z\(1\)\) acts on wire 1, which its device does not have"),
        (lambda: qml.probs(wires=[0, 1]), "acts on wire 1, which its device does not have"),
        (lambda: qml.expval(qml.X(0) @ qml.Y(0)), "is not real: a coefficient is 1j"),
    ],
)
def test_what_a_qnode_must_return(returned, message):
    def function(inputs):
        qml.RX(inputs[..., 0], 0)
        return returned()

    with pytest.raises(ValueError, match=f"qnode: .*{message}"):
        TorchLayer(node_of(function, 1), {})(torch.rand(3, 1))


@pytest.mark.parametrize("transform", [doubled, qml.transforms.split_non_commuting])
def test_transforms_that_change_results_are_refused(transform):
    def function(inputs):
        qml.RX(inputs[..., 0], 0)
        return [qml.expval(qml.Z(0)), qml.expval(qml.X(0))]

    with pytest.raises(
        ValueError, match="qnode: its transforms make several circuits of it, or change what they return"
    ):
        TorchLayer(transform(node_of(function)), {})(torch.rand(3, 1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, :] - x.mean(0, keepdim=True), "mixes the samples of a batch"),
        (lambda x: x[:, :] * torch.arange(len(x))[:, None], "differs between the samples of a batch"),
    ],
)
def test_samples_of_a_batch_are_apart(function, message):
    def whole(inputs):
        qml.RX(function(inputs)[:, 0], 0)
        return qml.expval(qml.Z(0))

    with pytest.raises(ValueError, match=f"qnode: the angle of RX on wire.*0 {message}"):
        TorchLayer(node_of(whole), {})(torch.rand(3, 2))


@pytest.mark.parametrize(
    "state",
    [
        lambda x: x + 1e-8,
        lambda x: x.flip(-1),
        lambda x: torch.cat([x[..., :2], x[..., :2]], -1),
        lambda x: x * torch.tensor([1, 1, 1, 1 + 1e-9], dtype=torch.float64),
        lambda x: torch.complex(x, x.flip(-1)),
    ],
)
def test_amplitudes_are_the_inputs_themselves(state):
    def function(inputs):
        qml.AmplitudeEmbedding(state(inputs), wires=[0, 1], normalize=True)
        return qml.expval(qml.Z(0))

    with pytest.raises(ValueError, match="qnode: a state preparation"):
        TorchLayer(node_of(function), {})(torch.zeros(3, 4))


@pytest.mark.parametrize(
    "norm", [lambda x: x.flip(-1).norm(), lambda x: x.norm(p=1), lambda x: x.norm().clamp_min(1e-12), lambda x: 2.0]
)
def test_norms_are_those_of_the_amplitudes(norm):
    def function(inputs):
        qml.StatePrep(inputs / norm(inputs), wires=[0, 1])
        return qml.expval(qml.Z(0))

    with pytest.raises(ValueError, match="qnode: a state preparation must hold consecutive inputs, normalised"):
        TorchLayer(node_of(function), {})(torch.zeros(4))


def test_a_layer_speaks_of_what_it_was_given():
    layer = TorchLayer(node_of(lambda inputs: qml.AngleEmbedding(inputs, [0, 1]) and qml.expval(qml.Z(0))), {})
    with pytest.raises(ValueError, match="one sample of 3 inputs: Features must be of length 2 or less") as error:
        layer(torch.rand(5, 3))
    assert "n_inputs" not in str(error.value)
    with pytest.raises(TypeError, match="weight_shapes: expected a dict"):
        TorchLayer(node_of(rx), [1])  # type: ignore[arg-type]


def test_layer_names_bad_inputs():
    layer = TorchLayer(node_of(rx), {"w": (1,)})
    with pytest.raises(TypeError, match=r"inputs: expected a tensor \(..., n_features\), got list"):
        layer([1.0])
    with pytest.raises(TypeError, match="qnode: expected a qml.QNode"):
        TorchLayer(rx, {"w": (1,)})


def test_weights_of_another_shape_are_another_circuit():
    layer, x = trained_layer(), torch.rand(4, 2)
    layer(x)
    weights = torch.rand(5, 2)
    y = torch.func.functional_call(layer, {"w": weights}, (x,))
    other = TorchLayer(layer.qnode, {"w": (5, 2)}, {"w": weights})
    torch.testing.assert_close(y, other(x).detach())
