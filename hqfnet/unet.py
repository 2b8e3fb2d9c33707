"""The convolutional frame of the network: encoder stages and decoder steps of a U-Net (arXiv 1505.04597)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hqfnet.layers import ConvBlock


def encoder_stages(in_channels: int, widths: Sequence[int], stem_stride: int) -> nn.ModuleList:
    """Encoder stages; stage k has ``widths[k]`` channels at stride ``stem_stride * 2**k``.

    Args:
        in_channels: channels of the image.
        widths: channels per stage, finest first.
        stem_stride: 1 keeps the finest stage at image resolution; 2 or more starts with a strided convolution.
    """
    if stem_stride == 1:
        first: nn.Module = ConvBlock(in_channels, widths[0])
    else:
        stem = nn.Conv2d(in_channels, widths[0], 2 * stem_stride, stem_stride, padding=stem_stride // 2)
        first = nn.Sequential(stem, ConvBlock(widths[0], widths[0]))
    deeper = [nn.Sequential(nn.MaxPool2d(2), ConvBlock(above, below)) for above, below in pairwise(widths)]
    return nn.ModuleList([first, *deeper])


class DecoderStep(nn.Module):
    """Doubles the resolution and merges a skip connection.

    (B, in, h, w) and (B, skip, 2h, 2w) -> (B, skip, 2h, 2w).
    """

    def __init__(self, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(in_channels, skip_channels, 1)
        self.merge = ConvBlock(2 * skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.reduce(x), scale_factor=2, mode="bilinear", align_corners=False)
        merged: Tensor = self.merge(torch.cat([x, skip], dim=1))
        return merged
