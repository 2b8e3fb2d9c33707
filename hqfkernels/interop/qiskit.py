"""Qiskit circuits: `from_qiskit`, `to_qiskit`, and the observables for its primitives, `observables_to_qiskit`.

Qubit k is qubit k on both sides. Qiskit's basis-state indices have qubit 0 as the lowest bit, those of hqfkernels as
the highest: ``Statevector(to_qiskit(c)).reverse_qargs()`` is `hqfkernels.statevector` of ``c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from qiskit.circuit import ParameterExpression, ParameterVector, QuantumCircuit
    from qiskit.exceptions import QiskitError
    from qiskit.quantum_info import SparsePauliOp
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'hqfkernels.interop.qiskit needs Qiskit 2.0 or later: pip install "hqfkernels[qiskit]"'
    ) from error

from hqfkernels.circuit import GATES, Angle, Circuit
from hqfkernels.interop.parameters import angles_of, bind

_OURS = {name: name for name in GATES if name not in ("i", "rot")} | {"id": "i", "u1": "p", "cu1": "cp"}
"""Qiskit's name -> gate."""

_REFUSED = {
    "reset": "take a fresh qubit instead",
    "if_else": "write one circuit for each case",
    "for_loop": "unroll it first (UnrollForLoops)",
    "while_loop": "its length depends on measurements",
    "switch_case": "write one circuit for each case",
    "initialize": "it resets its qubits; use prepare_state",
}


def to_qiskit(circuit: Circuit, inputs: Any = None, weights: Any = None) -> QuantumCircuit:
    """Writes a circuit as Qiskit's, ready to be transpiled.

    Inputs and weights become the elements of the parameter vectors ``x`` and ``w``, unless values are given. The
    observables are not part of a Qiskit circuit: see `observables_to_qiskit`.

    Args:
        circuit: the circuit.
        inputs: (n_inputs,): values (radians) in place of the inputs, those of one sample. A circuit that starts with
            amplitudes needs them.
        weights: (n_weights,): values in place of the weights, such as trained ones.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
    """
    if not isinstance(circuit, Circuit):
        raise TypeError(f"circuit: expected a hqfkernels.Circuit, got {type(circuit).__name__}")
    bound = bind(circuit, inputs, weights)
    x, w = ParameterVector("x", bound.n_inputs), ParameterVector("w", bound.n_weights)

    def value(angle: Angle) -> Any:
        total: Any = angle.constant
        for terms, vector in ((angle.inputs, x), (angle.weights, w)):
            for k, c in terms:
                total = total + (vector[k] if c == 1 else c * vector[k])
        return total

    result = QuantumCircuit(bound.n_qubits)
    for gate in bound.gates:
        low_first = list(reversed(gate.qubits))
        if gate.name == "amplitudes":
            if inputs is None:
                raise ValueError("inputs: the circuit starts with amplitudes, whose values Qiskit needs")
            first, count = gate.angles[0].inputs[0][0], len(gate.angles)
            state = np.zeros(2**bound.n_qubits)
            state[:count] = [float(v) for v in inputs[first : first + count]]
            norm = np.linalg.norm(state)
            if not norm:
                raise ValueError("inputs: the amplitudes are all zero, which is no state")
            result.prepare_state(state / norm, low_first)
        elif gate.name == "unitary":
            result.unitary(np.reshape(gate.matrix, (2 ** len(gate.qubits), -1)), low_first)
        elif gate.name == "rot":
            for name, angle in zip(("rz", "ry", "rz"), gate.angles, strict=True):
                getattr(result, name)(value(angle), gate.qubits[0])
        else:
            name = "id" if gate.name == "i" else gate.name
            getattr(result, name)(*map(value, gate.angles), *gate.qubits)
    return result


def observables_to_qiskit(circuit: Circuit) -> list[SparsePauliOp]:
    """The circuit's observables for Qiskit's estimators, in order, with Qiskit's order of the qubits."""
    return [SparsePauliOp(string[::-1]) for string in circuit.observables]


def from_qiskit(
    circuit: QuantumCircuit, inputs: Sequence[str] | None = None, weights: Sequence[str] | None = None
) -> Circuit:
    """Reads a Qiskit circuit.

    Gates that hqfkernels lacks are taken apart by their definitions. Angles must be affine in the parameters.
    Barriers, and measurements at the end, are left out; the result measures Z on every qubit, as always by default. A
    transpiled circuit is read as it stands: qubits that the transpiler has moved stay where it put them.

    Args:
        circuit: the circuit; its ``parameters``, in its order, become inputs and weights.
        inputs: names of the parameters that become inputs, in this order.
        weights: names of those that become weights. If one of the two is left out, it is all others, in Qiskit's
            order; if both are, ``x[0]``, ``w[0]``, ... (as `to_qiskit` writes them) are what they say, and any other
            names are all weights.

    Raises:
        TypeError: if ``circuit`` is no QuantumCircuit.
        ValueError: for anything but gates (resets, conditions, loops, gates after a measurement), naming it; for
            angles that are not affine; for parameter names that clash.
    """
    if not isinstance(circuit, QuantumCircuit):
        raise TypeError(f"circuit: expected a qiskit.QuantumCircuit, got {type(circuit).__name__}")
    angles = angles_of([p.name for p in circuit.parameters], inputs, weights)
    result = Circuit(circuit.num_qubits)
    _append(result, circuit, list(range(circuit.num_qubits)), angles, set())
    return result


def _append(
    result: Circuit, circuit: QuantumCircuit, qubits: list[int], parameters: dict[str, Angle], measured: set[int]
) -> None:
    """Appends the instructions of ``circuit``, whose qubit k is ``qubits[k]``."""
    phase = _angle(circuit.global_phase, parameters, "global phase")
    if phase != Angle():
        result.rz(-2 * phase, qubits[0]).p(2 * phase, qubits[0])
    for instruction in circuit.data:
        operation, name = instruction.operation, instruction.operation.name
        on = [qubits[circuit.find_bit(q).index] for q in instruction.qubits]
        if name == "measure":
            measured.update(on)
            continue
        if name in ("barrier", "delay"):
            continue
        if name in _REFUSED:
            raise ValueError(f"circuit: {name} on qubit(s) {_list(on)} is no gate; {_REFUSED[name]}")
        if touched := measured.intersection(on):
            raise ValueError(
                f"circuit: {name} acts on qubit {min(touched)} after its measurement; measure at the end only"
            )
        if name in _OURS or name in ("u", "u3"):
            values = [_angle(p, parameters, f"{name} on qubit(s) {_list(on)}") for p in operation.params]
            if name in ("u", "u3"):
                theta, phi, lam = values
                result.p(lam, on[0]).ry(theta, on[0]).p(phi, on[0])
            else:
                result.append(_OURS[name], values, on)
        elif len(on) <= 2 and (name == "unitary" or operation.definition is None) and hasattr(operation, "to_matrix"):
            try:
                matrix = operation.to_matrix()
            except (QiskitError, TypeError) as error:
                raise ValueError(
                    f"circuit: {name} on qubit(s) {_list(on)} has neither a definition nor a constant matrix; "
                    "transpile the circuit to rz, sx, x and cx first"
                ) from error
            result.unitary(matrix, on[::-1])
        elif operation.definition is None:
            raise ValueError(f"circuit: {name} on qubit(s) {_list(on)} has no definition, and is no known gate")
        else:
            _append(result, operation.definition, on, parameters, measured)


def _list(qubits: Sequence[int]) -> str:
    return ", ".join(map(str, qubits))


def _angle(value: Any, parameters: dict[str, Angle], where: str) -> Angle:
    """A number or parameter expression, affine, as an `Angle`."""
    if not isinstance(value, ParameterExpression):
        return Angle.of(value)
    slopes = {p: value.gradient(p) for p in value.parameters}
    total = Angle.of(float(value.bind(dict.fromkeys(slopes, 0.0))))
    for parameter, slope in slopes.items():
        if isinstance(slope, ParameterExpression) and slope.parameters:
            raise ValueError(
                f"circuit: an angle of {where} is not affine in {parameter.name!r}: {value}; "
                "compute it before the circuit and make it a parameter of its own"
            )
        total = total + float(slope) * parameters[parameter.name]
    return total
