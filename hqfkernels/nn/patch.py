"""Circuits on the patches of feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hqfkernels import ansatz
from hqfkernels.checks import positive, sides
from hqfkernels.circuit import Circuit
from hqfkernels.functional import check_tensor, evaluate
from hqfkernels.nn.arguments import check_routing, checked_circuit, checked_circuits
from hqfkernels.nn.circuit_layer import Caching, Device, as_inputs, before_forward, read
from hqfkernels.nn.polynomial import PolynomialLayer
from hqfkernels.planner import choose, place_of

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


class PatchGrid:
    """How a feature map falls into patches: views of the map as a batch of patches, and back.

    Args:
        channels, patch, gather, weight_groups: as in `PatchCircuit2d`.
    """

    def __init__(self, channels: int, patch: int | tuple[int, int], gather: Gather, weight_groups: int) -> None:
        rows, columns = _sides(patch)
        channels = positive(channels, "channels")
        if not isinstance(gather, str) or gather not in _SPLITS:
            raise ValueError(f"gather: must be one of {', '.join(_SPLITS)}, got {gather!r}")
        weight_groups = positive(weight_groups, "weight_groups")
        if channels % weight_groups:
            raise ValueError(f"weight_groups: must divide the {channels} channels, got {weight_groups}")
        self.channels = channels
        self.patch = (rows, columns)
        self.pixels = rows * columns
        self.gather = gather
        self.weight_groups = weight_groups

        height, width, patches, pixels = _SPLITS[gather]
        self._unit = {"p": rows, "q": columns, "n": rows * columns}
        split = height + width  # the order in which the parts lie in the map
        viewed = patches + pixels  # the order in which the circuit sees them
        self.feature_dims = len(pixels)
        # Dimensions 0, 1, 2 are batch, weight group and channel within the group.
        self._to_view = [0, 1, 2, *(3 + split.index(part) for part in viewed)]
        self._to_map = [0, 1, 2, *(3 + viewed.index(part) for part in split)]

    def check(self, maps: Tensor) -> None:
        """Raises TypeError or ValueError for what is not a map of these channels in a floating dtype."""
        check_tensor(maps, "maps")
        self.check_shape(maps)

    def check_shape(self, maps: Tensor) -> None:
        """Raises ValueError if ``maps`` does not have these channels."""
        if maps.dim() != 4 or maps.shape[1] != self.channels:
            raise ValueError(f"maps: expected shape (B, {self.channels}, H, W), got {tuple(maps.shape)}")

    def patches(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W), padded where needed, as (B, groups, C / groups, rows, columns, *pixels of a patch)."""
        height, width, _, _ = _SPLITS[self.gather]
        pad_h, pad_w = -maps.shape[2] % self._divisor(height), -maps.shape[3] % self._divisor(width)
        if pad_h or pad_w:
            maps = F.pad(maps, (0, pad_w, 0, pad_h))
        view = maps.unflatten(3, self._parts(width)).unflatten(2, self._parts(height))
        return view.unflatten(1, (self.weight_groups, -1)).permute(self._to_view)

    def memory_order(self, maps: Tensor) -> list[int]:
        """In which order the dimensions of `patches` lie in the memory of a map like this one."""
        channels_last = self.channels > 1 and maps.stride(1) == 1  # asked of the strides, as vmap knows no formats
        return [self._to_map[0], *self._to_map[3:], 1, 2] if channels_last else self._to_map

    def join(self, patches: Tensor, maps: Tensor) -> Tensor:
        """The reverse of `patches`, cropped to the sides of ``maps``."""
        joined = patches.permute(self._to_map).flatten(1, 2)
        height = _SPLITS[self.gather][0]
        joined = joined.flatten(2, 1 + len(height)).flatten(3)
        h, w = maps.shape[2:]
        return joined if joined.shape[2:] == maps.shape[2:] else joined[:, :, :h, :w]

    def weights(self, weights: Tensor, n_weights: int, maps: Tensor) -> Tensor:
        """Weights (groups, n_weights), with dimensions for the channels and patches of a group.

        Raises TypeError or ValueError for what are no such weights for these maps.
        """
        check_tensor(weights, "weights")
        if weights.shape != (self.weight_groups, n_weights):
            raise ValueError(f"weights: expected shape {(self.weight_groups, n_weights)}, got {tuple(weights.shape)}")
        if maps.device != weights.device:
            raise ValueError(f"maps: expected on {weights.device} like the weights, got {maps.device}")
        return weights.reshape(self.weight_groups, 1, 1, 1, -1)

    def _divisor(self, split: str) -> int:
        """By how much a side of the map must be divisible."""
        return self._unit.get(split.strip("hw"), 1)

    def _parts(self, split: str) -> tuple[int, ...]:
        """Sizes for unflatten."""
        return tuple(self._unit.get(part, -1) for part in split)

    def __str__(self) -> str:
        return f"{self.channels}, patch={self.patch}, gather={self.gather!r}, weight_groups={self.weight_groups}"


def _check_pixels(circuit: Circuit, grid: PatchGrid, per_pixel: bool) -> None:
    rows, columns = grid.patch
    if circuit.n_inputs != grid.pixels:
        raise ValueError(
            f"circuit: a patch of {rows} x {columns} pixels needs {grid.pixels} inputs, "
            f"the circuit has {circuit.n_inputs}"
        )
    if per_pixel and circuit.n_observables != grid.pixels:
        raise ValueError(
            f'circuit: output="pixels" needs {grid.pixels} observables, one per pixel of the patch, '
            f"the circuit has {circuit.n_observables}"
        )


class PatchCircuit2d(Caching):
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
        device, dtype: of the weights, by default torch's.

    Shape:
        (B, C, H, W) -> (B, C, H, W) for "pixels", (B, C * n_observables, H / rows, W / columns) for "channels" (for
        "rows" and "columns", only W or H is divided, by rows * columns). Output is float64 for float64 inputs, else
        float32, but in the inputs' dtype if the weights are in half precision; channels_last where the input is (for
        "pixels").

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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.circuit = checked_circuit(circuit)
        self.grid = PatchGrid(channels, patch, gather, weight_groups)
        if output not in ("pixels", "channels"):
            raise ValueError(f'output: must be "pixels" or "channels", got {output!r}')
        _check_pixels(self.circuit, self.grid, output == "pixels")
        self.output = output
        self.weights = nn.Parameter(torch.empty(weight_groups, self.circuit.n_weights, device=device, dtype=dtype))
        self.reset_parameters()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) in radians to expectation values; see the class for shapes."""
        _check_pixels(self.circuit, self.grid, self.output == "pixels")  # again, as circuits may change
        self.grid.check(maps)
        own = self.weights
        weights = self.grid.weights(own, self.circuit.n_weights, maps)
        schedule = choose((self.circuit.text,), "expval", place_of(maps), "auto", "auto")
        view = self.grid.patches(maps)
        batch_dims = view.dim() - self.grid.feature_dims
        if self.output == "pixels":
            order = self.grid.memory_order(maps)
        else:
            order = [0, 1, 2, batch_dims, *range(3, batch_dims)]
        result = evaluate(
            (self.circuit,),
            view,
            (weights,),
            schedule,
            feature_dims=self.grid.feature_dims,
            output_order=order,
            cache=self.usable_cache((own,)),
        )
        values = self.grid.join(result, maps) if self.output == "pixels" else result.permute(order).flatten(1, 3)
        return as_inputs(values, maps, (own,))

    def export(self) -> nn.Module:
        """An equal module of sines, cosines and matrix products, with the weights as they are now.

        It needs nothing but torch to run, exports with `torch.export` and to ONNX, and is not to be trained.

        Raises:
            TypeError, ValueError: as from `CircuitLayer.export`.
        """
        before_forward(self, torch.empty(0, self.grid.channels, 0, 0))
        groups = [PolynomialLayer((self.circuit,), (own,)) for own in self.weights]
        return _ExportedPatches(self.grid, self.output, groups)

    def extra_repr(self) -> str:
        return f"{self.circuit!r}, {self.grid}, output={self.output!r}"


class _ExportedPatches(nn.Module):
    """A `PatchCircuit2d` in plain torch."""

    def __init__(self, grid: PatchGrid, output: Output, groups: Sequence[PolynomialLayer]) -> None:
        super().__init__()
        self.grid = grid
        self.output = output
        self.groups = nn.ModuleList(groups)

    def forward(self, maps: Tensor) -> Tensor:
        self.grid.check_shape(maps)
        view = self.grid.patches(maps)
        batch_dims = view.dim() - self.grid.feature_dims
        flat = view.flatten(batch_dims)
        values = torch.stack([group(flat[:, k]) for k, group in enumerate(self.groups)], 1)
        if self.output == "pixels":
            return self.grid.join(values.unflatten(-1, view.shape[batch_dims:]), maps)
        return values.movedim(-1, 3).flatten(1, 3)


class PatchBank2d(Caching):
    """Runs several circuits on the same patches of a feature map, as one contraction where the Fourier engine runs.

    Args:
        channels, patch, gather, weight_groups, device, dtype: as in `PatchCircuit2d`.
        circuits: each with as many inputs and observables as a patch has pixels; the layer keeps copies.

    Shape:
        (B, C, H, W) -> (B, n_circuits, C, H, W), or (B, C, H, W) with routing; dtype as in `PatchCircuit2d`.

    Attributes:
        weights: parameters (weight_groups, n_weights) of each circuit, radians; near zero at first.

    Raises:
        TypeError, ValueError: for arguments that do not fit each other or the map, naming the argument.
    """

    def __init__(
        self,
        channels: int,
        circuits: Sequence[Circuit],
        patch: int | tuple[int, int] = 2,
        gather: Gather = "block",
        weight_groups: int = 1,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.circuits = checked_circuits(circuits)
        self.grid = PatchGrid(channels, patch, gather, weight_groups)
        for circuit in self.circuits:
            _check_pixels(circuit, self.grid, per_pixel=True)
        shapes = [(weight_groups, circuit.n_weights) for circuit in self.circuits]
        self.weights = nn.ParameterList(torch.empty(shape, device=device, dtype=dtype) for shape in shapes)
        self.reset_parameters()

    def forward(self, maps: Tensor, routing: Tensor | None = None) -> Tensor:
        """Expectation values, each where its input came from.

        Args:
            maps: (B, C, H, W) in radians.
            routing: (B, n_circuits, rows, columns), how much each circuit counts in each patch; rows x columns patches
                cover the (padded) map.
        """
        for circuit in self.circuits:
            _check_pixels(circuit, self.grid, per_pixel=True)  # again, as circuits may change
        self.grid.check(maps)
        own = read(self.weights, len(self.circuits))
        weights = [self.grid.weights(w, c.n_weights, maps) for c, w in zip(self.circuits, own, strict=True)]
        view = self.grid.patches(maps)
        batch_dims = view.dim() - self.grid.feature_dims
        if routing is not None:
            check_routing(routing, (view.shape[0], len(self.circuits), *view.shape[3:5]), maps)
        schedule = choose(tuple(c.text for c in self.circuits), "expval", place_of(maps), "auto", "auto")
        # In memory the circuits come right after the batch, so that the result is a batch of maps for each.
        order = [d + (d >= batch_dims) for d in self.grid.memory_order(maps)]
        order.insert(1, batch_dims)
        result = evaluate(
            self.circuits,
            view,
            weights,
            schedule,
            feature_dims=self.grid.feature_dims,
            output_order=order,
            cache=self.usable_cache(own),
        )
        joined = self.grid.join(result.movedim(batch_dims, 1).flatten(0, 1), maps)
        values = joined.unflatten(0, (-1, len(self.circuits)))
        if routing is None:
            return as_inputs(values, maps, own)
        mixed = torch.zeros_like(maps, dtype=values.dtype)
        shares = routing.to(values.dtype)[:, :, None, None]
        for k in range(len(self.circuits)):
            share = shares[:, k].reshape(*shares[:, k].shape, *(1,) * self.grid.feature_dims)
            per_pixel = self.grid.join(share.expand(-1, -1, -1, -1, -1, *view.shape[batch_dims:]), maps)
            mixed = torch.addcmul(mixed, values[:, k], per_pixel)
        return as_inputs(mixed, maps, own)

    def extra_repr(self) -> str:
        return f"{', '.join(map(repr, self.circuits))}, {self.grid}"


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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        circuit = ansatz.local_circuit(_sides(patch), depth)
        super().__init__(channels, circuit, patch, "block", weight_groups, output, device, dtype)


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
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        rows, columns = _sides(patch)
        circuit = ansatz.global_circuit(rows * columns, depth)
        super().__init__(channels, circuit, patch, "grid", weight_groups, output, device, dtype)


class DirectionalCircuit2d(PatchCircuit2d):
    """Entangled along one direction, or several in turn, in contiguous blocks: `hqfkernels.ansatz.directional_circuit`.

    Args and shapes: see `PatchCircuit2d`; ``depth`` is the number of layers of the circuit.
    """

    def __init__(
        self,
        channels: int,
        direction: ansatz.Direction | Sequence[ansatz.Direction] = "horizontal",
        patch: int | tuple[int, int] = 2,
        depth: int = 1,
        weight_groups: int = 1,
        output: Output = "pixels",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        circuit = ansatz.directional_circuit(_sides(patch), direction, depth)
        super().__init__(channels, circuit, patch, "block", weight_groups, output, device, dtype)


def _sides(patch: int | tuple[int, int]) -> tuple[int, int]:
    return sides(patch if isinstance(patch, (tuple, list)) else (patch, patch), "patch")
