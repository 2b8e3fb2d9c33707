"""Names of a circuit's parameters in other languages, and values in their place."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hqfkernels.circuit import Angle, Circuit, Gate, Input, Weight

_OURS = re.compile(r"_?(x|w)_?\[?(\d+)\]?_?")
"""``x3`` and ``w3``, as drawings show them, and as elements of vectors: ``x[3]``, in Qiskit's OpenQASM ``_x_3_``."""


def angles_of(
    names: Sequence[str], inputs: Sequence[str] | None = None, weights: Sequence[str] | None = None
) -> dict[str, Angle]:
    """What each parameter of a circuit from elsewhere becomes.

    Args:
        names: the circuit's parameters, in its order.
        inputs: those that become `Input` 0, 1, ...
        weights: those that become `Weight` 0, 1, ... If one of the two is left out, it is all others, in order. If both
            are, ``x0``, ``x[0]``, ``w0``, ... are what they say; if no name is of this kind, every parameter is a
            weight, which a UserWarning says.

    Raises:
        TypeError, ValueError: naming the parameter that is unknown, missing, or has two meanings; if both are left out
            and some names, but not all, say what they are.
    """
    if inputs is None and weights is None:
        meant = {name: _OURS.fullmatch(name) for name in names}
        if all(meant.values()):
            places: dict[Angle, str] = {}
            for name, match in meant.items():
                assert match is not None
                angle: Angle = (Input if match[1] == "x" else Weight)(int(match[2]))
                if angle in places:
                    raise ValueError(f"parameters {places[angle]!r} and {name!r} clash: both mean {angle}; rename one")
                places[angle] = name
            return {name: angle for angle, name in places.items()}
        other = next(name for name, match in meant.items() if not match)
        if any(meant.values()):
            told = next(name for name, match in meant.items() if match)
            raise ValueError(
                f"parameter {told!r} is an input or a weight by its name, and {other!r} is not: "
                "say which are inputs, by inputs=, or weights, by weights="
            )
        warnings.warn(
            f"the names of the parameters ({other!r}, ...) do not say what they are, and all become weights; "
            "say which are inputs, by inputs=, or that they are weights, by weights=",
            UserWarning,
            stacklevel=3,
        )
    chosen = {}
    for argument, given in (("inputs", inputs), ("weights", weights)):
        if given is None:
            continue
        if isinstance(given, str) or not all(isinstance(name, str) for name in given):
            raise TypeError(f"{argument}: expected a list of parameter names, got {given!r}")
        for name in given:
            if name not in names:
                raise ValueError(
                    f"{argument}: the circuit has no parameter {name!r}, only {', '.join(names) or 'none'}"
                )
            if name in chosen:
                raise ValueError(f"{argument}: parameter {name!r} is named twice; it can be one input or one weight")
            chosen[name] = argument
    rest = [name for name in names if name not in chosen]
    if rest and inputs is not None and weights is not None:
        raise ValueError(f"parameter {rest[0]!r} is neither among inputs nor among weights")
    inputs = rest if inputs is None and weights is not None else inputs or []
    weights = rest if weights is None else weights
    return {name: Input(k) for k, name in enumerate(inputs)} | {name: Weight(k) for k, name in enumerate(weights)}


def bind(circuit: Circuit, inputs: Any = None, weights: Any = None) -> Circuit:
    """The circuit with values (radians) in place of its inputs, its weights, or both; None leaves them as they are.

    Args:
        circuit: the circuit; amplitudes stay inputs.
        inputs: (n_inputs,), array-like or tensor: the values of one sample.
        weights: (n_weights,), likewise.

    Raises:
        TypeError, ValueError: for values of another shape, or that are not finite.
    """
    given = (_values("inputs", inputs, circuit.n_inputs), _values("weights", weights, circuit.n_weights))

    def bound(angle: Angle) -> Angle:
        constant, left = angle.constant, []
        for terms, values in zip((angle.inputs, angle.weights), given, strict=True):
            left.append(terms if values is None else ())
            constant += 0.0 if values is None else sum(c * float(values[k]) for k, c in terms)
        return Angle(constant, *left)

    result = Circuit(circuit.n_qubits)
    for gate in circuit.gates:
        angles = gate.angles if gate.name == "amplitudes" else tuple(map(bound, gate.angles))
        result._append(Gate(gate.name, gate.qubits, angles, gate.matrix))
    return result.measure(*circuit._observables)


def _values(what: str, values: Any, size: int) -> Any:
    if values is None:
        return None
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: expected {size} numbers, got {values!r}") from None
    if array.shape != (size,):
        raise ValueError(f"{what}: expected shape ({size},), the values of one sample, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: expected finite numbers, got {array[~np.isfinite(array)][0]} among them")
    return array


def text_of(angle: Angle) -> str:
    """The angle as an expression that Python and OpenQASM read, to the last digit."""
    text = ""
    for letter, terms in (("x", angle.inputs), ("w", angle.weights)):
        for k, c in terms:
            sign = "-" if c < 0 else "+" if text else ""
            text += f"{sign}{'' if abs(c) == 1 else f'{abs(c)!r}*'}{letter}{k}"
    if angle.constant or not text:
        text += f"{'+' if text and angle.constant >= 0 else ''}{angle.constant!r}"
    return text
