"""DMCAF: deformable multi-scale cross-attention that brings transformer features into the U-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hqfnet.layers import BatchNorm2d, ResidualGate


def deformable_sample(values: Sequence[Tensor], offsets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples around each query (Deformable DETR, arXiv 2010.04159, eq. 3).

    The query of pixel (i, j) looks at the same relative place of every level, moved by its offsets. Places outside
    a map take the value of its border, infinitely far ones too. A NaN among the offsets makes NaN of its query's result
    and of the gradients of that sample's offsets and weight, and of nothing else.

    Args:
        values: one map (B, heads * d, H_l, W_l) per level.
        offsets: (B, heads, levels, points, 2, H, W): (x, y) in cells of the level's map.
        weights: (B, heads, levels, points, H, W): attention weights, summing to 1 over levels and points.

    Returns:
        (B, heads * d, H, W).
    """
    batch, heads, _, points, _, height, width = offsets.shape
    # Places need float32 even under autocast: bfloat16 has 8 bits, which is half a pixel at the border of 256 pixels.
    like: dict[str, Any] = {"device": offsets.device, "dtype": torch.promote_types(offsets.dtype, torch.float32)}
    y = (torch.arange(height, **like) + 0.5) / height
    x = (torch.arange(width, **like) + 0.5) / width
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"))  # (2, H, W), in [0, 1]

    total: Tensor | None = None
    for level, value in enumerate(values):
        cells = torch.tensor([value.shape[-1], value.shape[-2]], **like).view(2, 1, 1)
        places = 2 * (centres + offsets[:, :, level] / cells) - 1  # (B, heads, points, 2, H, W)
        # What is farther out than 2 is on the border as well. Unlike clamp, these pass the gradient of a NaN on.
        places = places.maximum(places.new_full((), -2)).minimum(places.new_full((), 2))
        # grid_sample makes an index of NaN, and its gradient writes there. It gets the centre instead; to its samples
        # is added 0, with gradient 0, or NaN, with gradient NaN.
        nowhere = 0 * places.sum(dim=3).square()
        places = places.masked_fill(places.isnan(), 0)
        grid = places.permute(0, 1, 2, 4, 5, 3).reshape(batch * heads, points * height, width, 2)
        maps = value.reshape(batch * heads, -1, *value.shape[-2:])
        samples = F.grid_sample(maps.to(grid.dtype), grid, padding_mode="border", align_corners=False)
        samples = samples.view(batch, heads, -1, points, height, width) + nowhere.unsqueeze(2)
        # A product and a sum: einsum would turn this into very many tiny matrix products.
        summed = (samples * weights[:, :, level].to(samples.dtype).unsqueeze(2)).sum(dim=3)
        total = summed if total is None else total + summed
    if total is None:
        raise ValueError("values: expected at least one level, got none")
    return total.flatten(1, 2)


class DMCAF(nn.Module):
    """Deformable multi-scale cross-attention fusion of one U-Net level with the transformer's levels.

    Queries come from the U-Net features, values from the projected transformer maps; offsets and attention weights
    are linear in the query, per head, level and point. The result enters through a residual gate that starts at 0.

    Args:
        channels: channels of the U-Net level; divisible by ``heads``.
        backbone_channels: channels of each transformer map.
        levels: number of transformer maps.
        heads: attention heads.
        points: sampled points per head and level.
    """

    def __init__(self, channels: int, backbone_channels: int, levels: int = 4, heads: int = 4, points: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels: {channels} is not divisible by heads={heads}")
        self.split = (heads, levels, points)
        samples = heads * levels * points
        self.value = nn.ModuleList(nn.Conv2d(backbone_channels, channels, 1) for _ in range(levels))
        self.query = nn.Sequential(BatchNorm2d(channels), nn.Conv2d(channels, channels, 1), nn.GELU())
        self.offsets = nn.Conv2d(channels, 2 * samples, 1)
        self.weights = nn.Conv2d(channels, samples, 1)
        self.output = nn.Conv2d(channels, channels, 1)
        self.gate = ResidualGate(channels)
        self._start_on_rings()

    def _start_on_rings(self) -> None:
        """Heads start in different directions, points at different distances, as in Deformable DETR."""
        heads, levels, points = self.split
        angle = 2 * math.pi * torch.arange(heads) / heads
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1).view(heads, 1, 1, 2)
        distance = torch.arange(1, points + 1).view(1, 1, points, 1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.offsets.bias.copy_((direction * distance).expand(heads, levels, points, 2).flatten())  # type: ignore[union-attr]

    def forward(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, channels, H, W) and ``levels`` maps (B, backbone_channels, h, w) -> (B, channels, H, W)."""
        heads, levels, points = self.split
        size = x.shape[-2:]
        query = self.query(x)
        offsets = self.offsets(query).view(-1, heads, levels, points, 2, *size)
        weights = self.weights(query).view(-1, heads, levels * points, *size).softmax(dim=2)
        values = [project(level) for project, level in zip(self.value, maps, strict=True)]
        attended = deformable_sample(values, offsets, weights.view(-1, heads, levels, points, *size))
        fused: Tensor = self.gate(x, self.output(attended))
        return fused
