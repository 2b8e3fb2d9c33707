"""Building blocks that several parts of the network share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hqfkernels as hqf


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that takes a single value per channel, too.

    Such a batch (one sample of a crop so small that its map is one pixel) has no variance, and torch refuses it in
    training. It is normalised by the statistics so far, which stay what they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] * input.shape[2] * input.shape[3] == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions with batch normalisation and ReLU: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class ResidualGate(nn.Module):
    """``x + gate * update`` with one learned gate per channel that starts at 0.

    The network therefore starts as if the branch did not exist. The gate itself has a gradient from the
    first step on (the product of ``update`` and the loss gradient), and once it has moved, so has the branch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        return x + self.gate * update


class AngleEncoder(nn.Module):
    """Feature map to circuit angles: 1x1 convolution, batch normalisation, arctangent.

    Maps (B, in_channels, H, W) to (B, angles, H, W) in radians, inside (-pi/2, pi/2). The normalisation keeps
    the angles spread over that range: near 0 an RY-encoded <Z> = cos(angle) is flat and would pass no gradient.
    """

    def __init__(self, in_channels: int, angles: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, angles, 1, bias=False)
        self.norm = BatchNorm2d(angles)

    def forward(self, x: Tensor) -> Tensor:
        return torch.atan(self.norm(self.reduce(x)))


def circuit_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of a module that run circuits, by name; their parameters are the circuits' angles."""
    kinds = (hqf.nn.PatchCircuit2d, hqf.nn.PatchBank2d)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}
