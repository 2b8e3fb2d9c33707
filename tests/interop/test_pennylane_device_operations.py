"""hqf.qubit against default.qubit: every operation of PennyLane, plain, batched, controlled, inverted, as a power."""

import inspect
from functools import partial

import numpy as np
import pytest
import torch

qml = pytest.importorskip("pennylane")
from pennylane import numpy as pnp  # noqa: E402
from pennylane.ops import Controlled  # noqa: E402
from pennylane.ops.qutrit import __all__ as qutrit_names  # noqa: E402

from hqfkernels.interop.pennylane import HQFQubit  # noqa: E402
from hqfkernels.interop.pennylane.operations import take_apart  # noqa: E402

WIRES = [*range(5), "a", "b"]
BATCH = 3


def unitary(rng, n):
    return np.linalg.qr(rng.normal(size=(2**n, 2**n)) + 1j * rng.normal(size=(2**n, 2**n)))[0]


def unitaries(rng, n):
    return np.stack([unitary(rng, n) for _ in range(BATCH)])


def amplitudes(rng, n):
    vector = rng.normal(size=2**n) + 1j * rng.normal(size=2**n)
    return vector / np.linalg.norm(vector)


def words(*coefficients):
    return qml.Hamiltonian(coefficients, [qml.Z(0) @ qml.X(1), qml.Y(0), qml.X(1)][: len(coefficients)])


def block(weights, wires):
    qml.RX(weights[0], wires[0])
    qml.CNOT(wires)


ANGLES = {
    **dict.fromkeys(("RX", "RY", "RZ", "PhaseShift", "U1", "GlobalPhase"), (1, 1)),
    **{"U2": (2, 1), "U3": (3, 1), "Rot": (3, 1), "CRot": (3, 2), "OrbitalRotation": (1, 4), "MultiRZ": (1, 3)},
    **dict.fromkeys(("CRX", "CRY", "CRZ", "ControlledPhaseShift", "PSWAP", "FermionicSingleExcitation"), (1, 2)),
    **dict.fromkeys(("CPhaseShift00", "CPhaseShift01", "CPhaseShift10", "FermionicSWAP"), (1, 2)),
    **dict.fromkeys(("IsingXX", "IsingYY", "IsingZZ", "IsingXY"), (1, 2)),
    **dict.fromkeys(("SingleExcitation", "SingleExcitationPlus", "SingleExcitationMinus"), (1, 2)),
    **dict.fromkeys(("DoubleExcitation", "DoubleExcitationPlus", "DoubleExcitationMinus"), (1, 4)),
}
"""Numbers of angles and of wires."""
FIXED = {
    **dict.fromkeys(("Identity", "PauliX", "PauliY", "PauliZ", "Hadamard", "S", "T", "SX"), 1),
    **dict.fromkeys(("CNOT", "CY", "CZ", "CH", "SWAP", "ISWAP", "SISWAP", "ECR"), 2),
    **dict.fromkeys(("CCZ", "CSWAP", "Toffoli", "MultiControlledX", "QubitSum"), 3),
    "QubitCarry": 4,
}
"""Number of wires."""


def of_angles(name):
    count, n = ANGLES[name]
    return lambda t, rng: getattr(qml, name)(*(t() for _ in range(count)), wires=range(n))


def fixed(name):
    return lambda t, rng: getattr(qml, name)(wires=range(FIXED[name]))


# Name -> an operation, from `t`, which draws an angle or a batch of them, and a generator.
SMALL = {
    **{name: of_angles(name) for name in ANGLES},
    "PauliRot": lambda t, rng: qml.PauliRot(t(), "XYZ", [0, 1, 2]),
    "PauliRot of identities": lambda t, rng: qml.PauliRot(t(), "II", [0, 1]),
    "PCPhase": lambda t, rng: qml.PCPhase(t(), 3, wires=[0, 1]),
    "PCPhase of three": lambda t, rng: qml.PCPhase(t(), 5, wires=[0, 1, 2]),
    "SpecialUnitary": lambda t, rng: qml.SpecialUnitary(np.stack([t() for _ in range(3)], -1), 0),
    "SpecialUnitary of two": lambda t, rng: qml.SpecialUnitary(np.stack([t() for _ in range(15)], -1), [0, 1]),
    "DiagonalQubitUnitary": lambda t, rng: qml.DiagonalQubitUnitary(
        np.exp(1j * np.stack([t() for _ in range(4)], -1)), [0, 1]
    ),
    "exp": lambda t, rng: qml.exp(qml.X(0) @ qml.Z(1) + 0.4 * qml.Y(0), 1j * t()),
    "exp of a word": lambda t, rng: qml.exp(qml.X(0) @ qml.Z(1), 1j * t()),
    "exp of an identity": lambda t, rng: qml.exp(qml.I(0), -1j * t()),
    "exp of a matrix": lambda t, rng: qml.exp(qml.Hermitian(np.array([[1, 2j], [-2j, 0.5]]), 0), 1j * t()),
    "evolve": lambda t, rng: qml.evolve(qml.X(0) @ qml.Z(1) + 0.4 * qml.Y(0), t()),
    "evolve by a word": lambda t, rng: qml.evolve(qml.X(0) @ qml.Z(1), t()),
    "prod": lambda t, rng: qml.prod(qml.RX(t(), 0), qml.CRY(t(), [0, 1])),
    "s_prod": lambda t, rng: qml.s_prod(1j, qml.RX(t(), 0)),
    "ctrl": lambda t, rng: qml.ctrl(qml.Rot(t(), t(), t(), 2), [0, 1], control_values=[0, 1]),
    "Select": lambda t, rng: qml.Select([qml.RX(t(), 1), qml.Y(1)], [0]),
}
LARGE = {
    **{name: fixed(name) for name in FIXED},
    "QubitUnitary": lambda t, rng: qml.QubitUnitary(unitary(rng, 1), 0),
    "QubitUnitary of two": lambda t, rng: qml.QubitUnitary(unitary(rng, 2), [1, 0]),
    "QubitUnitary of three": lambda t, rng: qml.QubitUnitary(unitary(rng, 3), [2, 0, 1]),
    "ControlledQubitUnitary": lambda t, rng: qml.ControlledQubitUnitary(
        unitary(rng, 1), [0, 1, 2], control_values=[0, 1]
    ),
    "batch of QubitUnitary": lambda t, rng: qml.QubitUnitary(unitaries(rng, 1), 0),
    "batch of QubitUnitary of two": lambda t, rng: qml.QubitUnitary(unitaries(rng, 2), [0, 2]),
    "batch of QubitUnitary of three": lambda t, rng: qml.QubitUnitary(unitaries(rng, 3), [0, 2, 1]),
    "batch of ControlledQubitUnitary": lambda t, rng: qml.ControlledQubitUnitary(
        unitaries(rng, 2), [0, 1, 2, 3], control_values=[0, 1]
    ),
    "BlockEncode": lambda t, rng: qml.BlockEncode(np.array([[0.1, 0.2], [0.3, 0.4]]), [0, 1]),
    "FermionicDoubleExcitation": lambda t, rng: qml.FermionicDoubleExcitation(t(), [0, 1], [2, 3]),
    "ArbitraryUnitary": lambda t, rng: qml.ArbitraryUnitary(rng.normal(size=15), [0, 1]),
    "TrotterProduct": lambda t, rng: qml.TrotterProduct(qml.dot([0.3, -0.7], words(1, 1).ops), t(), n=2, order=2),
    "ApproxTimeEvolution": lambda t, rng: qml.ApproxTimeEvolution(words(0.3, -0.7), t(), 2),
    "CommutingEvolution": lambda t, rng: qml.CommutingEvolution(words(0.3), t()),
    "QDrift": lambda t, rng: qml.QDrift(words(0.3, -0.7), t(), n=3, seed=1),
    "power": lambda t, rng: qml.pow(qml.RX(t(), 0) @ qml.CNOT([0, 1]), 3),
    "root": lambda t, rng: qml.pow(qml.CNOT([0, 1]), 0.5),
    "root of a power": lambda t, rng: qml.pow(qml.pow(qml.RX(t(), 0) @ qml.CNOT([0, 1]), 3), 0.5),
    "root of an exp": lambda t, rng: qml.pow(qml.exp(words(0.3, -0.7, 1.0), 1j * t()), 0.5),
    "square of an exp": lambda t, rng: qml.pow(qml.exp(words(0.3, -0.7), 1j * t()), 2),
    "change_op_basis": lambda t, rng: qml.change_op_basis(qml.Hadamard(0), qml.RZ(t(), 0)),
    "sum": lambda t, rng: qml.sum(qml.s_prod(0.5**0.5, qml.X(0)), qml.s_prod(0.5**0.5, qml.Z(0))),
    "Hamiltonian": lambda t, rng: qml.Hamiltonian([0.5**0.5, 0.5**0.5], [qml.X(0), qml.Z(0)]),
    "Hermitian": lambda t, rng: qml.Hermitian(np.array([[0, 1], [1, 0]]), 0),
    "QFT": lambda t, rng: qml.QFT([0, 1, 2]),
    "AQFT": lambda t, rng: qml.AQFT(1, [0, 1, 2]),
    "GroverOperator": lambda t, rng: qml.GroverOperator([0, 1, 2]),
    "FlipSign": lambda t, rng: qml.FlipSign(2, [0, 1]),
    "Permute": lambda t, rng: qml.Permute([2, 0, 1], [0, 1, 2]),
    "Reflection": lambda t, rng: qml.Reflection(qml.H(0) @ qml.RX(0.3, 1), t()),
    "AmplitudeAmplification": lambda t, rng: qml.AmplitudeAmplification(qml.H(0) @ qml.H(1), qml.FlipSign(1, [0, 1])),
    "ControlledSequence": lambda t, rng: qml.ControlledSequence(qml.RX(t(), 2), [0, 1]),
    "QuantumPhaseEstimation": lambda t, rng: qml.QuantumPhaseEstimation(qml.RX(t(), 0), estimation_wires=[1, 2]),
    "SelectPauliRot": lambda t, rng: qml.SelectPauliRot(np.stack([t() for _ in range(4)], -1), [0, 1], 2, "X"),
    "Qubitization": lambda t, rng: qml.Qubitization(qml.dot([0.3, 0.7], [qml.Z(1), qml.X(1)]), [0]),
    "PrepSelPrep": lambda t, rng: qml.PrepSelPrep(qml.dot([0.3, 0.7], [qml.Z(1), qml.X(1)]), [0]),
    "QSVT": lambda t, rng: qml.QSVT(
        qml.BlockEncode(np.array([[0.1, 0.2], [0.3, 0.4]]), [0, 1]), [qml.PCPhase(a, 2, [0, 1]) for a in (0.2, 0.4)]
    ),
    "GQSP": lambda t, rng: qml.GQSP(qml.RX(0.3, 1), np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), [0]),
    "FABLE": lambda t, rng: qml.FABLE(np.array([[0.1, 0.2], [0.3, 0.4]]), [0, 1, 2]),
    "Adder": lambda t, rng: qml.Adder(3, [0, 1, 2]),
    "PhaseAdder": lambda t, rng: qml.PhaseAdder(3, [0, 1, 2]),
    "Multiplier": lambda t, rng: qml.Multiplier(3, [0, 1], mod=4, work_wires=[2, 3]),
    "OutAdder": lambda t, rng: qml.OutAdder([0], [1], [2, 3]),
    "OutMultiplier": lambda t, rng: qml.OutMultiplier([0], [1], [2, 3]),
    "SemiAdder": lambda t, rng: qml.SemiAdder([0, 1], [2, 3], [4]),
    "IntegerComparator": lambda t, rng: qml.IntegerComparator(2, [0, 1, 2]),
    "TemporaryAND": lambda t, rng: qml.TemporaryAND([0, 1, 2]),
    "QROM": lambda t, rng: qml.QROM(["01", "11"], [0], [1, 2], [3, 4]),
    "BasicEntanglerLayers": lambda t, rng: qml.BasicEntanglerLayers(rng.normal(size=(2, 3)), range(3)),
    "StronglyEntanglingLayers": lambda t, rng: qml.StronglyEntanglingLayers(rng.normal(size=(2, 3, 3)), range(3)),
    "SimplifiedTwoDesign": lambda t, rng: qml.SimplifiedTwoDesign(
        rng.normal(size=3), rng.normal(size=(1, 2, 2)), range(3)
    ),
    "RandomLayers": lambda t, rng: qml.RandomLayers(rng.normal(size=(2, 3)), range(3)),
    "AngleEmbedding": lambda t, rng: qml.AngleEmbedding(np.stack([t() for _ in range(3)], -1), range(3), "Y"),
    "IQPEmbedding": lambda t, rng: qml.IQPEmbedding(np.stack([t() for _ in range(3)], -1), range(3)),
    "QAOAEmbedding": lambda t, rng: qml.QAOAEmbedding(
        np.stack([t() for _ in range(2)], -1), rng.normal(size=(1, 3)), range(2)
    ),
    "IQP": lambda t, rng: qml.IQP([0.1, 0.2], 2, [[[0]], [[0, 1]]]),
    "GateFabric": lambda t, rng: qml.GateFabric(rng.normal(size=(1, 1, 2)), range(4), [1, 1, 0, 0]),
    "ParticleConservingU1": lambda t, rng: qml.ParticleConservingU1(rng.normal(size=(1, 2, 2)), range(3)),
    "ParticleConservingU2": lambda t, rng: qml.ParticleConservingU2(rng.normal(size=(1, 5)), range(3)),
    "AllSinglesDoubles": lambda t, rng: qml.AllSinglesDoubles(
        rng.normal(size=2), range(4), np.array([1, 1, 0, 0]), [[0, 2]], [[0, 1, 2, 3]]
    ),
    "UCCSD": lambda t, rng: qml.UCCSD(
        rng.normal(size=2), range(4), [[0, 1, 2]], [[[0, 1], [2, 3]]], np.array([1, 1, 0, 0])
    ),
    "kUpCCGSD": lambda t, rng: qml.kUpCCGSD(rng.normal(size=(1, 6)), range(4), 1, 0, np.array([1, 1, 0, 0])),
    "BasisRotation": lambda t, rng: qml.BasisRotation([0, 1, 2], np.linalg.qr(rng.normal(size=(3, 3)))[0]),
    "TTN": lambda t, rng: qml.TTN(range(4), 2, block, 1, rng.normal(size=(3, 1))),
    "MERA": lambda t, rng: qml.MERA(range(4), 2, block, 1, rng.normal(size=(5, 1))),
    "HilbertSchmidt": lambda t, rng: qml.HilbertSchmidt([qml.RZ(t(), 0)], [qml.H(1)]),
    "Barrier": lambda t, rng: qml.Barrier([0, 1]),
    "WireCut": lambda t, rng: qml.WireCut(0),
    "Snapshot": lambda t, rng: qml.Snapshot(),
}
PREPARATIONS = {
    "BasisState": lambda rng: qml.BasisState(np.array([1, 0, 1]), [0, 1, 2]),
    "BasisEmbedding": lambda rng: qml.BasisEmbedding(5, range(3)),
    "StatePrep": lambda rng: qml.StatePrep(amplitudes(rng, 2), [3, 1]),
    "batch of StatePrep": lambda rng: qml.StatePrep(np.stack([amplitudes(rng, 2) for _ in range(BATCH)]), [3, 1]),
    "StatePrep not normalised": lambda rng: qml.StatePrep(np.array([1.0, 2.0]), 1, validate_norm=False),
    "complex StatePrep not normalised": lambda rng: qml.StatePrep(np.array([1.0, 2.0j]), 1, validate_norm=False),
    "AmplitudeEmbedding": lambda rng: qml.AmplitudeEmbedding(
        np.array([1.0, 2.0, 3.0]), [0, 1], pad_with=0.5, normalize=True
    ),
    "batch of AmplitudeEmbedding": lambda rng: qml.AmplitudeEmbedding(
        rng.normal(size=(BATCH, 4)), [0, 1], normalize=True
    ),
    "MottonenStatePreparation": lambda rng: qml.MottonenStatePreparation(amplitudes(rng, 2), [0, 1]),
    "MultiplexerStatePreparation": lambda rng: qml.MultiplexerStatePreparation(amplitudes(rng, 2), [0, 1]),
    "ArbitraryStatePreparation": lambda rng: qml.ArbitraryStatePreparation(rng.normal(size=6), [0, 1]),
    "CosineWindow": lambda rng: qml.CosineWindow(wires=[0, 1]),
    "Superposition": lambda rng: qml.Superposition(np.sqrt([0.5, 0.5]), [[0, 0, 1], [1, 1, 1]], [0, 1, 2], 3),
}
ELSEWHERE = {
    "ControlledAddition",
    "InterferometerUnitary",
    "AmplitudeDamping BitFlip DepolarizingChannel GeneralizedAmplitudeDamping PauliError PhaseDamping PhaseFlip "
    "QubitChannel ResetError ThermalRelaxationError QubitDensityMatrix",  # mixed states
    "Projector SparseHamiltonian FromBloq TrotterizedQfunc",  # no gates; of another library; of a function
    "CVNeuralNetLayers DisplacementEmbedding SqueezingEmbedding QutritBasisStatePreparation",  # no qubits
    "LocalHilbertSchmidt MPS TwoLocalSwapNetwork",  # as HilbertSchmidt, TTN
    "BBQRAM HybridQRAM SelectOnlyQRAM ModExp OutPoly QuantumMonteCarlo",  # of many gates: slow
    "MPSPrep QROMStatePreparation SumOfSlatersPrep",  # of many wires, or not for default.qubit either
}
"""Names of operations that this file leaves out."""


def state(device, build):
    with qml.QueuingManager.stop_recording():
        preparation, operation = build()

    def function():
        if preparation is None:
            for k, wire in enumerate(WIRES):
                qml.RY(0.5 * k + 0.2, wire)
                qml.RZ(0.3 * k + 0.1, wire)
        else:
            qml.apply(preparation)
        if operation is not None:
            qml.apply(operation)
        for k, wire in enumerate(WIRES):
            qml.RX(0.1 + k, wire)
        return qml.state()

    return qml.QNode(function, device(wires=WIRES))()


def compare(name, build):
    """Ours with theirs; whether default.qubit takes it."""
    try:
        expected = state(lambda wires: qml.device("default.qubit", wires=wires), build)
    except Exception:  # not ours to explain
        return False
    np.testing.assert_allclose(state(HQFQubit, build), expected, rtol=0, atol=1e-8, err_msg=name)
    return True


def angle(rng, batched):
    return lambda: rng.normal(size=BATCH) if batched else rng.normal()


UNDER_CONTROL = (
    *("RX", "RY", "RZ", "PhaseShift", "U1", "GlobalPhase", "Rot", "MultiRZ", "IsingXY", "FermionicSWAP", "PCPhase"),
    *("DoubleExcitationPlus", "SpecialUnitary", "exp", "exp of a word", "evolve", "prod", "PauliRot"),
)
"""Not what PennyLane takes apart into hundreds of gates."""
CONTROLLED = {name: SMALL[name] for name in UNDER_CONTROL}
DRESSINGS = {
    "plain": (SMALL | LARGE, lambda op: op),
    "batch": (SMALL | LARGE, lambda op: op),
    "controlled": (CONTROLLED, lambda op: qml.ctrl(op, "a", control_values=[0])),
    "batch, controlled": (CONTROLLED, lambda op: qml.ctrl(op, "a")),
    "batch, controlled twice": (CONTROLLED, lambda op: qml.ctrl(op, ["a", "b"], control_values=[1, 0])),
    "inverse": (SMALL, qml.adjoint),
    "batch, inverse": (SMALL, qml.adjoint),
    "batch, power": (SMALL, lambda op: qml.pow(op, -2)),
    "root": (SMALL, lambda op: qml.pow(op, 0.5)),
    "batch, root": (SMALL, lambda op: qml.pow(op, 0.5)),
}


@pytest.mark.parametrize("dressing", DRESSINGS)
def test_operations(dressing):
    catalogue, dress = DRESSINGS[dressing]
    batched, taken = dressing.startswith("batch"), 0
    for name, build in catalogue.items():

        def dressed(build=build):
            rng = np.random.default_rng(3)
            return None, dress(build(angle(rng, batched), rng))

        if not batched or "t()" in inspect.getsource(build):
            taken += compare(f"{name}, {dressing}", dressed)
    assert taken > 0.7 * sum(not batched or "t()" in inspect.getsource(build) for build in catalogue.values())


def test_preparations():
    for name, build in PREPARATIONS.items():
        assert compare(name, lambda build=build: (build(np.random.default_rng(3)), None)), name


def test_no_operation_is_forgotten():
    left_out = {name for names in ELSEWHERE for name in names.split()} | {*qutrit_names}
    covered = {name.split(" ")[-1 if name.startswith("batch of") else 0] for name in SMALL | LARGE | PREPARATIONS}
    covered |= {"QubitUnitary", "ControlledQubitUnitary"}
    missing = set()
    for name, operation in vars(qml).items():
        if not inspect.isclass(operation) or not issubclass(operation, qml.operation.Operator):
            continue
        if issubclass(operation, qml.operation.CV) or operation.__name__ in left_out:
            continue
        if operation.__name__ not in covered and name not in covered:
            missing.add(operation.__name__)
    assert not missing


def gradients(device, function, arrays):
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    result = qml.QNode(function, device)(*tensors)
    scale = torch.linspace(0.3, 1.7, result.numel(), dtype=torch.float64).reshape(result.shape)
    (scale * result).sum().backward()
    return [result.detach(), *(t.grad for t in tensors)]


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
def test_angles_are_differentiable(batched):
    """In torch; in autograd too, for what is no gate in a batch."""
    rng = np.random.default_rng(0)
    special = ("exp", "exp of a word", "evolve", "prod", "DoubleExcitationPlus")
    gates = ("RX", "U3", "GlobalPhase", "CRot", "PSWAP", "SingleExcitationMinus", "MultiRZ", "PCPhase", "FermionicSWAP")
    for name in (*gates, *special):
        if batched and name == "FermionicSWAP":  # not for default.qubit
            continue
        data = rng.normal(size=(6, BATCH) if batched else 6)

        def function(angles, name=name):
            for k, wire in enumerate(WIRES[:4]):
                qml.RY(0.5 * k + 0.2, wire)
                qml.RZ(0.3 * k + 0.1, wire)
            rest = iter(angles)
            with qml.QueuingManager.stop_recording():
                operation = qml.ctrl(SMALL[name](lambda: next(rest), None), [4])
            qml.apply(operation)
            qml.apply(operation.base if isinstance(operation, Controlled) else operation)
            for k, wire in enumerate(WIRES[:5]):
                qml.RX(0.1 + k, wire)
            return qml.probs(wires=[0, 1])

        ours, theirs = (gradients(d, function, [data]) for d in (HQFQubit(), qml.device("default.qubit")))
        for a, e in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-8, msg=partial("{}: {}".format, name))
        if name in special:
            scale = np.linspace(0.3, 1.7, ours[0].numel()).reshape(ours[0].shape)
            node = qml.QNode(function, HQFQubit())
            grad = qml.grad(lambda x, node=node, scale=scale: (scale * node(x)).sum())(pnp.array(data))
            np.testing.assert_allclose(grad, ours[1], rtol=0, atol=1e-8, err_msg=name)


def test_matrices_and_states_are_differentiable():
    rng = np.random.default_rng(1)
    generators = rng.normal(size=(3, 4, 4))
    vector = rng.normal(size=4)
    vector /= np.linalg.norm(vector)

    def two(g, v):
        matrix = torch.linalg.matrix_exp(1j * (g[0] + g[0].mT))
        qml.StatePrep(v, [2, 0])
        qml.QubitUnitary(matrix, [0, 1])
        qml.RX(0.3, 0)
        small = torch.linalg.matrix_exp(1j * (g[1] + g[1].mT)[:2, :2])
        qml.QubitUnitary(small, 1)
        qml.ControlledQubitUnitary(small, [1, 2, 0], control_values=[0, 1])
        qml.SpecialUnitary(0 * g[2, 0, :3], 2)
        return qml.expval(qml.Z(0) @ qml.X(1) + 0.3 * qml.Y(2))

    def complex_state(g, v):
        qml.StatePrep(torch.exp(1j * g[0, 0]) * v, [1, 0])
        qml.RX(g[1, 0, 0], 0)
        qml.CNOT([0, 1])
        return qml.probs(wires=[0, 1])

    def states(g, v):
        qml.StatePrep(v, [1, 2])
        qml.RX(g[:, 0, 0], 0)
        qml.CRY(g[:, 0, 1], [1, 0])
        return qml.expval(qml.Z(0) - qml.X(1) @ qml.Z(0))

    for function in (two, complex_state, states):
        pairs = [gradients(d, function, [generators, vector]) for d in (HQFQubit(), qml.device("default.qubit"))]
        for a, e in zip(*pairs, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-8)


def test_controlled_rotations_of_a_batch_are_gates():
    for rotation in (qml.RX, qml.RY, qml.RZ, qml.PhaseShift, qml.U1, qml.GlobalPhase, qml.MultiRZ, qml.IsingXX):
        wires = [0, 1] if rotation in (qml.MultiRZ, qml.IsingXX) else [0]
        operation = qml.ctrl(rotation(np.array([0.1, 0.2, 0.3]), wires), ["a", "b"])
        apart = take_apart(qml.tape.QuantumScript([operation]), "hqf.qubit", False)
        assert all(len(op.wires) < 3 for op in apart.operations)


def test_what_is_no_unitary_is_refused():
    """Of more than two wires as well; default.qubit projects, without normalising."""
    for operation in (lambda: qml.Projector([1], 0), lambda: qml.s_prod(0.5, qml.X(0))):
        with pytest.raises(ValueError, match="unitary"):
            state(HQFQubit, lambda operation=operation: (None, operation()))
