"""QNodes as circuits: what the function computes is recorded, and must be affine in its arguments by construction."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.measurements import ExpectationMP, MeasurementProcess, ProbabilityMP
from pennylane.ops import MidMeasure
from pennylane.tape import QuantumScript
from pennylane.workflow import construct_batch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils._python_dispatch import _disable_current_modes

from hqfkernels.circuit import Angle, Circuit
from hqfkernels.functional import expval, probs
from hqfkernels.interop.pennylane.operations import (
    amplitude_positions,
    gates_of,
    marginal,
    pauli_strings,
    take_apart,
)
from hqfkernels.interop.pennylane.recording import Recorder, Refused, lost_gradient

Shape = int | Iterable[int]


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
    other arguments are weights. Its operations on both are recorded: angles must be affine in them by construction,
    whatever the values. Gates that hqfkernels lacks are taken apart by PennyLane. The device of the QNode is not used,
    only its wires: they become the qubits, in order (in PennyLane's standard order, if the device names none).

    Args:
        qnode: a `qml.QNode` that returns expectation values of Pauli words, or probabilities of all wires.
        weight_shapes: shape of each weight, as for `qml.qnn.TorchLayer`. The circuit's weights are the entries of all
            of them, in this order, each one row by row.
        n_inputs: number of features in ``inputs``; by default, as many as there are wires.

    Returns:
        The circuit. It has as many inputs and weights as the highest ones that the QNode uses.

    Raises:
        TypeError: if ``qnode`` is no QNode, or its arguments are not ``inputs`` and ``weight_shapes``.
        ValueError: for what no circuit can express, naming the operation, gate or measurement: structure or angles that
            depend on the data in any but an affine way, random numbers, tensors from elsewhere that require gradients,
            mid-circuit measurements, shots, sums of observables.
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
    once before ``torch.compile(fullgraph=True)`` or a strict ``torch.export`` see it: reading cannot be traced.

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
        super().__init__(qnode, _shapes(weight_shapes), init_method)
        self._readings: dict[tuple[Any, ...], _Reading] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (..., n_features) to the QNode's results, as `qml.qnn.TorchLayer` shapes them.

        Raises:
            TypeError: if the inputs are no tensor of real numbers, or weights are complex.
            ValueError: at the first call, as `from_qnode`.
        """
        if not isinstance(inputs, Tensor) or inputs.dim() == 0:
            got = "a tensor without dimensions" if isinstance(inputs, Tensor) else type(inputs).__name__
            raise TypeError(f"inputs: expected a tensor (..., n_features), got {got}")
        size = inputs.shape[-1]
        parameters = {name: self._weight(name) for name in self.qnode_weights}
        shapes = {name: tuple(p.shape) for name, p in parameters.items()}
        key = (size, *shapes.values())
        if key not in self._readings:
            read = _read_untraced if torch.compiler.is_compiling() else _read
            self._readings[key] = read(self.qnode, shapes, size, self.input_arg)
        reading = self._readings[key]
        flat = [p.flatten() for p in parameters.values()]
        weights = flat[0] if len(flat) == 1 else torch.cat(flat) if flat else inputs.new_empty(0)
        used = _first(inputs, reading.circuit.n_inputs), _first(weights, reading.circuit.n_weights)
        return _evaluate(reading, *used).to(inputs.dtype)

    def _weight(self, name: str) -> Tensor:
        """The weight in force: pruning, parametrizations and replicas put a plain attribute in place of a parameter."""
        own = self._parameters.get(name, self._buffers.get(name))
        weight = self.__getattribute__(name) if own is None else own
        if not weight.is_floating_point():
            raise TypeError(f"weight {name!r}: expected real numbers, got {weight.dtype}")
        return weight


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
    # What a QNode is does not depend on where its layer is called first: without gradients, on another default device,
    # under autocast, in a function that is traced or transformed.
    with (
        _disable_current_modes(),
        temporarily_clear_interpreter_stack(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.device("cpu"),
        torch.autocast("cpu", enabled=False),
        _one_at_a_time,
    ):
        failure = None
        for dtype in (torch.float64, torch.float32):  # a QNode's own tensors may fit only one of them
            for batched in (False, True) if takes_inputs else (False,):  # it may be written for a batch: inputs[:, 0]
                source = _Source(qnode, shapes, input_arg if takes_inputs else None, n_inputs, batched, dtype)
                try:
                    origin = source.run(0.0)
                    before = _random_state()
                    other = source.run(1.0)
                    if _random_state() != before:  # a function that sets its own seed ends as it did before
                        raise Refused("qnode: it draws random numbers, which would be the same ones at every call")
                    return _reading(origin, other)
                except _DoesNotRun as error:
                    failure = failure or error.__cause__
        raise ValueError(f"qnode: it does not run on one sample of {n_inputs} inputs: {failure}") from failure


_read_untraced = _disable_dynamo(_read)
"""For `torch.compile`; not at other times, since it imports the compiler."""

_one_at_a_time = threading.RLock()
"""Held while a QNode is read, since `_undecided` changes PennyLane meanwhile."""


def _random_state() -> bytes:
    """The states of all generators that a function may share with others."""
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()))  # noqa: NPY002


class _DoesNotRun(Exception):
    """A QNode fails on the arguments that it is given; the cause says why."""


@dataclass(frozen=True)
class _Source:
    """A QNode, and how it is run: on one sample or, ``batched``, on two at once."""

    qnode: Any
    shapes: dict[str, tuple[int, ...]]
    input_arg: str | None
    n_inputs: int
    batched: bool
    dtype: torch.dtype

    def run(self, scale: float) -> _Run:
        """Runs the QNode at a made-up point times ``scale``, and records what it computes."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        rng = np.random.default_rng(0)
        inputs = torch.from_numpy(scale * rng.uniform(-8, 8, (1 + self.batched, self.n_inputs))).requires_grad_()
        weights = torch.from_numpy(scale * rng.uniform(-8, 8, sum(sizes))).requires_grad_()
        recorder = Recorder(inputs, weights)
        with recorder, _undecided(recorder):
            # Clones, since a QNode may write into its arguments.
            parts = weights.clone().to(self.dtype).split(sizes)
            arguments = {name: p.reshape(shape) for (name, shape), p in zip(self.shapes.items(), parts, strict=True)}
            if self.input_arg is not None:
                given = inputs.clone().to(self.dtype)
                arguments[self.input_arg] = given if self.batched else given[0]
            try:
                tape, returns = _tape(self.qnode, arguments)
            except Refused:
                raise
            except Exception as error:
                raise _DoesNotRun from error
            run = _Run(inputs, weights, recorder, returns)
            run.take(tape, self.qnode.device.wires)
        return run


@contextmanager
def _undecided(recorder: Recorder) -> Iterator[None]:
    """Keeps PennyLane from deciding by values of recorded tensors, where it can do without.

    It compares norms and angles with numbers, unless a tensor or the result of a comparison is what it calls abstract.
    """
    is_abstract, allclose = qml.math.is_abstract, qml.math.allclose
    compared: list[Tensor] = []

    def ours(tensor: Any, like: Any = None) -> bool:
        return recorder.is_norm(tensor) or any(tensor is one for one in compared) or is_abstract(tensor, like)

    def compare(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorder.depends(a) and not recorder.depends(b):
            return allclose(a, b, *args, **kwargs)
        compared.append(torch.eq(a if recorder.depends(a) else b, 0).all())  # who asks for its value is refused
        return compared[-1]

    qml.math.is_abstract, qml.math.allclose = ours, compare
    try:
        yield
    finally:
        qml.math.is_abstract, qml.math.allclose = is_abstract, allclose


def _tape(qnode: Any, arguments: dict[str, Tensor]) -> tuple[QuantumScript, type]:
    """The tape, after the transforms that the user put on the QNode, and the type of what the function returns."""
    types: list[type] = []

    @wraps(qnode.func)
    def function(**given: Any) -> Any:
        returned = qnode.func(**given)
        queued = QuantumScript.from_queue(qml.QueuingManager.active_context()).measurements
        measured = returned if type(returned) in (list, tuple) else [returned]
        if not measured or not all(isinstance(mp, MeasurementProcess) for mp in measured):
            raise Refused(
                "qnode: expected it to return a measurement, or a list or tuple of measurements, "
                f"got {type(returned).__name__} {returned!r}"
            )
        if len(measured) != len(queued) or any(a is not b for a, b in zip(measured, queued, strict=True)):
            raise Refused(
                "qnode: it returns other measurements than it makes; let it return each one once, in the order "
                "in which they are made"
            )
        types.append(type(returned))
        return returned

    node = copy.copy(qnode)
    node.func = function
    tapes, join = construct_batch(node, level="user")(**arguments)
    marker = object()
    try:
        unchanged = len(tapes) == 1 and join((marker,)) in (marker, (marker,))
    except Exception:  # it computes with results
        unchanged = False
    if not unchanged:
        raise Refused("qnode: its transforms make several circuits of it, or change what they return")
    return tapes[0], types[0]


@dataclass
class _Run:
    """A run of a QNode at one point.

    Attributes:
        inputs, weights: the point, (samples, n_inputs) and (n_weights,); leaves of the graph that leads to the angles.
        recorder: knows what depends on them, and how.
        returns: as in `_Reading`.
        n_qubits: size of the register.
        structure: name, qubits, number of angles and matrix of each gate.
        angles: of all gates, in order, and what each one's operation is.
        state: the amplitudes that inputs make and their wires, if there are any.
        measured: for each measurement, its wires and its Pauli strings with coefficients (None for probabilities).
    """

    inputs: Tensor
    weights: Tensor
    recorder: Recorder
    returns: type
    n_qubits: int = 1
    structure: list[tuple[str, tuple[int, ...], int, tuple[complex, ...]]] = field(default_factory=list)
    angles: list[tuple[Any, str]] = field(default_factory=list)
    state: tuple[Tensor, list[int]] | None = None
    measured: list[tuple[tuple[int, ...], dict[str, float] | None]] = field(default_factory=list)

    def take(self, tape: QuantumScript, device_wires: Any) -> None:
        """Takes a tape apart into gates."""
        if tape.shots:
            raise ValueError('qnode: it samples with finite shots, a circuit is exact; the device "hqf.qubit" samples')
        for op in tape.operations:
            if isinstance(op, MidMeasure):
                raise ValueError(
                    f"qnode: mid-circuit measurement of wire {op.wires[0]} is no gate; "
                    "put @qml.defer_measurements above the QNode"
                )
        wires = list(device_wires or _standard_order(tape))
        for part in (*tape.operations, *tape.measurements):
            for wire in part.wires:
                if wire not in wires:
                    name = getattr(part, "name", part)
                    raise ValueError(f"qnode: {name} acts on wire {wire!r}, which its device does not have")
        self.n_qubits = max(1, len(wires))
        (tape,), _ = qml.map_wires(tape, {wire: k for k, wire in enumerate(wires)})
        start = tape.operations[0] if tape.operations else None
        prepared = isinstance(start, qml.StatePrep) and self.recorder.depends(start.data[0])
        try:
            tape = take_apart(tape, "hqfkernels", prepared)
        except Refused:
            raise
        except Exception as error:  # PennyLane's decompositions fail in many ways
            raise ValueError(f"qnode: {error}") from error
        if prepared:
            self._prepare(tape.operations[0])
        for op in tape.operations[int(prepared) :]:
            for name, qubits, factors, matrix in gates_of(op):
                self.structure.append((name, qubits, len(factors), matrix))
                label = f"the angle of {op.name} on wire(s) {', '.join(str(wires[q]) for q in qubits)}"
                for p, c in factors:
                    self._check(op.data[p], label)
                    self.angles.append((c * op.data[p], label))
        for mp in tape.measurements:
            self.measured.append((tuple(int(w) for w in mp.wires), self._terms(mp)))

    def _prepare(self, op: Any) -> None:
        state = self.recorder.direction(op.data[0])
        if state is None:
            raise ValueError(_PREPARATION)
        self.state = state.reshape(-1, state.shape[-1]), [int(w) for w in op.wires]

    def _check(self, value: Any, what: str) -> None:
        """Raises ValueError for what is not affine by construction, not one number or from elsewhere."""
        how = self.recorder.refusal(value)
        if how:
            raise ValueError(
                f"qnode: {what} is not affine in inputs and weights: it comes from {how}; "
                "compute it before the circuit and pass it in as an input"
            )
        if isinstance(value, Tensor) and value.requires_grad and not self.recorder.depends(value):
            raise ValueError(lost_gradient(value))
        if qml.math.size(value) not in (1, len(self.inputs)):
            raise ValueError(
                f"qnode: {what} has shape {qml.math.shape(value)} for one sample of {self.inputs.shape[1]} inputs, "
                "expected one number"
            )

    def _terms(self, mp: Any) -> dict[str, float] | None:
        if isinstance(mp, ProbabilityMP) and mp.obs is None and mp.mv is None:
            return None
        if mp.obs is not None and any(map(self.recorder.depends, mp.obs.data)):
            raise ValueError(
                f"qnode: an observable on wire(s) {', '.join(str(w) for w in mp.wires)} has coefficients that depend "
                "on the data; multiply its words outside of it"
            )
        terms = pauli_strings(mp.obs, self.n_qubits) if isinstance(mp, ExpectationMP) else None
        if terms is None:
            raise ValueError(
                f"qnode: {mp} is not supported: it takes expectation values of sums of Pauli words and probabilities; "
                'the device "hqf.qubit" takes everything that PennyLane measures'
            )
        for c in terms.values():
            if isinstance(c, Tensor) and c.requires_grad:
                raise ValueError(lost_gradient(c))
            if np.imag(complex(c)):
                raise ValueError(f"qnode: {mp} is not real: a coefficient is {complex(c)}")
        return {string: complex(c).real for string, c in terms.items()}

    def slopes(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of a number with respect to inputs and weights, shaped as these."""
        leaves = (self.inputs, self.weights)
        if not value.requires_grad:
            return torch.zeros_like(self.inputs), torch.zeros_like(self.weights)
        found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        return found[0], found[1]

    def samples(self, value: Any, what: str) -> list[tuple[int, Tensor]]:
        """The real numbers that a value is, each with the sample that it belongs to, -1 if it is the same for all."""
        numbers = (value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))).reshape(-1)
        if numbers.is_complex():
            if torch.count_nonzero(numbers.imag) or any(map(torch.any, self.slopes(numbers.imag.sum()))):
                raise ValueError(f"qnode: {what} is complex")
            numbers = numbers.real
        return [(k if len(numbers) == len(self.inputs) else -1, number) for k, number in enumerate(numbers.unbind())]

    def own_slopes(self, number: Tensor, sample: int, what: str) -> tuple[Tensor, Tensor]:
        """`slopes` of a number that belongs to a sample: (n_inputs,) and (n_weights,)."""
        inputs, weights = self.slopes(number)
        others = [k for k in range(len(inputs)) if k != sample]
        if torch.any(inputs[others]):
            raise Refused(f"qnode: {what} mixes the samples of a batch")
        return inputs[sample], weights


def _standard_order(tape: QuantumScript) -> list[Any]:
    """The wires of a tape for a device that does not name its own, in the order that PennyLane gives them."""
    numbers: dict[Any, int] = {}
    mapped = tape.map_to_standard_wires()
    for part, other in zip(tape.circuit, mapped.circuit, strict=True):
        numbers.update(zip(part.wires, other.wires, strict=True))
    return sorted(numbers, key=numbers.__getitem__)


def _reading(origin: _Run, other: _Run) -> _Reading:
    """The circuit that a run at zero shows, where affine functions are their constants.

    The other run, at any other point, must agree: what reaches an angle by no operation of torch, or has other
    gradients than its value (random numbers, hooks), is found so.
    """
    if other.structure != origin.structure or other.measured != origin.measured:
        raise Refused(
            "qnode: its gates or measurements change with the data, or from run to run; "
            "make one circuit for each case and choose outside of it"
        )
    circuit = Circuit(origin.n_qubits)
    if origin.state is not None:
        circuit.amplitudes(*_amplitudes(origin, other))
    angles = iter([_affine(*pair, origin, other) for pair in zip(origin.angles, other.angles, strict=True)])
    for name, qubits, count, matrix in origin.structure:
        if name == "unitary":
            circuit.unitary(np.reshape(matrix, (2 ** len(qubits), -1)), qubits)
        else:
            circuit.append(name, [next(angles) for _ in range(count)], qubits)
    if not len(circuit):
        circuit.i(0)
    strings: dict[str, int] = {}
    sums = [
        None if terms is None else tuple((strings.setdefault(s, len(strings)), c) for s, c in terms.items())
        for _, terms in origin.measured
    ]
    circuit.measure(*strings)
    return _Reading(circuit, tuple(sums), tuple(wires for wires, _ in origin.measured), origin.returns)


def _affine(at_zero: tuple[Any, str], there: tuple[Any, str], origin: _Run, other: _Run) -> Angle:
    """The angle that has this value at zero, and that one at another point."""
    label = at_zero[1]
    found = set()
    pairs = zip(origin.samples(*at_zero), other.samples(*there), strict=True)
    for (sample, number), (_, actual) in pairs:
        constant, slopes = number.item(), origin.own_slopes(number, sample, label)
        changes = [c * p for c, p in zip(slopes, (other.inputs[sample], other.weights), strict=True)]
        size = 1 + abs(constant) + sum(c.abs().sum().item() for c in changes)
        if not math.isfinite(size):
            raise ValueError(f"qnode: {label} is not finite")
        if not abs(constant + sum(c.sum().item() for c in changes) - actual.item()) <= 1e-5 * size:
            raise ValueError(
                f"qnode: {label} is not affine in inputs and weights: its value is not what its gradient says "
                "(random numbers, hooks and functions with gradients of their own are no part of a circuit)"
            )
        terms = [tuple((k, c) for k, c in enumerate(slope.tolist()) if c) for slope in slopes]
        found.add(Angle(constant, *terms))
    if len(found) > 1:
        raise Refused(f"qnode: {label} differs between the samples of a batch")
    return found.pop()


_PREPARATION = (
    "qnode: a state preparation must hold consecutive inputs, normalised and followed by zeros "
    "(AmplitudeEmbedding with normalize=True, pad_with=0), on all wires in order or the last ones"
)


def _amplitudes(origin: _Run, other: _Run) -> tuple[int, int]:
    """(first input, count) of the inputs that the initial state holds, normalised; all times a positive factor."""
    assert origin.state is not None
    assert other.state is not None
    (state, wires), (there, _) = origin.state, other.state
    if amplitude_positions(wires, origin.n_qubits) != list(range(2 ** len(wires))) or torch.count_nonzero(state):
        raise ValueError(_PREPARATION)
    # A random sum of the amplitudes shows the place of each input.
    factors = torch.from_numpy(np.random.default_rng(1).uniform(1, 2, state.shape[-1])).to(state.dtype)
    sums = [((run @ factors), "a state preparation") for run in (state, there)]
    angle = _affine(sums[0], sums[1], origin, other)
    close = 1e-6 if state.dtype in (torch.float32, torch.complex64) else 1e-12
    places = [k for k, _ in angle.inputs]
    scales = [c / f for (_, c), f in zip(angle.inputs, factors.real.tolist(), strict=False)]
    consecutive = bool(places) and places == list(range(places[0], places[0] + len(factors)))[: len(places)]
    if angle.weights or not consecutive or not (scales[0] > 0 and np.allclose(scales, scales[0], rtol=close, atol=0)):
        raise ValueError(_PREPARATION)
    return places[0], len(places)
