"""The classical twin: what takes the place of a patch circuit when the network has no quantum part."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hqfkernels as hqf

Expert = Literal["local", "global", "directional"]


class PatchTwin2d(nn.Module):
    """Mixes the pixels of each patch as a patch circuit does, by ``depth`` times a 1x1 convolution and tanh.

    The patch x patch pixels of a patch are the channels of the convolutions, and one weight set serves all channels
    and patches: the same inputs reach each output as in the circuit, with 20 weights per layer at patch=2 where
    the circuit has 8 or more. (B, C, H, W) -> (B, C, H, W), values in (-1, 1); sizes that the patch does not
    divide are zero-padded and cropped back.

    Args:
        patch: side of a patch in pixels.
        depth: number of layers.
    """

    def __init__(self, patch: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.patch = patch
        pixels = patch * patch
        layers = OrderedDict[str, nn.Module]()
        for k in range(depth):
            layers[f"mix{k}"] = nn.Conv2d(pixels, pixels, 1)
            layers[f"tanh{k}"] = nn.Tanh()
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        p = self.patch
        x = F.pad(x, (0, -width % p, 0, -height % p))
        rows, columns = x.shape[-2] // p, x.shape[-1] // p
        x = x.reshape(-1, rows, p, columns, p).permute(0, 2, 4, 1, 3)
        x = self.layers(x.reshape(-1, p * p, rows, columns)).reshape(-1, p, p, rows, columns)
        x = x.permute(0, 3, 1, 4, 2)
        return x.reshape(batch, channels, rows * p, columns * p)[..., :height, :width]


class TwinBank(nn.Module):
    """Classical twins in the place of `hqfkernels.nn.PatchBank2d`: the same patches, mixed by the same shares."""

    def __init__(self, count: int, patch: int, depth: int) -> None:
        super().__init__()
        self.patch = patch
        self.twins = nn.ModuleList(PatchTwin2d(patch, depth) for _ in range(count))

    def forward(self, maps: Tensor, routing: Tensor) -> Tensor:
        """Maps (B, C, H, W) and shares (B, twins, rows, columns) to the sum of the twins' values times their shares."""
        per_pixel = F.interpolate(routing, scale_factor=self.patch)[..., : maps.shape[-2], : maps.shape[-1]]
        outputs = torch.stack([twin(maps) for twin in self.twins], dim=1)
        return (per_pixel.unsqueeze(2) * outputs).sum(dim=1)


def patch_experts(kinds: Sequence[Expert], channels: int, patch: int, depth: int, quantum: bool) -> nn.Module:
    """Circuits of several kinds on the same patches, or their classical twins: see `TwinBank` for the call.

    The directional circuit takes the four directions in turn, ``depth`` times.

    Raises:
        ValueError: a kind is unknown.
    """
    unknown = set(kinds) - set(get_args(Expert))
    if unknown or not kinds:
        raise ValueError(f"experts: expected some of {', '.join(get_args(Expert))}, got {list(kinds)}")
    if not quantum:
        return TwinBank(len(kinds), patch, depth)
    grid = (patch, patch)
    directions: tuple[hqf.ansatz.Direction, ...] = ("horizontal", "vertical", "diagonal", "antidiagonal")
    circuits = {
        "local": hqf.ansatz.local_circuit(grid, depth),
        "global": hqf.ansatz.global_circuit(patch * patch, depth),
        "directional": hqf.ansatz.directional_circuit(grid, directions, len(directions) * depth),
    }
    return hqf.nn.PatchBank2d(channels, [circuits[kind] for kind in kinds], patch)


def patch_mixer(channels: int, patch: int, depth: int, quantum: bool) -> nn.Module:
    """The local patch circuit, or its classical twin: (B, channels, H, W) -> (B, channels, H, W).

    Takes angles in radians, gives values in [-1, 1].
    """
    if quantum:
        return hqf.nn.LocalCircuit2d(channels, patch=patch, depth=depth)
    return PatchTwin2d(patch, depth)
