"""Qiskit circuits: `from_qiskit`, `to_qiskit`, and the observables for its primitives, `observables_to_qiskit`.

Qubit k is qubit k on both sides. Qiskit's basis-state indices have qubit 0 as the lowest bit, those of hqfkernels as
the highest: ``Statevector(to_qiskit(c)).reverse_qargs()`` is `hqfkernels.statevector` of ``c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

try:
    from qiskit.circuit import (
        Barrier,
        Delay,
        Instruction,
        Parameter,
        ParameterExpression,
        ParameterVector,
        ParameterVectorElement,
        QuantumCircuit,
    )
    from qiskit.circuit.library import UnitaryGate, get_standard_gate_name_mapping
    from qiskit.exceptions import QiskitError
    from qiskit.quantum_info import SparsePauliOp
    from qiskit.transpiler.passes import HighLevelSynthesis
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'hqfkernels.interop.qiskit needs Qiskit 2.0 or later: pip install "hqfkernels[qiskit]"'
    ) from error

from hqfkernels.circuit import GATES, Angle, Circuit
from hqfkernels.interop.parameters import angles_of, bind

_OURS = {name: name for name in GATES if name not in ("i", "rot")} | {"id": "i", "u1": "p", "cu1": "cp"}
"""Qiskit's name -> gate."""

_STANDARD = {name: gate.base_class for name, gate in get_standard_gate_name_mapping().items()}
"""Qiskit's name -> the class of Qiskit's own gate. A gate of somebody's own may have any name."""

_REFUSED = {
    "reset": "take a fresh qubit instead",
    "if_else": "write one circuit for each case",
    "for_loop": "unroll it first (UnrollForLoops)",
    "while_loop": "its length depends on measurements",
    "switch_case": "write one circuit for each case",
    "box": "write its instructions without it",
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


def from_qiskit(circuit: QuantumCircuit, inputs: Any = None, weights: Any = None) -> Circuit:
    """Reads a Qiskit circuit.

    Gates that hqfkernels lacks are taken apart by their definitions, and what has none, such as a Clifford, by Qiskit's
    synthesis. Angles must be affine in the parameters. Barriers, delays, and measurements at the end are left out; the
    result measures Z on every qubit, as always by default. A transpiled circuit is read as it stands: qubits that the
    transpiler has moved stay where it put them.

    Args:
        circuit: the circuit; its ``parameters``, in its order, become inputs and weights.
        inputs: the parameters that become inputs, in this order: one or several Parameters, ParameterVectors, or names
            of either. All elements of a vector have their place, whether the circuit uses them or not.
        weights: those that become weights, likewise. If one of the two is left out, it is all others, in Qiskit's
            order; if both are, ``x[0]``, ``w[0]``, ... (as `to_qiskit` writes them) are what they say. If no name is of
            this kind, all parameters are weights, which a UserWarning says.

    Raises:
        TypeError: if ``circuit`` is no QuantumCircuit; if ``inputs`` or ``weights`` name no parameters.
        ValueError: for anything but gates (resets, conditions, loops, gates after a measurement), naming it; for
            angles that are not affine; for parameter names that clash, and if some say what they are and others do not.
    """
    if not isinstance(circuit, QuantumCircuit):
        raise TypeError(f"circuit: expected a qiskit.QuantumCircuit, got {type(circuit).__name__}")
    names = [p.name for p in circuit.parameters]
    vectors = {p.vector.name: p.vector for p in circuit.parameters if isinstance(p, ParameterVectorElement)}
    chosen = _chosen("inputs", inputs, names, vectors), _chosen("weights", weights, names, vectors)
    elements = [p.name for vector in vectors.values() for p in vector]
    names += [name for name in elements if name not in names and any(name in (some or ()) for some in chosen)]
    angles = angles_of(names, *chosen)
    result = Circuit(circuit.num_qubits)
    _append(result, circuit, list(range(circuit.num_qubits)), angles, set())
    return result


def _chosen(what: str, chosen: Any, names: list[str], vectors: Mapping[str, ParameterVector]) -> list[str] | None:
    """The names of the parameters that a caller has chosen among those of a circuit."""
    if chosen is None:
        return None
    if isinstance(chosen, (str, Parameter, ParameterVector)) or not isinstance(chosen, Iterable):
        chosen = [chosen]
    found: list[str] = []
    for one in chosen:
        if not isinstance(one, (str, Parameter, ParameterVector)):
            raise TypeError(f"{what}: expected Parameters, ParameterVectors, or their names, got {one!r}")
        name: str = one if isinstance(one, str) else one.name
        found += [name] if name in names or name not in vectors else [p.name for p in vectors[name]]
    return found


def _append(
    result: Circuit, circuit: QuantumCircuit, qubits: list[int], parameters: dict[str, Angle], measured: set[int]
) -> None:
    """Appends the instructions of ``circuit``, whose qubit k is ``qubits[k]``."""
    phase = _angle(circuit.global_phase, parameters, "global phase")
    if phase != Angle():
        first = (qubits or [0])[0]  # a gate that is a phase only has no qubits
        result.rz(-2 * phase, first).p(2 * phase, first)
    for instruction in circuit.data:
        operation, name = instruction.operation, instruction.operation.name
        on = [qubits[circuit.find_bit(q).index] for q in instruction.qubits]
        where = f"{name} on qubit(s) {', '.join(map(str, on))}"
        standard = name in _STANDARD and isinstance(operation, _STANDARD[name])
        if name == "measure" and standard:
            measured.update(on)
            continue
        if isinstance(operation, (Barrier, Delay)):
            continue
        if name in _REFUSED:
            raise ValueError(f"circuit: {where} is no gate; {_REFUSED[name]}")
        if touched := measured.intersection(on):
            raise ValueError(
                f"circuit: {name} acts on qubit {min(touched)} after its measurement; measure at the end only"
            )
        if standard and (name in _OURS or name in ("u", "u3")):
            values = [_angle(p, parameters, where) for p in operation.params]
            if name in ("u", "u3"):
                theta, phi, lam = values
                result.p(lam, on[0]).ry(theta, on[0]).p(phi, on[0])
            else:
                result.append(_OURS[name], values, on)
            continue
        definition = getattr(operation, "definition", None)  # a Clifford has no such thing
        matrix = isinstance(operation, Instruction) and hasattr(operation, "to_matrix")
        if len(on) <= 2 and matrix and (definition is None or isinstance(operation, UnitaryGate)):
            try:
                result.unitary(operation.to_matrix(), on[::-1])
            except (QiskitError, TypeError) as error:
                raise ValueError(
                    f"circuit: {where} has neither a definition nor a constant matrix; "
                    "transpile the circuit to rz, sx, x and cx first"
                ) from error
            continue
        _append(result, _synthesized(operation, where) if definition is None else definition, on, parameters, measured)


def _synthesized(operation: Any, where: str) -> QuantumCircuit:
    """What Qiskit makes of an operation without a definition, such as a Clifford or a gate with modifiers."""
    circuit = QuantumCircuit(operation.num_qubits, operation.num_clbits)
    try:
        circuit.append(operation, circuit.qubits, circuit.clbits)
        made = HighLevelSynthesis()(circuit)
    except QiskitError as error:
        raise ValueError(f"circuit: Qiskit cannot take {where} apart: {error}") from error
    if any(part.operation.name == operation.name for part in made.data):
        raise ValueError(f"circuit: {where} has no definition, and is no known gate")
    return made


def _angle(value: Any, parameters: dict[str, Angle], where: str) -> Angle:
    """A number or parameter expression, affine, as an `Angle`."""
    if isinstance(value, Parameter):
        return parameters[value.name]
    if not isinstance(value, ParameterExpression):
        return Angle.of(value)
    terms = _terms(value)
    if terms is None:
        names = ", ".join(sorted(repr(p.name) for p in value.parameters))
        raise ValueError(
            f"circuit: an angle of {where} is not affine in {names}: {value}; "
            "compute it before the circuit and make it a parameter of its own"
        )
    total = Angle()
    try:
        for factor, name in terms:
            total = total + float(factor) * (parameters[name] if name else 1)
    except (TypeError, ValueError) as error:
        raise ValueError(f"circuit: an angle of {where} must be real and finite, got {value}") from error
    return total


def _terms(value: ParameterExpression) -> list[tuple[Any, str]] | None:
    """The terms of an expression, each a constant and a parameter's name, or none; None if it is not affine."""
    try:
        # Twice, and half of it: of an expression that comes down to one parameter, such as ``0 * t + u``, Qiskit makes
        # a symbol of any of those that it was written with.
        expression = (2 * value).sympify() / 2
    except Exception:  # of many kinds, for what Qiskit does not tell SymPy, such as 2 ** t
        return None
    terms = []
    for term in expression.expand().as_ordered_terms():
        if not term.free_symbols:
            terms.append((term, ""))
            continue
        factor, variable = term.as_independent(*term.free_symbols, as_Add=False)
        if not variable.is_Symbol:
            return None
        terms.append((factor, str(variable.name)))
    return terms
