"""The lowering: every pass keeps values and gradients, and does what it is there for."""

import math

import numpy as np
import pytest
import torch

from hqfkernels import Circuit, Input, Weight, ansatz
from hqfkernels.circuit import GATES
from hqfkernels.program import (
    PASSES,
    Program,
    drop_dead,
    group_layers,
    lower,
    make_real,
    merge_rotations,
    relabel,
    to_rotations,
)
from hqfkernels.reference import circuit as reference
from hqfkernels.reference import rotations
from tests import oracles

pytestmark = pytest.mark.usefixtures("threads")

MEASUREMENTS = ("expval", "probs", "state")
INPUTS, WEIGHTS = 3, 4


def random_circuit(seed: int, n_qubits: int, n_gates: int = 25, **options) -> Circuit:
    return oracles.random_circuit(np.random.default_rng(seed), n_qubits, n_gates, INPUTS, WEIGHTS, **options)


def parameters(circuit: Circuit, samples: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(circuit.n_qubits)
    inputs = 2 * torch.randn(samples, circuit.n_inputs, dtype=torch.float64)
    return inputs, 2 * torch.randn(circuit.n_weights, dtype=torch.float64)


def oracle(circuit: Circuit, measurement: str, inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    if measurement == "state":
        return torch.view_as_real(reference.statevector(circuit, inputs, weights)).flatten(-2)
    return {"expval": reference.expval, "probs": reference.probs}[measurement](circuit, inputs, weights)


def results(program: Program, inputs: torch.Tensor, weights: torch.Tensor, slope: torch.Tensor) -> list[torch.Tensor]:
    """Values and, where there are any, gradients of a weighted sum of them."""
    values = rotations.forward(program, inputs, weights)
    if program.measurement == "state":
        return [values]
    return [values, *rotations.backward(program, slope, inputs, weights)]


def assert_same(before: Program, after: Program, inputs: torch.Tensor, weights: torch.Tensor) -> None:
    slope = torch.randn(len(inputs), before.n_outputs, dtype=torch.float64)
    torch.testing.assert_close(
        results(after, inputs, weights, slope), results(before, inputs, weights, slope), atol=1e-11, rtol=0
    )


def independent_masks(masks) -> list[int]:
    """Reduces ``masks`` over GF(2) to those that their predecessors do not span."""
    reduced: dict[int, int] = {}
    found = []
    for mask in masks:
        rest = mask
        while rest and rest.bit_length() in reduced:
            rest ^= reduced[rest.bit_length()]
        if rest:
            reduced[rest.bit_length()] = rest
            found.append(mask)
    return found


# --- all passes keep the meaning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("amplitudes", [False, True])
@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("n_qubits", [1, 2, 3, 5])
def test_every_pass_keeps_values_and_gradients(n_qubits, measurement, amplitudes):
    for seed in range(4):
        circuit = random_circuit(seed, n_qubits, amplitudes=amplitudes)
        inputs, weights = parameters(circuit)
        program = to_rotations(circuit, measurement)
        values = rotations.forward(program, inputs, weights)
        torch.testing.assert_close(values, oracle(circuit, measurement, inputs, weights), atol=1e-11, rtol=0)
        for simplify in PASSES:
            after = simplify(program)
            assert_same(program, after, inputs, weights)
            program = after
        assert program == Program.from_text(lower(circuit.text, measurement))


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("simplify", PASSES)
def test_every_pass_alone_keeps_values_and_gradients(simplify, measurement):
    for seed in range(6):
        program = to_rotations(random_circuit(seed, 4), measurement)
        assert_same(program, simplify(program), *parameters(random_circuit(seed, 4)))


@pytest.mark.parametrize("measurement", ["expval", "probs"])
@pytest.mark.parametrize("amplitudes", [False, True])
def test_adjoint_gradients_are_those_of_autograd(measurement, amplitudes):
    for seed in range(3):
        circuit = random_circuit(seed, 3, amplitudes=amplitudes)
        program = to_rotations(circuit, measurement)
        inputs, weights = (p.requires_grad_() for p in parameters(circuit))
        slope = torch.randn(len(inputs), program.n_outputs, dtype=torch.float64)
        expected = torch.autograd.grad((oracle(circuit, measurement, inputs, weights) * slope).sum(), (inputs, weights))
        actual = rotations.backward(program, slope, inputs.detach(), weights.detach())
        torch.testing.assert_close(actual, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("gate", [*GATES, "unitary"])
@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_every_gate_between_random_rotations(gate, measurement):
    for seed in range(2):
        circuit = random_circuit(seed, 3, 12, gates=(gate, "rx", "ry", "rz"))
        inputs, weights = parameters(circuit)
        program = Program.from_text(lower(circuit.text, measurement))
        torch.testing.assert_close(
            rotations.forward(program, inputs, weights),
            oracle(circuit, measurement, inputs, weights),
            atol=1e-11,
            rtol=0,
        )


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("amplitudes", [False, True])
def test_text_round_trip(measurement, amplitudes):
    for seed in range(3):
        program = to_rotations(random_circuit(seed, 4, amplitudes=amplitudes), measurement)
        assert Program.from_text(program.text) == program


def test_text_of_another_format_is_refused():
    with pytest.raises(ValueError, match="hqf1"):
        Program.from_text("hqf0 1 0 0 0 0 0 expval 0")


def test_equal_circuits_are_lowered_once():
    a, b = random_circuit(7, 4), random_circuit(7, 4)
    assert lower(a.text, "expval") is lower(b.text, "expval")
    assert lower(a.text, "expval") != lower(a.text, "probs")


# --- to_rotations -----------------------------------------------------------------------------------------------------


def test_cliffords_cost_nothing_before_an_expectation_value():
    circuit = Circuit(3).h(0).s(1).x(2).cx(0, 1).cy(1, 2).cz(0, 2).swap(0, 2).sx(1).sdg(0).y(1).z(2).i(0)
    assert to_rotations(circuit.measure("XYZ")).rotations == ()


def test_permutations_cost_nothing_before_probabilities():
    circuit = Circuit(3).ry(Input(0), 0).cx(0, 1).x(2).swap(1, 2).cx(2, 0)
    assert len(to_rotations(circuit, "probs").rotations) == 1


def random_unitary(seed: int, size: int) -> np.ndarray:
    return oracles.random_unitary(np.random.default_rng(seed), size)


CX, SWAP = np.eye(4)[[0, 1, 3, 2]], np.eye(4)[[0, 2, 1, 3]]
TWO_QUBITS = {
    "identity": np.eye(4),
    "minus identity": -np.eye(4),
    "i times identity": 1j * np.eye(4),
    "cnot": CX,
    "reversed cnot": SWAP @ CX @ SWAP,
    "cz": np.diag([1, 1, 1, -1]),
    "swap": SWAP,
    "iswap": SWAP @ np.diag([1, 1j, 1j, 1]),
    "double cnot": CX @ SWAP,
    "root of swap": (1 + 1j) / 2 * np.eye(4) + (1 - 1j) / 2 * SWAP,
    "diagonal": np.diag(np.exp(1j * np.array([0.3, -1.2, 2.5, 0.7]))),
    "tensor product": np.kron(random_unitary(0, 2), random_unitary(1, 2)),
    "hadamards": oracles.on(2, {0: (oracles.X + oracles.Z) / 2**0.5, 1: (oracles.X + oracles.Z) / 2**0.5}),
    "random": random_unitary(2, 4),
    "real": np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))[0],
    "nearly cnot": CX @ oracles.exponential(oracles.on(2, {0: oracles.X, 1: oracles.Y}), 1e-8),
    "nearly identity": oracles.exponential(oracles.on(2, {0: oracles.Z, 1: oracles.Y}), 1e-10),
}
ONE_QUBIT = {
    "identity": np.eye(2),
    "minus identity": -np.eye(2),
    "x": oracles.X,
    "y": oracles.Y,
    "z": oracles.Z,
    "hadamard": (oracles.X + oracles.Z) / 2**0.5,
    "random": random_unitary(4, 2),
    "nearly x": oracles.X @ oracles.exponential(oracles.Z, 1e-9),
    "nearly diagonal": oracles.exponential(oracles.X, 1e-9),
}


@pytest.mark.parametrize(
    "matrix", [*TWO_QUBITS.values(), *ONE_QUBIT.values()], ids=[*TWO_QUBITS, *(f"1q {name}" for name in ONE_QUBIT)]
)
def test_matrices_become_rotations(matrix):
    """The columns of the matrix, global phase included, by running it on each basis state."""
    n = int(math.log2(len(matrix)))
    for column in range(2**n):
        circuit = Circuit(n)
        for q in range(n):
            if column >> (n - 1 - q) & 1:
                circuit.x(q)
        program = to_rotations(circuit.unitary(matrix, range(n)), "state")
        state = rotations.forward(program, torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
        actual = torch.view_as_complex(state.view(-1, 2)).numpy()
        np.testing.assert_allclose(actual, matrix[:, column], atol=1e-11)


def test_matrix_on_reversed_and_distant_qubits():
    matrix = random_unitary(5, 4)
    circuit = Circuit(4).h(3).ry(0.3, 1).unitary(matrix, (3, 1))
    program = to_rotations(circuit, "state")
    state = rotations.forward(program, torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    actual = torch.view_as_complex(state.view(-1, 2)).numpy()
    np.testing.assert_allclose(actual, oracles.statevector(circuit, np.zeros(0), np.zeros(0)), atol=1e-11)


# --- merge_rotations --------------------------------------------------------------------------------------------------


def test_merging_adds_angles_about_one_string():
    circuit = Circuit(2).ry(Input(0), 0).ry(Weight(0), 0).rx(0.3, 1).ry(0.5, 0).rz(Weight(1), 0).ry(Weight(2), 0)
    merged = merge_rotations(to_rotations(circuit)).rotations
    assert len(merged) == 4
    assert merged[0].angle == Input(0) + Weight(0) + 0.5
    assert merged[3].angle == Weight(2) * 1  # RZ does not commute with RY, so this one stays behind it


def test_merging_drops_what_cancels():
    circuit = Circuit(2).ry(Input(0), 0).rzz(Weight(0), 0, 1).rzz(-Weight(0), 0, 1).ry(-Input(0), 0)
    circuit.rx(0.0, 1)
    once = merge_rotations(to_rotations(circuit))
    assert len(once.rotations) == 2  # the two RY met with RZZ between them still there
    assert merge_rotations(once).rotations == ()


def test_merging_through_cliffords():
    circuit = Circuit(2).rx(Weight(0), 0).h(0).rz(Weight(1), 0).cx(0, 1).rz(Weight(2), 0)
    (rotation,) = merge_rotations(to_rotations(circuit)).rotations
    assert rotation.angle == Weight(0) + Weight(1) + Weight(2)


# --- drop_dead --------------------------------------------------------------------------------------------------------


def test_trailing_phases_and_permutations_are_dropped_before_z():
    circuit = Circuit(3).ry(Input(0), 0)
    for q in range(3):
        circuit.rz(Weight(q), q)
    circuit.rzz(0.4, 0, 2).crz(Weight(3), 1, 2).cp(Weight(4), 0, 1).cx(0, 1).swap(1, 2).t(2).rz(0.7, 1)
    assert drop_dead(to_rotations(circuit)).rotations == to_rotations(Circuit(3).ry(Input(0), 0)).rotations
    assert len(drop_dead(to_rotations(circuit, "probs")).rotations) == 1


def test_ring_of_cnots_before_z_leaves_no_rotation():
    circuit = Circuit(5)
    for q in range(5):
        circuit.cx(q, (q + 1) % 5)
    assert drop_dead(to_rotations(circuit)).rotations == ()
    encoded = ansatz.angle_encoding(5)
    for q in range(5):
        encoded.rz(Weight(q), q).cx(q, (q + 1) % 5)
    assert len(drop_dead(to_rotations(encoded)).rotations) == 5


def test_light_cone_of_one_qubit():
    circuit = ansatz.angle_encoding(6)
    for q in range(5):
        circuit.rxx(Weight(q), q, q + 1)
    kept = drop_dead(to_rotations(circuit.measure("ZIIIII"))).rotations
    assert {k for r in kept for k, _ in r.angle.weights} == {0}
    assert {j for r in kept for j, _ in r.angle.inputs} == {0, 1}


def test_leading_phases_are_dropped():
    circuit = Circuit(2).rz(Weight(0), 0).rzz(Weight(1), 0, 1).ry(Input(0), 0).rz(Weight(2), 1).ry(Input(1), 1)
    kept = drop_dead(to_rotations(circuit)).rotations
    assert [r.angle for r in kept] == [Input(0) * 1, Input(1) * 1]


def test_amplitudes_feel_leading_phases():
    circuit = Circuit(2).amplitudes().rz(Weight(0), 0).ry(Weight(1), 0)
    assert len(drop_dead(to_rotations(circuit)).rotations) == 2


def test_states_keep_their_global_phase():
    circuit = Circuit(2).rz(Weight(0), 0).rzz(Weight(1), 0, 1).ry(Weight(2), 1).rz(Weight(3), 1)
    dropped = drop_dead(to_rotations(circuit, "state"))
    assert len(dropped.rotations) == 3
    assert dropped.rotations[-1].x == dropped.rotations[-1].z == 0
    assert dropped.rotations[-1].angle == Weight(0) + Weight(1)


# --- make_real --------------------------------------------------------------------------------------------------------


def real(rotation) -> bool:
    return (rotation.x & rotation.z).bit_count() % 2 == 1


@pytest.mark.parametrize("measurement", ["expval", "probs"])
def test_circuits_of_rx_and_cz_become_real(measurement):
    circuit = ansatz.angle_encoding(4, "x")
    for q in range(4):
        circuit.rx(Weight(q), q).cz(q, (q + 1) % 4).rx(Weight(q), q)
    after = make_real(to_rotations(circuit.measure("ZIII", "IYXI", "XXXX"), measurement))
    assert not any(real(r) for r in to_rotations(circuit, measurement).rotations)
    assert all(real(r) for r in after.rotations if r.x)


def test_real_circuits_stay_real():
    program = to_rotations(ansatz.basic_entangler(5, 3, "y"))
    assert all(real(r) for r in program.rotations)
    assert all(real(r) for r in make_real(program).rotations)


def test_the_encoding_is_made_real_even_if_not_all_can_be():
    circuit = ansatz.angle_encoding(3, "x")
    for q in range(3):
        circuit.ry(Weight(q), q)
    after = make_real(to_rotations(circuit)).rotations
    assert [real(r) for r in after] == [True] * 3 + [False] * 3


# --- relabel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_masks_met_first_become_low_bits(measurement):
    for seed in range(8):
        after = relabel(to_rotations(random_circuit(seed, 5, 15), measurement))
        masks = [r.x for r in after.rotations if r.x]
        assert independent_masks(masks) == [1 << k for k in range(len(independent_masks(masks)))]
        reached = 0
        for mask in masks:
            assert mask <= 1 << reached or mask < 1 << reached
            reached = max(reached, mask.bit_length())


def test_few_rotations_reach_few_amplitudes():
    circuit = Circuit(6).rxx(Input(0), 0, 5).cx(0, 3).ryy(Weight(0), 2, 4).rx(Weight(1), 1)
    assert max(r.x for r in relabel(to_rotations(circuit)).rotations) == 4


# --- group_layers -----------------------------------------------------------------------------------------------------


def kinds(program: Program) -> list[str]:
    return ["mix" if r.x else "shared" if r.shared else "own" for r in program.rotations]


def runs(labels: list[str]) -> list[str]:
    return [label for k, label in enumerate(labels) if k == 0 or labels[k - 1] != label]


def test_shared_phases_of_a_layer_stand_together():
    circuit = Circuit(3)
    for q in range(3):  # qubit by qubit: phases and mixing rotations alternate
        circuit.ry(Input(q), q).rz(Weight(q), q)
    for q in range(3):
        circuit.ry(Weight(3 + q), q)
    program = to_rotations(circuit)
    assert runs(kinds(program)) == ["mix", "shared"] * 3 + ["mix"]
    assert kinds(group_layers(program)) == ["mix"] * 3 + ["shared"] * 3 + ["mix"] * 3


def test_phases_of_samples_stand_apart_from_shared_ones():
    circuit = Circuit(2).ry(0.3, 0).ry(0.4, 1)
    circuit.rz(Weight(0), 0).rz(Input(0), 0).rz(Weight(1), 1).rz(Input(1), 1).rx(0.2, 0).rx(0.1, 1)
    assert runs(kinds(group_layers(to_rotations(circuit)))) == ["mix", "shared", "own", "mix"]


def test_ansatz_layers_have_one_table_each():
    text = lower(ansatz.global_circuit(4, 3).text, "expval")
    assert runs(kinds(Program.from_text(text))) == ["mix", "shared", "mix", "shared", "mix"]
