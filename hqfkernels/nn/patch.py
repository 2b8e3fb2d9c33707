"""Circuits on the patches of feature maps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from hqfkernels import ansatz
from hqfkernels.checks import positive, sides
from hqfkernels.circuit import Circuit
from hqfkernels.functional import INPUT_DTYPES, evaluate
from hqfkernels.nn.circuit_layer import checked_circuit, initial_weights
from hqfkernels.planner import choose

Gather = Literal["block", "grid", "rows", "columns"]
Output = Literal["pixels", "channels"]

# How a map's (H, W) splits into patches: sizes of the parts of H and W, and which parts number the patches and which
# the pixels of a patch. "h", "w" are what is left of H and W, "p", "q" the patch's rows and columns, "n" their product.
_SPLITS: dict[str, tuple[str, str, str, str]] = {
    "block": ("hp", "wq", "hw", "pq"),
    "grid": ("ph", "qw", "hw", "pq"),
    "rows": ("h", "wn", "hw", "n"),
    "columns": ("hn", "w", "hw", "n"),
}


class PatchCircuit2d(nn.Module):
    """Runs one circuit on every patch of every channel of a feature map, read in place through strides.

    A patch of rows x columns pixels feeds the circuit's inputs row by row. Maps whose sides the patch does not divide
    are padded with zeros at the right and bottom; the result is cropped back (for "channels", it has the padded size
    divided by the patch).

    Args:
        channels: C of the maps.
        circuit: the circuit, with as many inputs as a patch has pixels; the layer keeps a copy.
        patch: side of the patch, or (rows, columns).
        gather: which pixels form a patch. "block": a contiguous block. "grid": pixel (i, j) of the patch comes from
            window (i, j) of rows x columns large windows, at the same place in each. "rows" / "columns": as many
            neighbouring pixels of one row / column as the patch has.
        weight_groups: the channels fall into this many equal consecutive groups, each with weights of its own.
        output: "pixels" puts observable k where input k came from; the circuit needs as many observables as inputs.
            "channels" makes a channel of each observable.

    Shape:
        (B, C, H, W) -> (B, C, H, W) for "pixels", (B, C * n_observables, H / rows, W / columns) for "channels" (for
        "rows" and "columns", only W or H is divided, by rows * columns). Output is float64 for float64 inputs, else
        float32, and channels_last where the input is (for "pixels").

    Attributes:
        weights: parameter (weight_groups, n_weights), radians; near zero at first.

    Raises:
        TypeError, ValueError: for arguments that do not fit each other or the map, naming the argument.
    """

    def __init__(
        self,
        channels: int,
        circuit: Circuit,
        patch: int | tuple[int, int] = 2,
        gather: Gather = "block",
        weight_groups: int = 1,
        output: Output = "pixels",
    ) -> None:
        super().__init__()
        self.circuit = checked_circuit(circuit)
        rows, columns = _sides(patch)
        channels = positive(channels, "channels")
        if gather not in _SPLITS:
            raise ValueError(f"gather: must be one of {', '.join(_SPLITS)}, got {gather!r}")
        if output not in ("pixels", "channels"):
            raise ValueError(f'output: must be "pixels" or "channels", got {output!r}')
        weight_groups = positive(weight_groups, "weight_groups")
        if channels % weight_groups:
            raise ValueError(f"weight_groups: must divide the {channels} channels, got {weight_groups}")
        if self.circuit.n_inputs != rows * columns:
            raise ValueError(
                f"circuit: a patch of {rows} x {columns} pixels needs {rows * columns} inputs, "
                f"the circuit has {self.circuit.n_inputs}"
            )
        if output == "pixels" and self.circuit.n_observables != rows * columns:
            raise ValueError(
                f'circuit: output="pixels" needs {rows * columns} observables, one per pixel of the patch, '
                f"the circuit has {self.circuit.n_observables}"
            )
        self.channels = channels
        self.patch = (rows, columns)
        self.gather = gather
        self.weight_groups = weight_groups
        self.output = output
        self.weights = initial_weights(weight_groups, self.circuit.n_weights)

        height, width, patches, pixels = _SPLITS[gather]
        self._unit = {"p": rows, "q": columns, "n": rows * columns}
        split = height + width  # the order in which the parts lie in the map
        viewed = patches + pixels  # the order in which the circuit sees them
        # Dimensions 0, 1, 2 are batch, weight group and channel within the group.
        self._to_view = [0, 1, 2, *(3 + split.index(part) for part in viewed)]
        self._to_map = [0, 1, 2, *(3 + viewed.index(part) for part in split)]

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) in radians to expectation values; see the class for shapes."""
        if not isinstance(maps, Tensor) or maps.dtype not in INPUT_DTYPES:
            raise TypeError(
                "maps: expected a float64, float32, float16 or bfloat16 tensor, got "
                f"{maps.dtype if isinstance(maps, Tensor) else type(maps).__name__}"
            )
        if maps.dim() != 4 or maps.shape[1] != self.channels:
            raise ValueError(f"maps: expected shape (B, {self.channels}, H, W), got {tuple(maps.shape)}")
        if maps.device != self.weights.device:
            raise ValueError(f"maps: expected on {self.weights.device} like the weights, got {maps.device}")
        fourier_from = choose(self.circuit.text, "expval", maps.device.type, "auto", "auto")

        height, width, _, pixels = _SPLITS[self.gather]
        unit_h, unit_w = self._divisor(height), self._divisor(width)
        h, w = maps.shape[2:]
        pad_h, pad_w = -h % unit_h, -w % unit_w
        if pad_h or pad_w:
            maps = F.pad(maps, (0, pad_w, 0, pad_h))
        channels_last = self.channels > 1 and maps.stride(1) == 1  # asked of the strides, as vmap knows no formats

        view = maps.unflatten(3, self._parts(width)).unflatten(2, self._parts(height))
        view = view.unflatten(1, (self.weight_groups, -1)).permute(self._to_view)
        batch_dims = view.dim() - len(pixels)
        weights = self.weights.reshape(self.weight_groups, *(1,) * (batch_dims - 2), -1)

        if self.output == "pixels":
            order = [self._to_map[0], *self._to_map[3:], 1, 2] if channels_last else self._to_map
            result = evaluate(self.circuit, view, weights, fourier_from, "expval", len(pixels), order)
            joined = result.permute(self._to_map).flatten(1, 2)
            joined = joined.flatten(2, 1 + len(height)).flatten(3)
            return joined[:, :, :h, :w] if pad_h or pad_w else joined
        order = [0, 1, 2, batch_dims, *range(3, batch_dims)]
        result = evaluate(self.circuit, view, weights, fourier_from, "expval", len(pixels), order)
        return result.permute(order).flatten(1, 3)

    def _divisor(self, split: str) -> int:
        """By how much a side of the map must be divisible."""
        return self._unit.get(split.strip("hw"), 1)

    def _parts(self, split: str) -> tuple[int, ...]:
        """Sizes for unflatten."""
        return tuple(self._unit.get(part, -1) for part in split)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, {self.circuit!r}, patch={self.patch}, gather={self.gather!r}, "
            f"weight_groups={self.weight_groups}, output={self.output!r}"
        )


class LocalCircuit2d(PatchCircuit2d):
    """Neighbouring pixels entangled in contiguous blocks: `hqfkernels.ansatz.local_circuit`.

    Args and shapes: see `PatchCircuit2d`; ``depth`` is the number of layers of the circuit.
    """

    def __init__(
        self,
        channels: int,
        patch: int | tuple[int, int] = 2,
        depth: int = 1,
        weight_groups: int = 1,
        output: Output = "pixels",
    ) -> None:
        circuit = ansatz.local_circuit(_sides(patch), depth)
        super().__init__(channels, circuit, patch, "block", weight_groups, output)


class GlobalCircuit2d(PatchCircuit2d):
    """All pairs entangled, the pixels of a patch far apart: `hqfkernels.ansatz.global_circuit`, gathered as "grid".

    Args and shapes: see `PatchCircuit2d`; ``depth`` is the number of layers of the circuit.
    """

    def __init__(
        self,
        channels: int,
        patch: int | tuple[int, int] = 2,
        depth: int = 1,
        weight_groups: int = 1,
        output: Output = "pixels",
    ) -> None:
        rows, columns = _sides(patch)
        circuit = ansatz.global_circuit(rows * columns, depth)
        super().__init__(channels, circuit, patch, "grid", weight_groups, output)


class DirectionalCircuit2d(PatchCircuit2d):
    """Entangled along one direction in contiguous blocks: `hqfkernels.ansatz.directional_circuit`.

    Args and shapes: see `PatchCircuit2d`; ``depth`` is the number of layers of the circuit.
    """

    def __init__(
        self,
        channels: int,
        direction: Literal["horizontal", "vertical", "diagonal", "antidiagonal"] = "horizontal",
        patch: int | tuple[int, int] = 2,
        depth: int = 1,
        weight_groups: int = 1,
        output: Output = "pixels",
    ) -> None:
        circuit = ansatz.directional_circuit(_sides(patch), direction, depth)
        super().__init__(channels, circuit, patch, "block", weight_groups, output)


def _sides(patch: int | tuple[int, int]) -> tuple[int, int]:
    return sides((patch, patch) if isinstance(patch, int) and not isinstance(patch, bool) else patch, "patch")
