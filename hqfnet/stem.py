"""The stem: what the U-Net and the frozen transformer see of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hqfnet.layers import BatchNorm2d

RGB = 3


class BandStem(nn.Module):
    """Normalises images of any bands.

    The transformer knows RGB only: it gets the first three bands, cut to [0, 1] and normalised by the constants that
    its weights were trained with (one or two bands take turns). The U-Net gets all bands: an RGB image normalised in
    the same way, any other each band by its own mean and variance over the training so far (batch normalisation without
    weights), so that reflectances, heights and temperatures may come in units of their own.

    Args:
        in_channels: bands of an image.
        mean, std: of red, green and blue in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, in_channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.rgb = [band % in_channels for band in range(RGB)]
        # A small eps: bands may vary by thousandths. No momentum: the mean over all batches, whose statistics stay what
        # they are; a decaying mean would carry its initial variance of 1 along for hundreds of steps.
        self.norm = None if in_channels == RGB else BatchNorm2d(in_channels, eps=1e-10, momentum=None, affine=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> all bands (B, in_channels, H, W) and RGB (B, 3, H, W), normalised."""
        if self.norm is None:
            normalised = (images - self.mean) / self.std
            return normalised, normalised
        rgb = images[:, self.rgb].clamp(0, 1)
        return self.norm(images), (rgb - self.mean) / self.std
