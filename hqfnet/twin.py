"""The classical twin: what takes the place of a patch circuit when the network has no quantum part."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

import hqfkernels as hqf

Gather = Literal["block", "grid"]
CircuitKind = Literal["local", "global", "horizontal", "vertical", "diagonal", "antidiagonal"]


class PatchTwin2d(nn.Module):
    """Mixes the pixels of each patch as a patch circuit does, by ``depth`` times a 1x1 convolution and tanh.

    The patch x patch pixels of a patch are the channels of the convolutions, and one weight set serves all channels
    and patches: the same inputs reach each output as in the circuit, with 20 weights per layer at patch=2 where
    the circuit has 8 or more. (B, C, H, W) -> (B, C, H, W), values in (-1, 1); sizes that the patch does not
    divide are zero-padded and cropped back.

    Args:
        patch: side of a patch in pixels.
        depth: number of layers.
        gather: "block" for contiguous patches, "grid" for one pixel out of each of patch x patch windows.
    """

    def __init__(self, patch: int = 2, depth: int = 2, gather: Gather = "block") -> None:
        super().__init__()
        self.patch = patch
        self.gather = gather
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
        if self.gather == "block":
            x = x.view(-1, rows, p, columns, p).permute(0, 2, 4, 1, 3)
        else:
            x = x.view(-1, p, rows, p, columns).permute(0, 1, 3, 2, 4)
        x = self.layers(x.reshape(-1, p * p, rows, columns)).view(-1, p, p, rows, columns)
        x = x.permute(0, 3, 1, 4, 2) if self.gather == "block" else x.permute(0, 1, 3, 2, 4)
        return x.reshape(batch, channels, rows * p, columns * p)[..., :height, :width]


def patch_mixer(kind: CircuitKind, channels: int, patch: int, depth: int, quantum: bool) -> nn.Module:
    """The patch circuit of a kind, or its classical twin: (B, channels, H, W) -> (B, channels, H, W).

    Takes angles in radians, gives values in [-1, 1].
    """
    if not quantum:
        return PatchTwin2d(patch, depth, gather="grid" if kind == "global" else "block")
    if kind == "local":
        return hqf.nn.LocalCircuit2d(channels, patch=patch, depth=depth)
    if kind == "global":
        return hqf.nn.GlobalCircuit2d(channels, patch=patch, depth=depth)
    return hqf.nn.DirectionalCircuit2d(channels, direction=kind, patch=patch, depth=depth)
