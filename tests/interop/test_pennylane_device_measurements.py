"""hqf.qubit against default.qubit: everything that can be measured, by every way to differentiate it."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

qml = pytest.importorskip("pennylane")
from pennylane import numpy as pnp  # noqa: E402
from pennylane.measurements import StateMeasurement, VnEntropyMP  # noqa: E402

from hqfkernels.interop.pennylane import HQFQubit  # noqa: E402

MATRIX = np.array([[1, 2j], [-2j, 0.5]])
WEIGHTS = np.array([0.5, 1.2, -0.4])


def sparse():
    with qml.QueuingManager.stop_recording():
        return qml.Hamiltonian([0.2, 1.0], [qml.X(0) @ qml.Z(1), qml.Y(2)]).sparse_matrix([0, 1, 2])


REAL = {
    "word": lambda: qml.expval(qml.Z(0)),
    "sum": lambda: qml.expval(0.3 * qml.Z(0) - qml.X(1) @ qml.Y(2)),
    "matrix": lambda: qml.expval(qml.Hermitian(MATRIX, 1)),
    "matrices": lambda: qml.expval(qml.Hermitian(MATRIX, 1) @ qml.Hermitian(MATRIX, 2)),
    "two-qubit matrix": lambda: qml.expval(qml.Hermitian(np.kron(MATRIX, MATRIX) + np.diag([1, 2, 3, 4]), [2, 0])),
    "matrix and word": lambda: qml.expval(qml.Hermitian(MATRIX, 1) + 2.0 * qml.Z(0)),
    "hadamard": lambda: qml.expval(qml.H(0) @ qml.Z(1)),
    "projector": lambda: qml.expval(qml.Projector([1, 0], [0, 2])),
    "projector on a state": lambda: qml.expval(qml.Projector(np.array([0.6, 0.8j]), [2])),
    "exponential": lambda: qml.expval(qml.exp(qml.Z(0) @ qml.X(1), 0.3)),
    "controlled": lambda: qml.expval(qml.CNOT([0, 1])),
    "var word": lambda: qml.var(2.0 * qml.Z(0) @ qml.X(1)),
    "var sum": lambda: qml.var(0.3 * qml.Z(0) - qml.X(1) @ qml.Y(2) + qml.X(0)),
    "var hamiltonian": lambda: qml.var(qml.Hamiltonian([0.3, 1.5], [qml.Z(0), qml.X(0) @ qml.Y(1)])),
    "var matrix": lambda: qml.var(qml.Hermitian(MATRIX, 1)),
    "var multiple of a matrix": lambda: qml.var(2.0 * qml.Hermitian(MATRIX, 1)),
    "var matrix and word": lambda: qml.var(qml.Hermitian(MATRIX, 1) + qml.Z(0)),
    "var product": lambda: qml.var(qml.Hermitian(MATRIX, 1) @ qml.H(0)),
    "var projector": lambda: qml.var(qml.Projector([1, 0], [0, 2])),
    "var controlled": lambda: qml.var(qml.CNOT([0, 1])),
    "probs": lambda: qml.probs(wires=[2, 0]),
    "probs of all": lambda: qml.probs(),
    "probs of an observable": lambda: qml.probs(op=qml.Y(1)),
    "probs of a matrix": lambda: qml.probs(op=qml.Hermitian(MATRIX, 1)),
    "probs of a product": lambda: qml.probs(op=qml.X(0) @ qml.H(1)),
    "purity": lambda: qml.purity([0]),
    "purity of two": lambda: qml.purity([2, 0]),
    "entropy": lambda: qml.vn_entropy([0]),
    "entropy in bits": lambda: VnEntropyMP(wires=qml.wires.Wires([0, 2]), log_base=2),
    "mutual information": lambda: qml.mutual_info([0], [1]),
}
COMPLEX = {
    "state": lambda: qml.state(),
    "density matrix": lambda: qml.density_matrix([2, 0]),
    "product of words": lambda: qml.expval(qml.X(0) @ qml.Y(0)),
    "multiple of a word": lambda: qml.expval((0.3 + 1j) * qml.Z(0)),
    "complex sum": lambda: qml.expval(qml.sum(qml.Z(0), 1j * qml.X(1))),
    "complex hamiltonian": lambda: qml.expval(qml.Hamiltonian([1.0, 0.5j], [qml.Z(0), qml.X(1)])),
    "multiple of a matrix": lambda: qml.expval(1j * qml.Hermitian(MATRIX, 0)),
    "multiple of a projector": lambda: qml.expval(1j * qml.Projector([1, 0], [0, 1])),
    "product of gates": lambda: qml.expval(qml.H(0) @ qml.X(0)),
    "complex exponential": lambda: qml.expval(qml.exp(qml.Z(0), 0.3j)),
}


def circuit(x, w):
    qml.RX(x, 0)
    qml.RY(w[0], 1)
    qml.CNOT([0, 1])
    qml.RY(0.5 * x, 2)
    qml.CRX(w[1], [1, 2])
    qml.RZ(w[2], 0)
    qml.IsingXY(w[0], [0, 2])
    qml.RY(0.7, 0)


def node(device, measured, **options):
    def function(x, w):
        circuit(x, w)
        return [m() for m in measured]

    return qml.QNode(function, device, **options)


def angles(batched):
    return np.array([0.3, -0.8, 1.9, 0.4, 2.2]) if batched else np.array(0.3)


def scalar(result, library):
    """A real number to which every entry, real and imaginary part, contributes differently."""
    flat = library.reshape(result, (-1,))
    scale: Any = np.linspace(0.3, 1.7, flat.shape[0])
    if library is torch:
        scale = torch.from_numpy(scale)
    re, im = library.real(flat), library.imag(flat) if "complex" in str(flat.dtype) else 0 * scale
    return library.sum(scale * (re**2 + re + 2 * im + re * im))


def by_torch(function, batched):
    """Values and gradients for each result."""
    x, w = torch.tensor(angles(batched), requires_grad=True), torch.tensor(WEIGHTS, requires_grad=True)
    found = []
    for result in function(x, w):
        grads = torch.autograd.grad(scalar(result, torch), (x, w), retain_graph=True, allow_unused=True)
        found.append((result.detach(), *grads))
    return found


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("kind", [REAL, COMPLEX], ids=["real", "complex"])
def test_values_and_gradients(kind, batched):
    measured = list(kind.values())
    ours = by_torch(node(HQFQubit(wires=3), measured), batched)
    theirs = by_torch(node(qml.device("default.qubit", wires=3), measured, diff_method="backprop"), batched)
    for name, actual, expected in zip(kind, ours, theirs, strict=True):
        for a, e in zip(actual, expected, strict=True):
            # PennyLane has the matrices of Hamiltonians in complex64.
            torch.testing.assert_close(a, e, rtol=0, atol=1e-6, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("interface", ["autograd", "jit"])
def test_gradients_of_other_interfaces(interface, batched):
    """As torch's, for all measurements at once."""
    kinds = [REAL, COMPLEX if interface == "autograd" else {n: COMPLEX[n] for n in ("state", "density matrix")}]
    for measured in ([*kind.values()] for kind in kinds):
        found = by_torch(node(HQFQubit(wires=3), measured), batched)
        expected = [torch.stack(grads).sum(0) for grads in ([f[k] for f in found] for k in (1, 2))]
        function = node(HQFQubit(wires=3), measured)
        library: Any = pnp if interface == "autograd" else pytest.importorskip("jax").numpy

        def total(x, w, function=function, library=library):
            return sum(scalar(r, library) for r in function(x, w))

        if interface == "autograd":
            arguments = [pnp.array(a, requires_grad=True) for a in (angles(batched), WEIGHTS)]
            actual = qml.grad(total)(*arguments)
        else:
            jax = pytest.importorskip("jax")
            jax.config.update("jax_enable_x64", True)
            actual = jax.grad(jax.jit(total), argnums=(0, 1))(angles(batched), WEIGHTS)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-8)


def test_gradients_of_jax_without_jit():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    measured = [REAL["purity"], COMPLEX["state"]]
    function = node(HQFQubit(wires=3), measured)
    found = by_torch(function, True)
    grad = jax.grad(lambda x: sum(scalar(r, jax.numpy) for r in function(x, WEIGHTS)))(angles(True))
    np.testing.assert_allclose(grad, sum(f[1] for f in found), rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift", "finite-diff", "hadamard", "spsa"])
def test_every_method_is_right_or_refused(method):
    device = HQFQubit(wires=4 if method == "hadamard" else 3)
    options = {"aux_wire": 3} if method == "hadamard" else {}
    refused = []
    for name, measured in (REAL | COMPLEX).items():
        if method == "spsa" and name in REAL:  # right on average
            continue
        expected = by_torch(node(HQFQubit(wires=device.wires), [measured]), False)[0]
        try:
            actual = by_torch(node(device, [measured], diff_method=method, gradient_kwargs=options), False)[0]
        except (ValueError, qml.exceptions.QuantumFunctionError):
            refused.append(name)
            continue
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-5, msg=partial("{}: {}".format, name))
    if method != "adjoint":
        assert set(COMPLEX) <= set(refused)
    if method == "parameter-shift":
        assert not {"word", "sum", "matrix", "var word", "var matrix", "var product", "probs"} & set(refused)
        assert {"purity", "entropy", "mutual information", "var sum", "var multiple of a matrix"} <= set(refused)


def test_a_rule_that_does_not_hold_computes_values_all_the_same():
    for method in ("parameter-shift", "hadamard", "finite-diff"):
        function = node(HQFQubit(wires=4), [REAL["purity"]], diff_method=method, gradient_kwargs={})
        x = pnp.array(0.3, requires_grad=True)
        expected = node(qml.device("default.qubit", wires=4), [REAL["purity"]])(0.3, WEIGHTS)
        np.testing.assert_allclose(function(x, WEIGHTS), expected)


def test_second_derivatives_by_shifts_are_refused_where_they_do_not_hold():
    """With autograd and max_diff=2 PennyLane shifts."""
    function = node(HQFQubit(wires=3), [REAL["purity"]], max_diff=2)
    with pytest.raises(ValueError, match=r"param_shift does not hold for purity; .*best"):
        qml.grad(lambda x: function(x, WEIGHTS)[0])(pnp.array(0.3, requires_grad=True))
    function = node(HQFQubit(wires=3), [REAL["purity"], REAL["var sum"]], max_diff=2)
    expected = node(qml.device("default.qubit", wires=3), [REAL["purity"], REAL["var sum"]])
    x = torch.tensor(0.3, dtype=torch.float64)
    hessians = [torch.autograd.functional.hessian(lambda x, f=f: sum(f(x, WEIGHTS)), x) for f in (function, expected)]
    torch.testing.assert_close(*hessians, rtol=0, atol=1e-6)


def test_sparse_hamiltonians():
    """default.qubit does not differentiate them by backpropagation."""

    def function(x, w):
        circuit(x, w)
        return [qml.expval(qml.SparseHamiltonian(sparse(), [0, 1, 2]))]

    def dense(x, w):
        circuit(x, w)
        return [qml.expval(qml.Hamiltonian([0.2, 1.0], [qml.X(0) @ qml.Z(1), qml.Y(2)]))]

    for batched in (True, False):
        (ours,), (expected,) = (by_torch(qml.QNode(f, HQFQubit(wires=3)), batched) for f in (function, dense))
        for a, e in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-9)


def test_expectation_values_are_those_of_the_operator():
    """Of products on the same wire, PennyLane takes eigenvectors that are not orthogonal."""
    other = np.array([[1.0, 2.0], [2.0, 0.5]])
    state, value = node(
        HQFQubit(wires=3), [qml.state, lambda: qml.expval(qml.Hermitian(MATRIX, 0) @ qml.Hermitian(other, 0))]
    )(0.3, WEIGHTS)
    expected = np.vdot(state, np.kron(MATRIX @ other, np.eye(4)) @ state)
    np.testing.assert_allclose(value, expected)
    projector = node(HQFQubit(wires=14), [lambda: qml.expval(qml.Projector([0] * 14, range(14))), qml.probs])
    value, every = projector(0.3, WEIGHTS)
    np.testing.assert_allclose(value, every[0])


@pytest.mark.parametrize("shots", [None, 100])
def test_what_is_not_hermitian(shots):
    def refused(measured, match, interface="auto"):
        function = qml.set_shots(node(HQFQubit(wires=3), [measured], interface=interface), shots)
        with pytest.raises(ValueError, match=match):
            function(0.3, WEIGHTS)

    skew = np.array([[1.0, 2.0], [1.0, 0.5]])
    for observable in (lambda: 1j * qml.Z(0), lambda: qml.X(0) @ qml.Y(0), lambda: qml.H(0) + 1j * qml.Z(1)):
        refused(lambda observable=observable: qml.var(observable()), r"var\(.*expected a Hermitian observable")
    for measure in (qml.expval, qml.var):
        refused(lambda measure=measure: measure(qml.Hermitian(skew, 0)), "expected a Hermitian matrix")
    product = lambda: qml.Hermitian(MATRIX, 1) @ qml.Hermitian(np.diag([1.0, 2.0]), 1)  # noqa: E731
    refused(lambda: qml.probs(op=product()), "orthogonal eigenvectors")
    if shots:
        refused(lambda: qml.expval(product()), "orthogonal eigenvectors")
        refused(lambda: qml.sample(product()), "orthogonal eigenvectors")
    pytest.importorskip("jax")
    refused(COMPLEX["product of words"], "jax takes real results only", "jax")


def test_rounding_makes_no_observable_complex():
    rounded = MATRIX + np.array([[0, 1e-7], [0, 0]])
    word = (0.1 + 1e-17j) * qml.Z(0)
    measured = [lambda: qml.expval(qml.Hermitian(rounded, 0)), lambda: qml.var(word), lambda: qml.expval(word)]
    values = node(HQFQubit(wires=3), measured)(0.3, WEIGHTS)
    assert all(np.isrealobj(value) for value in values)


def test_shots_of_complex_observables():
    names = ["product of words", "multiple of a word", "complex sum", "multiple of a matrix", "product of gates"]
    function = node(HQFQubit(wires=3, seed=0), [COMPLEX[name] for name in names])
    sampled = qml.set_shots(function, 20000)
    np.testing.assert_allclose(sampled(0.3, WEIGHTS), function(0.3, WEIGHTS), rtol=0, atol=0.05)


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
def test_coefficients_and_matrices_of_observables_are_differentiable(batched):
    """default.qubit has no derivatives of some of these: the operators are applied to its state instead."""

    def observables(c, library):
        matrix = library.stack([library.stack([c[0], c[1]]), library.stack([c[1], c[2]])])
        words = qml.Hamiltonian(c[:2], [qml.Z(0), qml.X(0) @ qml.Y(1)])
        return words, qml.Hermitian(matrix, 1), qml.Hermitian(matrix, 1) @ qml.Z(0), qml.s_prod(c[2], qml.H(2))

    def ours(x, c, library):
        with qml.QueuingManager.stop_recording():
            operators = observables(c, library)
        circuit(x, WEIGHTS)
        return [measure(o) for measure in (qml.expval, qml.var) for o in operators]

    @qml.qnode(qml.device("default.qubit", wires=3))
    def state(x):
        circuit(x, WEIGHTS)
        return qml.state()

    x = torch.tensor(angles(batched), requires_grad=True)
    c = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64, requires_grad=True)
    node = qml.QNode(lambda x, c: ours(x, c, torch), HQFQubit(wires=3))
    psi = state(x)
    images = [psi @ qml.matrix(o, wire_order=range(3)).to(psi.dtype).mT for o in observables(c, torch)]
    means = [(psi.conj() * image).sum(-1).real for image in images]
    spreads = [(image.conj() * image).sum(-1).real - mean**2 for image, mean in zip(images, means, strict=True)]
    results = node(x, c)
    torch.testing.assert_close([*results], [*means, *spreads], rtol=0, atol=1e-9)
    grads = [torch.autograd.grad(sum(scalar(r, torch) for r in rs), (x, c)) for rs in (results, [*means, *spreads])]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-8)
    node = qml.QNode(lambda x, c: ours(x, c, pnp), HQFQubit(wires=3))
    arguments = [pnp.array(a.detach().numpy(), requires_grad=True) for a in (x, c)]
    for a, e in zip(qml.grad(lambda x, c: sum(scalar(r, pnp) for r in node(x, c)))(*arguments), grads[0], strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-8)


@pytest.mark.parametrize("library", [np, torch], ids=["numpy", "torch"])
def test_batches_of_coefficients_are_refused(library):
    """default.qubit does not take them either."""
    data = np.array([1.0, 2.0, 3.0])
    for operator in (qml.Z(0), qml.H(0)):
        measured = lambda operator=operator: qml.expval(  # noqa: E731
            qml.s_prod(data if library is np else torch.from_numpy(data), operator)
        )
        with pytest.raises(ValueError, match="expected one coefficient"):
            node(HQFQubit(wires=3), [measured])(0.3, WEIGHTS)


class Largest(StateMeasurement):
    """A measurement of one's own, for numpy."""

    def process_state(self, state, wire_order):
        return float(np.max(np.abs(state)))


def test_measurements_of_ones_own():
    ours, theirs = (node(d, [Largest])(0.3, WEIGHTS) for d in (HQFQubit(wires=3), qml.device("default.qubit", wires=3)))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


GATES = [
    lambda a, w: qml.RX(a, w[0]),
    lambda a, w: qml.Rot(a, 0.3, 2 * a, w[0]),
    lambda a, w: qml.CRY(a, w[:2]),
    lambda a, w: qml.SingleExcitationPlus(a, w[:2]),
    lambda a, w: qml.MultiRZ(a, w),
    lambda a, w: qml.PauliRot(a, "XYZ", w),
    lambda a, w: qml.ctrl(qml.RY(a, w[0]), w[1:], control_values=[0, 1]),
    lambda a, w: qml.exp(qml.X(w[0]) @ qml.Z(w[1]) + 0.5 * qml.Y(w[1]), 1j * a),
    lambda a, w: qml.adjoint(qml.SingleExcitation(a, w[:2])),
    lambda a, w: qml.Toffoli(w),
]
METHODS = ["best", "best", "best", "parameter-shift", "finite-diff"]


@pytest.mark.parametrize("seed", range(20))
def test_random_circuits(seed):
    """A circuit, measurements, an interface and a method, all drawn."""
    rng = np.random.default_rng(seed)
    method = METHODS[seed % len(METHODS)]
    batched = method == "best" and bool(rng.integers(2))
    interface = "torch" if rng.integers(2) else "autograd"
    names = rng.choice([*(REAL | COMPLEX)] if method == "best" else [*REAL], 3, replace=False)
    measured = [(REAL | COMPLEX)[name] for name in names]
    plan = [(rng.integers(len(GATES)), rng.permutation(3).tolist(), rng.normal(size=3)) for _ in range(8)]

    def function(x, w):
        for k, wires, (a, b, c) in plan:
            GATES[k](a * x + b * w[k % 3] + c, wires)
        return [m() for m in measured]

    theirs = qml.QNode(function, qml.device("default.qubit", wires=3), diff_method="backprop")
    expected = by_torch(theirs, batched)
    ours = qml.QNode(function, HQFQubit(wires=3), diff_method=method)
    try:
        if interface == "torch":
            actual = by_torch(ours, batched)
        else:
            arguments = [pnp.array(a, requires_grad=True) for a in (angles(batched), WEIGHTS)]
            grads = qml.grad(lambda x, w: sum(scalar(r, pnp) for r in ours(x, w)))(*arguments)
            actual = [map(torch.as_tensor, grads)]
            expected = [[sum(f[k] for f in expected) for k in (1, 2)]]
    except ValueError as error:
        if method == "best" or "does not hold for" not in str(error):
            raise
        return
    for a, e in zip((t for ts in actual for t in ts), (t for ts in expected for t in ts), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=1e-6 if method == "best" else 1e-4)
