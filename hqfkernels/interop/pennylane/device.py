"""The PennyLane device ``hqf.qubit``: tapes become circuits, a broadcast batch one call of the engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pennylane as qml
import torch
from pennylane.devices import Device, ExecutionConfig
from pennylane.devices.default_qubit import accepted_analytic_measurement, accepted_sample_measurement
from pennylane.devices.modifiers import simulator_tracking, single_tape_support
from pennylane.devices.preprocess import (
    no_sampling,
    validate_device_wires,
    validate_measurements,
)
from pennylane.devices.qubit import measure_final_state
from pennylane.exceptions import DeviceError
from pennylane.math import Interface
from pennylane.measurements import (
    ClassicalShadowMP,
    CountsMP,
    ExpectationMP,
    MeasurementProcess,
    ProbabilityMP,
    SampleMP,
    ShadowExpvalMP,
    StateMP,
    VarianceMP,
)
from pennylane.ops import Prod
from pennylane.tape import QuantumScript
from pennylane.transforms.core import CompilePipeline
from torch import Tensor

from hqfkernels.circuit import Circuit, Gate, Input, Weight
from hqfkernels.functional import expval, probs, statevector
from hqfkernels.interop.pennylane.operations import (
    amplitude_positions,
    gates_of,
    is_gate,
    is_preparation,
    is_real_preparation,
    marginal,
    pauli_strings,
    to_gates,
)
from hqfkernels.interop.pennylane.simulation import (
    check_observables,
    double,
    final_state,
    in_double,
    is_hermitian,
    is_real,
    measure,
)

Slot = tuple[str, int]
"""Where a parameter goes: ("input", its index) or ("weight", its index)."""
Line = tuple[str, tuple[int, ...], tuple[tuple[Slot, float], ...], tuple[complex, ...]]
"""A gate without values: name, qubits, for each angle its slot and factor, matrix."""


@lru_cache(maxsize=256)
def _circuit(n_qubits: int, prepared: bool, lines: tuple[Line, ...], strings: tuple[str, ...]) -> Circuit:
    """The circuit of tapes that differ in the values of their parameters only."""
    circuit = Circuit(n_qubits)
    if prepared:
        circuit.amplitudes()
    first = circuit.n_inputs
    for name, qubits, slots, matrix in lines:
        angles = tuple(factor * (Input(first + k) if kind == "input" else Weight(k)) for (kind, k), factor in slots)
        circuit._append(Gate(name, qubits, angles, matrix))
    if not len(circuit):
        circuit.i(0)
    return circuit.measure(*strings)


def _tensor(value: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=device)


def _stack(values: list[Any], device: torch.device) -> Tensor:
    """Numbers, or arrays of the batch, as one float64 tensor, parameters last."""
    if not values:
        return torch.empty(0, dtype=torch.float64, device=device)
    if not any(isinstance(v, Tensor) for v in values):
        return torch.from_numpy(np.stack([np.asarray(v, dtype=np.float64) for v in values], -1)).to(device)
    return torch.stack([_tensor(v, device) for v in values], -1)


@dataclass
class _Run:
    """A tape on wires 0, 1, ...: its circuit without values, and the values.

    Attributes:
        tape: the tape, wires numbered.
        amplitudes: (2**k,) or (B, 2**k): the state that it begins with on k wires, if it prepares one.
        angles: (B, n_angles): what differs between samples.
        weights: (n_weights,): what all samples share.
    """

    tape: QuantumScript
    n_qubits: int = field(init=False)
    is_circuit: bool = field(init=False)
    lines: tuple[Line, ...] = field(init=False, default=())
    amplitudes: Tensor | None = field(init=False, default=None)
    angles: Tensor | None = field(init=False, default=None)
    weights: Tensor = field(init=False)
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.n_qubits = max(1, self.tape.num_wires)
        operations = self.tape.operations
        prepared = bool(operations) and is_preparation(operations[0])
        gates = operations[int(prepared) :]
        values = self.tape.get_parameters(trainable_only=False)
        self.device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
        self.is_circuit = all(map(is_gate, gates)) and (not prepared or is_real_preparation(operations[0]))
        if not self.is_circuit:
            return
        slots: dict[tuple[int, int], Slot] = {}
        varied: list[Any] = []
        shared: list[Any] = []
        lines: list[Line] = []
        for i, op in enumerate(gates):
            for name, qubits, factors, matrix in gates_of(op):
                for p, _ in factors:
                    if (i, p) not in slots:
                        value = op.data[p]
                        kind, column = ("input", varied) if np.ndim(value) else ("weight", shared)
                        slots[i, p] = (kind, len(column))
                        column.append(value)
                lines.append((name, qubits, tuple((slots[i, p], c) for p, c in factors), matrix))
        self.lines = tuple(lines)
        if prepared:
            self.amplitudes = _tensor(qml.math.real(operations[0].data[0]), self.device)
        self.angles = _stack(varied, self.device) if varied else None
        self.weights = _stack(shared, self.device)

    @property
    def inputs(self) -> Tensor:
        """(B, n_inputs) or, without broadcasting, (n_inputs,); float64. Amplitudes come first."""
        parts = []
        if self.amplitudes is not None:
            full = self.amplitudes.new_zeros(*self.amplitudes.shape[:-1], 2**self.n_qubits)
            positions = amplitude_positions(self.tape.operations[0].wires, self.n_qubits)
            full = full.index_copy(-1, torch.tensor(positions, device=full.device), self.amplitudes)
            size = self.tape.batch_size
            parts.append(full if size is None else full.expand(size, -1))
        if self.angles is not None:
            parts.append(self.angles)
        return torch.cat(parts, -1) if parts else self.weights.new_empty(0)

    @property
    def norm(self) -> Tensor:
        """Of the amplitudes, (B,) or (): the engines divide by it, PennyLane does not."""
        return (
            self.weights.new_ones(()) if self.amplitudes is None else torch.linalg.vector_norm(self.amplitudes, dim=-1)
        )

    def circuit(self, strings: tuple[str, ...] = ()) -> Circuit:
        """The circuit, measuring ``strings``."""
        return _circuit(self.n_qubits, self.amplitudes is not None, self.lines, strings)

    def state(self) -> Tensor:
        """The final state, (2, ..., 2) or (B, 2, ..., 2), complex128.

        The engines have no derivatives of it: where torch asks for them, PennyLane simulates.
        """
        given = self.tape.get_parameters(trainable_only=False, operations_only=True)
        differentiated = torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in given)
        if differentiated or not self.is_circuit:
            return final_state(self.tape, self.device)
        state = statevector(self.circuit(), self.inputs, self.weights) * self.norm[..., None]
        n = self.tape.num_wires  # none, if all there is are global phases
        return state[..., : 2**n].reshape(*state.shape[:-1], *(2,) * n)

    def results(self, backend: str = "auto") -> list[Tensor]:
        """One tensor for each measurement, differentiable."""
        measured = self.tape.measurements
        native = [self.is_circuit and is_native(mp) for mp in measured]
        own = iter(self._native([mp for mp, ours in zip(measured, native, strict=True) if ours], backend))
        others = [mp for mp, ours in zip(measured, native, strict=True) if not ours]
        rest: Iterator[Tensor] = iter(())
        if others:
            state = self.state()
            batched = state.dim() > self.tape.num_wires
            others = in_double(QuantumScript([], others)).measurements
            rest = iter([measure(mp, state, batched) for mp in others])
        return [next(own if ours else rest) for ours in native]

    def _native(self, measured: list[MeasurementProcess], backend: str) -> list[Tensor]:
        """Expectation values and probabilities as the engines compute them."""
        if not measured:
            return []
        inputs, weights = self.inputs, self.weights
        sums = [pauli_strings(mp.obs, self.n_qubits) if isinstance(mp, ExpectationMP) else None for mp in measured]
        strings = tuple(dict.fromkeys(s for terms in sums if terms for s in terms))
        values: dict[str, Tensor] = {}
        if strings:
            stacked = expval(self.circuit(strings), inputs, weights, backend=backend)
            values = dict(zip(strings, stacked.unbind(-1), strict=True))
        every = None
        if any(terms is None for terms in sums):
            every = probs(self.circuit(), inputs, weights, backend=backend)
        batch, scale = inputs.shape[:-1], self.norm**2
        results = []
        for mp, terms in zip(measured, sums, strict=True):
            if terms is None:
                assert every is not None
                results.append(scale[..., None] * marginal(every, tuple(int(w) for w in mp.wires), self.n_qubits))
            else:
                total = inputs.new_zeros(batch)
                for string, coefficient in terms.items():
                    total = total + _real_if_it_is(coefficient) * values[string]
                results.append(scale * total)
        return results


def _real_if_it_is(coefficient: Any) -> Any:
    if qml.math.ndim(coefficient):
        raise ValueError(f"observable: expected one coefficient for each term, got {coefficient}")
    if isinstance(coefficient, Tensor):
        return coefficient.real if is_real(coefficient) else coefficient
    number = complex(qml.math.to_numpy(coefficient))
    return number.real if is_real(number) else number


def is_native(mp: MeasurementProcess) -> bool:
    """Whether the engines compute the measurement themselves, and so its derivatives."""
    if isinstance(mp, ExpectationMP):
        return mp.obs is not None and mp.obs.pauli_rep is not None
    return isinstance(mp, ProbabilityMP) and mp.obs is None and mp.mv is None and mp.eigvals() is None


def _output(results: Sequence[Any]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)


@qml.transform
def _expand_shadows(tape: QuantumScript) -> tuple[Sequence[QuantumScript], Any]:
    """Classical shadows are sampled one by one."""
    if any(isinstance(mp, (ShadowExpvalMP, ClassicalShadowMP)) for mp in tape.measurements):
        parts, join = qml.transforms.broadcast_expand(tape)
        return parts, join
    return (tape,), lambda results: results[0]


@simulator_tracking
@single_tape_support
class HQFQubit(Device):  # type: ignore[misc]  # PennyLane has no types
    """PennyLane device on hqfkernels' engines: ``qml.device("hqf.qubit", wires=n)``.

    A tape with parameter broadcasting is one call for the whole batch, forward and backward. Values are computed in
    float64. Expectation values of sums of Pauli words and probabilities are the engines' own, with adjoint derivatives.
    All other measurements are taken from the engines' state; their derivatives, and operations that are neither gates
    nor made of them, come from PennyLane's simulation in torch. Finite shots are PennyLane's, from the engines' state.

    Derivatives (``diff_method`` "best" or "device"; "adjoint" where they are the engines') are torch's with the torch
    interface, else vector-Jacobian products that take broadcasting. Second derivatives (``max_diff=2``) are torch's
    with the torch interface, else by parameter shift. PennyLane's gradient transforms are refused where they are wrong.

    Args:
        wires: number of wires, or their labels; None takes what each tape has.
        shots: default number of shots; None is exact.
        seed: of the sampling, as for `numpy.random.default_rng`; "global" draws it from numpy's global generator.
    """

    def __init__(self, wires: Any = None, shots: Any = None, seed: Any = "global") -> None:
        super().__init__(wires=wires, shots=shots)
        self._rng = np.random.default_rng(np.random.randint(2**31) if seed == "global" else seed)  # noqa: NPY002

    @property
    def name(self) -> str:
        """The name that `qml.device` knows."""
        return "hqf.qubit"

    def supports_derivatives(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """Whether the device has the derivatives that the configuration asks for, of ``circuit`` if given."""
        if execution_config is None:
            return True
        method, order = execution_config.gradient_method, execution_config.derivative_order
        if method not in ("best", "adjoint", "device"):
            return False
        if order > 1 and execution_config.interface != Interface.TORCH:
            return False
        if circuit is None:
            return True
        return not circuit.shots and (method != "adjoint" or all(map(is_native, circuit.measurements)))

    def supports_vjp(
        self, execution_config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> bool:
        """As `supports_derivatives`."""
        return self.supports_derivatives(execution_config, circuit)

    def setup_execution_config(
        self, config: ExecutionConfig | None = None, circuit: QuantumScript | None = None
    ) -> ExecutionConfig:
        """Chooses how derivatives are taken: by torch through the engines' operators, or by `compute_vjp`."""
        config = config or ExecutionConfig()
        for option in config.device_options:
            raise DeviceError(f"device option {option!r} is not known to {self.name}")
        method = config.mcm_config.mcm_method
        if method not in (None, "deferred"):
            raise DeviceError(f'{self.name} takes mcm_method="deferred" only, got {method!r}')
        updated: dict[str, Any] = {"mcm_config": replace(config.mcm_config, mcm_method="deferred")}
        if config.gradient_method in ("best", "adjoint", "device", "backprop"):
            # The interface may not be settled yet at the first of PennyLane's two calls.
            if config.interface == Interface.TORCH:
                updated |= {"gradient_method": "backprop", "use_device_jacobian_product": False}
            elif config.interface != Interface.AUTO:
                updated |= {"gradient_method": "device", "use_device_jacobian_product": True}
                # Under jax.jit PennyLane asks for whole Jacobians, which have no batch, of devices that want numpy.
                updated["convert_to_numpy"] = config.interface != Interface.JAX_JIT
            updated |= {"use_device_gradient": True, "grad_on_execution": False}
        elif config.gradient_method in CHECKED:
            updated["gradient_method"] = CHECKED[config.gradient_method]
        return replace(config, **updated)

    def preprocess_transforms(self, execution_config: ExecutionConfig | None = None) -> CompilePipeline:
        """What turns any tape into one that `execute` takes."""
        config = execution_config or ExecutionConfig()
        pipeline = CompilePipeline()
        pipeline.add_transform(qml.defer_measurements, allow_postselect=False)
        pipeline.add_transform(to_gates, name=self.name)
        pipeline.add_transform(validate_device_wires, self.wires, name=self.name)
        pipeline.add_transform(
            validate_measurements,
            analytic_measurements=accepted_analytic_measurement,
            sample_measurements=accepted_sample_measurement,
            name=self.name,
        )
        pipeline.add_transform(check_observables, real=config.interface in (Interface.JAX, Interface.JAX_JIT))
        pipeline.add_transform(_expand_shadows)
        if config.gradient_method in ("device", "backprop"):
            pipeline.add_transform(no_sampling, name=f"{config.gradient_method} + {self.name}")
        return pipeline

    def execute(self, circuits: Any, execution_config: ExecutionConfig | None = None) -> Any:
        """Results of preprocessed tapes, as numpy arrays; as torch tensors where torch differentiates them."""
        config = execution_config or ExecutionConfig()
        if config.gradient_method == "backprop":
            backend = "reference" if config.derivative_order > 1 else "auto"
            return tuple(_output(_Run(tape.map_to_standard_wires()).results(backend)) for tape in circuits)
        return tuple(map(self._execute, circuits))

    def _execute(self, tape: QuantumScript) -> Any:
        run = _Run(tape.map_to_standard_wires())
        with torch.no_grad():
            if tape.shots:
                state = run.state()
                batched = state.dim() > run.tape.num_wires
                return measure_final_state(run.tape, state.cpu().numpy(), batched, rng=self._rng)
            return _output([value.cpu().numpy() for value in run.results()])

    def compute_derivatives(self, circuits: Any, execution_config: ExecutionConfig | None = None) -> Any:
        """Jacobians of tapes without broadcasting, in PennyLane's nesting: measurements, then trainable parameters."""
        return tuple(map(self._jacobian, circuits))

    def _jacobian(self, tape: QuantumScript) -> Any:
        if tape.batch_size is not None:
            raise NotImplementedError(
                f"{self.name} has no Jacobians of tapes with parameter broadcasting: "
                "ask for compute_vjp, or apply qml.transforms.broadcast_expand first"
            )
        leaves, values = _differentiable_results(tape)
        jacobians = []
        for value in values:
            cotangents = torch.eye(value.numel(), dtype=value.dtype, device=value.device).reshape(-1, *value.shape)
            rows = [_gradients(leaves, [value], [one]) for one in cotangents]
            columns = [
                np.stack(entries).reshape((*value.shape, *entries[0].shape)) for entries in zip(*rows, strict=True)
            ]
            jacobians.append(columns[0] if len(columns) == 1 else tuple(columns))
        return _output(jacobians)

    def compute_vjp(self, circuits: Any, cotangents: Any, execution_config: ExecutionConfig | None = None) -> Any:
        """Gradients of ``sum(cotangent * result)`` for the trainable parameters, shaped as these.

        Cotangents are shaped as the results of `execute`; one more dimension in front, of some or all, stacks several
        of them, and comes back in front of each gradient.
        """
        return tuple(self._vjp(tape, cotangent) for tape, cotangent in zip(circuits, cotangents, strict=True))

    def _vjp(self, tape: QuantumScript, cotangent: Any) -> tuple[Any, ...]:
        leaves, values = _differentiable_results(tape)
        given = (cotangent,) if len(values) == 1 and not isinstance(cotangent, (tuple, list)) else cotangent
        # Autograd and jax pass the conjugate of what torch does.
        slopes = [double(np.asarray(c), v.device).conj() for c, v in zip(given, values, strict=True)]
        stacks = {len(s) for s, v in zip(slopes, values, strict=True) if s.dim() > v.dim()}
        if not stacks:
            return _gradients(leaves, values, slopes)
        (size,) = stacks
        full = [s.expand(size, *v.shape) for s, v in zip(slopes, values, strict=True)]
        stacked = [_gradients(leaves, values, list(one)) for one in zip(*full, strict=True)]
        return tuple(map(np.stack, zip(*stacked, strict=True)))


def _differentiable_results(tape: QuantumScript) -> tuple[list[Tensor], list[Tensor]]:
    """The trainable parameters as leaves of a graph, and the results."""
    device = torch.device("cpu")
    leaves = [double(p, device).clone().requires_grad_() for p in tape.get_parameters()]
    return leaves, _Run(tape.bind_new_parameters(leaves, tape.trainable_params).map_to_standard_wires()).results()


def _gradients(leaves: list[Tensor], values: list[Tensor], slopes: list[Tensor]) -> tuple[np.ndarray[Any, Any], ...]:
    """The vector-Jacobian products for each leaf."""
    pairs = [(v, s) for v, s in zip(values, slopes, strict=True) if v.requires_grad]
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if pairs and leaves:
        found = torch.autograd.grad(
            [v for v, _ in pairs],
            leaves,
            [s if v.is_complex() else s.real for v, s in pairs],
            retain_graph=True,
            allow_unused=True,
        )
    return tuple(
        (torch.zeros_like(leaf) if grad is None else grad.conj().resolve_conj()).numpy()
        for leaf, grad in zip(leaves, found, strict=True)
    )


def _is_real(mp: MeasurementProcess) -> bool:
    """PennyLane's gradient transforms add up real numbers."""
    if isinstance(mp, StateMP):
        return False
    return not isinstance(mp, ExpectationMP) or mp.obs is None or is_hermitian(mp.obs)


def _is_shifted(mp: MeasurementProcess) -> bool:
    """Whether parameter shift holds: for what is linear in the density matrix, and for variances as PennyLane knows.

    It takes the square of an observable for a constant, except of a few by name and of their products.
    """
    if isinstance(mp, VarianceMP):
        parts = mp.obs.operands if isinstance(mp.obs, Prod) else (mp.obs,)
        if mp.obs is None or len(mp.obs.wires) != sum(len(part.wires) for part in parts):
            return False
        known = ("Hadamard", "Hermitian", "SparseHamiltonian", "Projector")
        return all(part.name in known or (part.pauli_rep is not None and len(part.pauli_rep) == 1) for part in parts)
    linear = (ExpectationMP, ProbabilityMP, SampleMP, CountsMP, ShadowExpvalMP, ClassicalShadowMP)
    return isinstance(mp, linear) and _is_real(mp)


def _is_tested(mp: MeasurementProcess) -> bool:
    """Whether the Hadamard test holds: PennyLane adds a wire, which must not turn up among the measured ones."""
    if isinstance(mp, ProbabilityMP):
        return mp.obs is None and mp.mv is None and bool(mp.wires)
    return _is_shifted(mp)


def _checked(rule: Any, holds: Callable[[MeasurementProcess], bool]) -> Any:
    """PennyLane's gradient transform, which refuses measurements that it has no right derivatives of."""

    @partial(
        qml.transform,
        expand_transform=rule.expand_transform,
        classical_cotransform=rule.classical_cotransform,
        final_transform=True,
    )
    def checked(tape: QuantumScript, *args: Any, **options: Any) -> Any:
        for mp in tape.measurements:
            if tape.trainable_params and not holds(mp):
                raise ValueError(
                    f"diff_method: {rule.tape_transform.__name__} does not hold for {mp}; "
                    'without shots, "best" differentiates every measurement'
                )
        if any(map(np.iscomplexobj, map(qml.math.to_numpy, tape.get_parameters()))):
            raise ValueError(
                f"diff_method: {rule.tape_transform.__name__} does not hold for complex parameters, "
                'as those of qml.exp and of matrices; without shots, "best" differentiates in all'
            )
        return rule(tape, *args, **options)

    return checked


CHECKED = {
    rule: _checked(rule, holds)
    for rule, holds in (
        (qml.gradients.param_shift, _is_shifted),
        (qml.gradients.hadamard_grad, _is_tested),
        (qml.gradients.finite_diff, _is_real),
        (qml.gradients.spsa_grad, _is_real),
    )
}
"""PennyLane's gradient transform -> the one that takes its place."""
