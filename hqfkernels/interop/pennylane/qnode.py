"""QNodes as circuits: the function is run on a few points and must be the same circuit, affine in them, at all."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.exceptions import DeviceError
from pennylane.measurements import ExpectationMP, ProbabilityMP
from pennylane.operation import DecompositionUndefinedError
from pennylane.ops import MidMeasure
from pennylane.tape import QuantumScript
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hqfkernels.circuit import Angle, Circuit
from hqfkernels.functional import expval, probs
from hqfkernels.interop.pennylane.operations import (
    amplitude_positions,
    gates_of,
    marginal,
    pauli_strings,
    take_apart,
)

Shape = int | Iterable[int]


class _NoValues(TorchDispatchMode):
    """Refuses to turn tensors into Python numbers: a circuit that asks for them depends on the data."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise _DataDependent(
                "qnode: it reads the value of a tensor (if, while, float() or .item()), so its structure depends on "
                "the data; make one circuit for each case, or give the value to the function that builds the QNode "
                "(a state preparation reads its norm, unless it is given normalize=True)"
            )
        return func(*args, **(kwargs or {}))


class _DataDependent(ValueError):
    """The structure of a QNode depends on the data."""


@dataclass(frozen=True)
class _Reading:
    """What a QNode is.

    Attributes:
        circuit: its gates; it measures the Pauli strings that the expectation values are made of.
        sums: for each measurement, (index of the string, coefficient) pairs, or None for probabilities.
        wires: for each measurement, the qubits that it names.
        returns: what the QNode returns: a measurement by itself, or a list or tuple of them.
    """

    circuit: Circuit
    sums: tuple[tuple[tuple[int, float], ...] | None, ...]
    wires: tuple[tuple[int, ...], ...]
    returns: type

    @property
    def plain(self) -> bool:
        """Whether each measurement is one Pauli word."""
        return all(terms is not None and len(terms) == 1 and terms[0][1] == 1 for terms in self.sums)


def from_qnode(qnode: Any, weight_shapes: Mapping[str, Shape], n_inputs: int | None = None) -> Circuit:
    """The circuit that a QNode is, for `hqfkernels.expval` (or `hqfkernels.probs`, if it returns probabilities).

    The QNode is read as `qml.qnn.TorchLayer` takes it: its argument ``inputs`` holds the features of one sample, all
    other arguments are weights. Angles must be affine in both. Gates that hqfkernels lacks are taken apart by
    PennyLane. The device of the QNode is not used, only its wires: they become the qubits, in order.

    Args:
        qnode: a `qml.QNode` that returns expectation values of Pauli words, or probabilities of all wires.
        weight_shapes: shape of each weight, as for `qml.qnn.TorchLayer`. The circuit's weights are the entries of all
            of them, in this order, each one row by row.
        n_inputs: number of features in ``inputs``; by default, as many as there are wires.

    Returns:
        The circuit. It has as many inputs and weights as the highest ones that the QNode uses.

    Raises:
        TypeError: if ``qnode`` is no QNode, or its arguments are not ``inputs`` and ``weight_shapes``.
        ValueError: for what no circuit can express, naming the gate or measurement: structure or angles that depend on
            the data in any but an affine way, mid-circuit measurements, shots, sums of observables.
    """
    reading = _read(qnode, _shapes(weight_shapes), n_inputs, "inputs")
    if None in reading.sums:
        if len(reading.sums) > 1 or reading.wires[0] not in ((), tuple(range(reading.circuit.n_qubits))):
            raise ValueError(
                "qnode: a circuit returns expectation values, or the probabilities of all wires in order by "
                "themselves; TorchLayer takes mixtures and parts"
            )
        return reading.circuit
    if not reading.plain:
        raise ValueError(
            "qnode: it measures sums or multiples of Pauli words; let it return the words and add up their values, or "
            "use TorchLayer, which does"
        )
    if len(reading.sums) != reading.circuit.n_observables:
        raise ValueError("qnode: it measures the same Pauli word twice; let it return each one once")
    return reading.circuit


class TorchLayer(qml.qnn.TorchLayer):  # type: ignore[misc]  # PennyLane has no types
    """A drop-in for `qml.qnn.TorchLayer`: the same constructor, parameters, initial values and ``state_dict``.

    The QNode is read as a circuit at the first call (see `from_qnode` for what it may hold) and runs on hqfkernels'
    engines from then on, whatever its device. It may return expectation values of sums of Pauli words and
    probabilities. Inputs are (..., n_features); results have PennyLane's shapes and the inputs' dtype. Call the layer
    once before ``torch.compile``, ``torch.export`` or ``torch.func.vmap`` see it: reading cannot be traced.

    Args:
        qnode: the QNode, with an argument ``inputs``.
        weight_shapes: shape of each other argument.
        init_method: as in PennyLane: a `torch.nn.init` function, or for each weight a function or a tensor.
    """

    def __init__(
        self,
        qnode: Any,
        weight_shapes: Mapping[str, Shape],
        init_method: Callable[..., Any] | dict[str, Any] | None = None,
    ) -> None:
        _check_qnode(qnode)
        super().__init__(qnode, dict(weight_shapes), init_method)
        self._readings: dict[int, _Reading] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (..., n_features) to the QNode's results, as `qml.qnn.TorchLayer` shapes them."""
        if not isinstance(inputs, Tensor) or inputs.dim() == 0:
            got = "a tensor without dimensions" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(f"inputs: expected a tensor (..., n_features), got {got}")
        size = inputs.shape[-1]
        parameters = {name: self._parameters[name] for name in self.qnode_weights}
        if size not in self._readings:
            shapes = {name: tuple(p.shape) for name, p in parameters.items()}
            self._readings[size] = _read(self.qnode, shapes, size, self.input_arg)
        reading = self._readings[size]
        flat = [p.flatten() for p in parameters.values()]
        weights = flat[0] if len(flat) == 1 else torch.cat(flat) if flat else inputs.new_empty(0)
        used = _first(inputs, reading.circuit.n_inputs), _first(weights, reading.circuit.n_weights)
        return _evaluate(reading, *used).to(inputs.dtype)


def _first(tensor: Tensor, count: int) -> Tensor:
    """The first entries along the last dimension: what a circuit uses of its inputs or weights."""
    return tensor if tensor.shape[-1] == count else tensor[..., :count]


def _evaluate(reading: _Reading, inputs: Tensor, weights: Tensor) -> Tensor:
    """The results for inputs (..., n_inputs), put together as `qml.qnn.TorchLayer` does."""
    circuit, batch = reading.circuit, inputs.shape[:-1]
    values = expval(circuit, inputs, weights) if any(reading.sums) else inputs.new_empty(0)
    if reading.returns is list and reading.plain and circuit.n_observables == len(reading.sums):
        return values  # the usual case, at no further cost
    every = probs(circuit, inputs, weights) if None in reading.sums else inputs.new_empty(0)
    results = []
    for terms, wires in zip(reading.sums, reading.wires, strict=True):
        if terms is None:
            results.append(marginal(every, wires, circuit.n_qubits))
        else:
            results.append(sum((c * values[..., k] for k, c in terms), values.new_zeros(batch)))
    if reading.returns not in (list, tuple):
        return results[0]
    columns = [r.reshape(*batch, -1) for r in results]
    return torch.stack(columns) if reading.returns is tuple and len(columns) > 1 else torch.cat(columns, -1)


# --- reading --------------------------------------------------------------------------------------------------------


def _check_qnode(qnode: Any) -> None:
    if not isinstance(qnode, qml.QNode):
        raise TypeError(
            f"qnode: expected a qml.QNode (a function under @qml.qnode(device)), got {type(qnode).__name__}"
        )


def _shapes(weight_shapes: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
    """Shapes as tuples; 1 is a number by itself, as in `qml.qnn.TorchLayer`."""
    if not isinstance(weight_shapes, Mapping):
        raise TypeError(f"weight_shapes: expected a dict from names to shapes, got {type(weight_shapes).__name__}")
    return {
        name: tuple(shape) if isinstance(shape, Iterable) else () if shape == 1 else (shape,)
        for name, shape in weight_shapes.items()
    }


def _check_names(qnode: Any, names: Iterable[str], input_arg: str) -> bool:
    """Whether the QNode takes inputs; raises if its arguments are not those and ``names``."""
    arguments = inspect.signature(qnode.func).parameters.values()
    if input_arg in names:
        raise ValueError(f"weight_shapes: {input_arg!r} is the argument of the inputs, and cannot be a weight as well")
    for a in arguments:
        if a.kind in (a.VAR_POSITIONAL, a.POSITIONAL_ONLY):
            raise TypeError(f"qnode: its arguments are given by name, which {a.name!r} cannot be")
        if a.kind != a.VAR_KEYWORD and a.default is a.empty and a.name not in (input_arg, *names):
            raise ValueError(f"weight_shapes: the shape of {a.name!r}, an argument of the QNode, is missing")
    known = {a.name for a in arguments}
    if not any(a.kind == a.VAR_KEYWORD for a in arguments):
        for name in names:
            if name not in known:
                raise ValueError(f"weight_shapes: the QNode has no argument {name!r}, only {', '.join(sorted(known))}")
    return input_arg in known


def _read(qnode: Any, shapes: dict[str, tuple[int, ...]], n_inputs: int | None, input_arg: str) -> _Reading:
    _check_qnode(qnode)
    takes_inputs = _check_names(qnode, shapes, input_arg)
    if not takes_inputs:
        n_inputs = 0
    elif n_inputs is None:
        if not qnode.device.wires:
            raise ValueError("n_inputs: the QNode's device does not say how many wires it has, so this must be given")
        n_inputs = len(qnode.device.wires)
    n_weights = sum(map(math.prod, shapes.values()))

    # The first point has few binary digits, so that constants come out exactly; the others have other signs and sizes.
    random = np.random.default_rng(0)
    dyadic = random.integers(1, 256, n_inputs + n_weights) / 128
    points = [dyadic, *(scale * (0.1 + random.random(len(dyadic))) for scale in (-1, 7))]
    # What a QNode is does not depend on where its layer is called first: without gradients, on another default device.
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        argument = input_arg if takes_inputs else None
        return _reading([_trace(qnode, shapes, n_inputs, argument, torch.from_numpy(point)) for point in points])


def _reading(runs: list[_Trace]) -> _Reading:
    """The circuit that several runs show; raises ValueError if they do not show the same."""
    first = runs[0]
    for other in runs[1:]:
        if other.structure != first.structure:
            raise _DataDependent(
                "qnode: its gates change with the data; make one circuit for each case and choose outside of it"
            )
    circuit = Circuit(first.n_qubits)
    if first.amplitudes is not None:
        circuit.amplitudes(*_amplitudes(runs))
    slopes = [_affine(angle, first) for angle in first.angles]
    for run in runs[1:]:
        for name, angle, value in zip(first.labels, slopes, run.angles, strict=True):
            _check_affine(name, angle, value, run)
    angles = iter(slopes)
    for name, qubits, count, matrix in first.structure:
        if name == "unitary":
            circuit.unitary(np.reshape(matrix, (2 ** len(qubits), -1)), qubits)
        else:
            circuit.append(name, [next(angles) for _ in range(count)], qubits)
    if not len(circuit):
        circuit.i(0)
    return _measured(circuit, first)


@dataclass
class _Trace:
    """A run of a QNode at one point.

    Attributes:
        inputs, weights: the point, as leaves of the graph that leads to the angles.
        structure: name, qubits, number of angles and matrix of each gate.
        angles: of all gates, in order.
        labels: for each angle, what its operation is.
        amplitudes: the initial state, where it depends on the point, and its wires.
    """

    inputs: Tensor
    weights: Tensor
    n_qubits: int
    tape: QuantumScript
    returns: type
    structure: list[tuple[str, tuple[int, ...], int, tuple[complex, ...]]] = field(default_factory=list)
    angles: list[Any] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    amplitudes: Tensor | None = None


def _trace(
    qnode: Any, shapes: dict[str, tuple[int, ...]], n_inputs: int, input_arg: str | None, point: Tensor
) -> _Trace:
    inputs, weights = point[:n_inputs].clone().requires_grad_(), point[n_inputs:].clone().requires_grad_()
    parts = weights.split([math.prod(shape) for shape in shapes.values()])
    arguments = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
    if input_arg is None:
        tape, returns = _run(qnode, arguments)
    else:
        try:
            tape, returns = _run(qnode, {input_arg: inputs, **arguments})
        except _DataDependent:
            raise
        except Exception as error:
            try:  # written for a batch only: inputs[:, 0]
                tape, returns = _run(qnode, {input_arg: inputs[None], **arguments})
            except Exception:
                raise ValueError(
                    f"qnode: it does not run on {n_inputs} inputs: {error} (n_inputs says how many it takes)"
                ) from error
    if tape.shots:
        raise ValueError('qnode: it samples with finite shots, a circuit is exact; the device "hqf.qubit" samples')
    for op in tape.operations:
        if isinstance(op, MidMeasure):
            raise ValueError(
                f"qnode: mid-circuit measurement of wire {op.wires[0]} is no gate; "
                "put @qml.defer_measurements above the QNode"
            )
    wires = qnode.device.wires or tape.wires
    for op in (*tape.operations, *tape.measurements):
        for wire in op.wires:
            if wire not in wires:
                raise ValueError(f"qnode: {op.name} acts on wire {wire!r}, which its device does not have")
    (tape,), _ = qml.map_wires(tape, {wire: k for k, wire in enumerate(wires)})
    start = tape.operations[0] if tape.operations else None
    prepared = isinstance(start, qml.StatePrep) and qml.math.requires_grad(start.data[0])
    try:
        tape = take_apart(tape, "hqfkernels", prepared)
    except (DeviceError, DecompositionUndefinedError) as error:
        raise ValueError(f"qnode: {error}") from error

    trace = _Trace(inputs, weights, max(1, len(wires)), tape, returns)
    if prepared:
        trace.amplitudes = tape.operations[0].data[0].reshape(-1)
    for op in tape.operations[int(prepared) :]:
        for name, qubits, factors, matrix in gates_of(op):
            trace.structure.append((name, qubits, len(factors), matrix))
            for p, c in factors:
                label = f"{op.name} on wire(s) {', '.join(str(wires[q]) for q in qubits)}"
                if qml.math.size(op.data[p]) != 1:
                    raise ValueError(
                        f"qnode: the angle of {label} has shape {qml.math.shape(op.data[p])} for one sample of "
                        f"{n_inputs} inputs, expected one number"
                    )
                trace.angles.append(c * op.data[p])
                trace.labels.append(label)
    return trace


def _run(qnode: Any, arguments: dict[str, Tensor]) -> tuple[QuantumScript, type]:
    """The tape, after the transforms that the user put on the QNode, and the type of what the function returns."""
    with _NoValues():  # type: ignore[no-untyped-call]
        with qml.QueuingManager.stop_recording():
            returned = qnode.func(**arguments)
        tape = qml.workflow.construct_tape(qnode, level="user")(**arguments)
    return tape, type(returned)


def _affine(value: Any, run: _Trace) -> Angle:
    """The angle as a tangent at the run's point."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return Angle(float(value))
    slopes = torch.autograd.grad(value.reshape(()), (run.inputs, run.weights), retain_graph=True, allow_unused=True)
    constant, size, terms = value.item(), 1.0, []
    for slope, point in zip(slopes, (run.inputs, run.weights), strict=True):
        entries = [] if slope is None else [(k, c) for k, c in enumerate(slope.tolist()) if not abs(c) < 1e-12]
        terms.append(tuple(entries))
        for k, c in entries:
            constant -= c * point[k].item()
            size += abs(c * point[k].item())
    return Angle(constant if abs(constant) > 1e-12 * size else 0.0, *terms)


def _check_affine(name: str, angle: Angle, value: Any, run: _Trace) -> None:
    predicted, actual = angle.constant, value.item() if isinstance(value, Tensor) else float(value)
    for terms, point in ((angle.inputs, run.inputs), (angle.weights, run.weights)):
        predicted += sum(c * point[k].item() for k, c in terms)
    if not abs(predicted - actual) <= 1e-8 * (1 + abs(predicted)):
        raise ValueError(
            f"qnode: the angle of {name} is not affine in inputs and weights; "
            "compute it before the circuit and pass it in as an input"
        )


def _amplitudes(runs: list[_Trace]) -> tuple[int, int]:
    """(first input, count) of the inputs that the initial state holds, normalised."""
    n = runs[0].n_qubits
    wires = [int(w) for w in runs[0].tape.operations[0].wires]
    last = amplitude_positions(wires, n) == list(range(2 ** len(wires)))
    state = runs[0].amplitudes
    assert state is not None
    count = int(torch.count_nonzero(state))
    for first in range(len(runs[0].inputs) - count + 1):
        if last and all(_holds(run, first, count) for run in runs):
            return first, count
    raise ValueError(
        "qnode: a state preparation must hold consecutive inputs, normalised and followed by zeros "
        "(AmplitudeEmbedding with normalize=True, pad_with=0), on all wires in order or the last ones"
    )


def _holds(run: _Trace, first: int, count: int) -> bool:
    assert run.amplitudes is not None
    part = run.inputs[first : first + count]
    expected = torch.zeros_like(run.amplitudes)
    expected[:count] = part / torch.linalg.vector_norm(part)
    return torch.allclose(run.amplitudes, expected)


def _measured(circuit: Circuit, run: _Trace) -> _Reading:
    strings: dict[str, int] = {}
    sums: list[tuple[tuple[int, float], ...] | None] = []
    for mp in run.tape.measurements:
        terms = pauli_strings(mp.obs, circuit.n_qubits) if isinstance(mp, ExpectationMP) else None
        if terms is None and not (isinstance(mp, ProbabilityMP) and mp.obs is None and mp.mv is None):
            raise ValueError(
                f"qnode: {mp} is not supported: it takes expectation values of sums of Pauli words and probabilities; "
                'the device "hqf.qubit" takes everything that PennyLane measures'
            )
        if terms is None:
            sums.append(None)
            continue
        if any(qml.math.requires_grad(c) for c in terms.values()):
            raise ValueError(f"qnode: {mp} has coefficients that depend on the data; multiply its words outside of it")
        sums.append(tuple((strings.setdefault(s, len(strings)), float(np.real(c))) for s, c in terms.items()))
    circuit.measure(*strings)
    wires = tuple(tuple(int(w) for w in mp.wires) for mp in run.tape.measurements)
    return _Reading(circuit, tuple(sums), wires, run.returns)
