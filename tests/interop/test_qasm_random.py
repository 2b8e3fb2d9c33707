"""Random OpenQASM programs mean what Qiskit's importers make of them, or are refused."""

from collections import Counter

import pytest

pytest.importorskip("openqasm3")
pytest.importorskip("qiskit")
pytest.importorskip("qiskit_qasm3_import")

from fuzz.programs import loads, outcome, program


@pytest.mark.parametrize("version", [2, 3])
def test_programs_mean_the_same_as_in_qiskit(version):
    outcomes = Counter(outcome(program(seed, version), loads(version)) for seed in range(120))
    assert outcomes["equal"] >= 60, outcomes


def test_a_difference_is_found():
    qiskit = pytest.importorskip("qiskit")

    def load(text):
        circuit = qiskit.qasm3.loads(text)
        circuit.s(0)
        return circuit

    with pytest.raises(AssertionError, match="qubit"):
        outcome("OPENQASM 3.0;\nqubit q;\nU(1, 0, 0) q;\n", load)
