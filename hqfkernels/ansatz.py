"""Circuit templates. Each returns a new `Circuit` that measures Z on every qubit and can be extended or measured anew.

The patch circuits (`local_circuit`, `global_circuit`, `directional_circuit`) follow HQF-Net (arXiv 2604.06715): one
qubit per pixel of the patch, numbered row by row, each pixel encoded as the angle of an RY (radians), then ``depth``
layers of RY and RZ on every qubit and entanglers between them. The weights are a flat vector, layer after layer; every
template says how to reshape it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, count
from typing import Literal

from hqfkernels.checks import positive, sides
from hqfkernels.circuit import GATES, Circuit, Input, Weight

Direction = Literal["horizontal", "vertical", "diagonal", "antidiagonal"]

_STEPS = {"horizontal": (0, 1), "vertical": (1, 0), "diagonal": (1, 1), "antidiagonal": (1, -1)}
"""Direction -> the step (rows, columns) from a pixel to the next one along it."""


def angle_encoding(n_qubits: int, axis: Literal["x", "y", "z"] = "y") -> Circuit:
    """Encodes input q as the angle (radians) of a rotation of qubit q about ``axis``; no weights.

    Raises:
        TypeError, ValueError: if ``n_qubits`` is no possible register size or ``axis`` not "x", "y" or "z".
    """
    circuit = Circuit(n_qubits)
    name = _rotation(axis)
    for q in range(n_qubits):
        circuit.append(name, [Input(q)], [q])
    return circuit


def amplitude_encoding(n_qubits: int) -> Circuit:
    """Starts in the state whose amplitudes are the ``2**n_qubits`` inputs, divided by their norm; no weights.

    Raises:
        TypeError, ValueError: if ``n_qubits`` is no possible register size.
    """
    return Circuit(n_qubits).amplitudes()


def local_circuit(grid: tuple[int, int] = (2, 2), depth: int = 1) -> Circuit:
    """Entangles neighbouring pixels of the patch by CX, from the upper or left one to the lower or right one.

    The edges of the grid come in brick order: even then odd horizontal ones, even then odd vertical ones. Edges in a
    group are disjoint, so a layer has at most four steps of entanglers and light cones grow slowly.

    Args:
        grid: (rows, columns) of the patch.
        depth: number of layers; ``weights.reshape(depth, rows * columns, 2)`` holds (RY, RZ) of each qubit.

    Raises:
        TypeError, ValueError: if ``grid`` is not two positive ints of a possible product, or ``depth`` no positive int.
    """
    rows, columns = sides(grid, "grid")
    circuit = angle_encoding(rows * columns)
    edges = []
    for parity in (0, 1):
        edges += [(columns * r + c, columns * r + c + 1) for r in range(rows) for c in range(parity, columns - 1, 2)]
    for parity in (0, 1):
        edges += [(columns * r + c, columns * (r + 1) + c) for r in range(parity, rows - 1, 2) for c in range(columns)]
    return _layered(circuit, depth, "cx", edges)


def global_circuit(n_qubits: int, depth: int = 1, entangler: Literal["rzz", "cz"] = "rzz") -> Circuit:
    """Entangles all pairs of qubits, in the order (0, 1), (0, 2), ..., (1, 2), ...

    Args:
        n_qubits: size of the register; any patch shape will do, as all pairs are alike.
        depth: number of layers. With "cz", ``weights.reshape(depth, n_qubits, 2)`` holds (RY, RZ) of each qubit. With
            "rzz", ``layers = weights.reshape(depth, -1)`` holds these in ``layers[:, :2 * n_qubits]`` and then the
            angle of each pair in ``layers[:, 2 * n_qubits:]``.
        entangler: "rzz", with a weight for each pair, or "cz", with none.

    Raises:
        TypeError, ValueError: if ``n_qubits`` is no possible register size, ``depth`` no positive int or ``entangler``
            neither "rzz" nor "cz".
    """
    if entangler not in ("rzz", "cz"):
        raise ValueError(f'entangler: must be "rzz" or "cz", got {entangler!r}')
    circuit = angle_encoding(n_qubits)
    return _layered(circuit, depth, entangler, list(combinations(range(n_qubits), 2)))


def directional_circuit(
    grid: tuple[int, int] = (2, 2),
    direction: Direction | Sequence[Direction] = "horizontal",
    depth: int = 1,
) -> Circuit:
    """Entangles the pixels along one direction of the patch by chains of CX, each pixel controlling the next.

    Chains run left to right or top to bottom: along rows, columns, diagonals (down and right) or antidiagonals (down
    and left). A pixel with no neighbour along the direction stays by itself.

    Args:
        grid: (rows, columns) of the patch.
        direction: where the chains run; of several directions, layer k takes number ``k % len(direction)``.
        depth: number of layers; ``weights.reshape(depth, rows * columns, 2)`` holds (RY, RZ) of each qubit.

    Raises:
        TypeError, ValueError: if ``grid`` is not two positive ints of a possible product, ``direction`` not one of the
            four, or ``depth`` no positive int.
    """
    directions = tuple(direction) if isinstance(direction, (tuple, list)) else (direction,)
    if not directions or any(not isinstance(name, str) or name not in _STEPS for name in directions):
        raise ValueError(f"direction: must be one of {', '.join(_STEPS)}, or several of them, got {direction!r}")
    rows, columns = sides(grid, "grid")
    circuit = angle_encoding(rows * columns)
    chains = []
    for name in directions:
        down, right = _STEPS[name]
        # Pixels in reading order meet the pixels of each chain in the chain's order.
        chains.append(
            [
                (columns * r + c, columns * (r + down) + c + right)
                for r in range(rows - down)
                for c in range(columns)
                if 0 <= c + right < columns
            ]
        )
    return _layered(circuit, depth, "cx", *chains)


def strongly_entangling(n_qubits: int, depth: int = 1) -> Circuit:
    """RY encoding of input q on qubit q, then PennyLane's StronglyEntanglingLayers (arXiv 1804.00633).

    Layer l applies ``rot`` to every qubit, then CX from each qubit q to ``(q + r) % n_qubits`` with
    ``r = l % (n_qubits - 1) + 1``. A single qubit has no CX.

    Args:
        n_qubits: size of the register.
        depth: number of layers; ``weights.reshape(depth, n_qubits, 3)`` holds (phi, theta, omega) of each ``rot``, as
            in PennyLane.

    Raises:
        TypeError, ValueError: if ``n_qubits`` is no possible register size or ``depth`` no positive int.
    """
    circuit = angle_encoding(n_qubits)
    weights = map(Weight, count())
    for layer in range(positive(depth, "depth")):
        for q in range(n_qubits):
            circuit.rot(next(weights), next(weights), next(weights), q)
        if n_qubits > 1:
            reach = layer % (n_qubits - 1) + 1
            for q in range(n_qubits):
                circuit.cx(q, (q + reach) % n_qubits)
    return circuit


def basic_entangler(n_qubits: int, depth: int = 1, axis: Literal["x", "y", "z"] = "x") -> Circuit:
    """RY encoding of input q on qubit q, then PennyLane's BasicEntanglerLayers.

    A layer rotates every qubit about ``axis`` and applies a ring of CX: from q to q + 1 and from the last qubit to the
    first. Two qubits have one CX only, a single qubit none, as in PennyLane.

    Args:
        n_qubits: size of the register.
        depth: number of layers; ``weights.reshape(depth, n_qubits)`` holds the angle of each rotation.
        axis: "x", "y" or "z".

    Raises:
        TypeError, ValueError: if ``n_qubits`` is no possible register size, ``depth`` no positive int or ``axis`` not
            "x", "y" or "z".
    """
    name = _rotation(axis)
    circuit = angle_encoding(n_qubits)
    ring = [(q, (q + 1) % n_qubits) for q in range(n_qubits if n_qubits > 2 else n_qubits - 1)]
    weights = map(Weight, count())
    for _ in range(positive(depth, "depth")):
        for q in range(n_qubits):
            circuit.append(name, [next(weights)], [q])
        for a, b in ring:
            circuit.cx(a, b)
    return circuit


def _layered(circuit: Circuit, depth: int, entangler: str, *pairs: Sequence[tuple[int, int]]) -> Circuit:
    """Adds ``depth`` layers of RY and RZ on each qubit and ``entangler`` on ``pairs``, which take turns."""
    weights = map(Weight, count())
    for layer in range(positive(depth, "depth")):
        for q in range(circuit.n_qubits):
            circuit.ry(next(weights), q).rz(next(weights), q)
        for pair in pairs[layer % len(pairs)]:
            circuit.append(entangler, [next(weights) for _ in range(GATES[entangler][0])], pair)
    return circuit


def _rotation(axis: str) -> str:
    if axis not in ("x", "y", "z"):
        raise ValueError(f'axis: must be "x", "y" or "z", got {axis!r}')
    return f"r{axis}"
