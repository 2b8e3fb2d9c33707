"""The stem: what the U-Net and the frozen transformer see of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

RGB = 3


class BandNorm(nn.Module):
    """Batch normalisation without weights, by the pixels that are data; others become 0, the mean.

    In training the statistics are those of the batch, over all processes of a distributed run; in evaluation, the means
    of those of all batches so far, each weighted by its pixels.

    Args:
        bands: of an image.
    """

    EPS = 1e-10  # small: bands may vary by thousandths

    running_mean: Tensor
    running_var: Tensor
    pixels: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(bands))
        self.register_buffer("running_var", torch.ones(bands))
        self.register_buffer("pixels", torch.zeros(bands, dtype=torch.int64))

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, bands, H, W), and where there is data in the same shape -> (B, bands, H, W)."""
        exact = images.to(torch.promote_types(images.dtype, torch.float32))
        there = torch.ones_like(images, dtype=torch.bool) if valid is None else valid
        mean, var = self._of_batch(exact, there) if self.training else (self.running_mean, self.running_var)
        normalised = (exact - mean.view(-1, 1, 1)) * (var + self.EPS).rsqrt().view(-1, 1, 1)
        return normalised.masked_fill(~there, 0).to(images.dtype)

    @torch.no_grad()
    def _of_batch(self, images: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        count = over_processes(there.sum(dim=(0, 2, 3)))
        # Each term is divided, not the sum, which could exceed float32.
        share = there / count.clamp(min=1).view(-1, 1, 1)
        mean = over_processes((images * share).sum(dim=(0, 2, 3)))
        var = over_processes(((images - mean.view(-1, 1, 1)).square() * share).sum(dim=(0, 2, 3)))
        self.pixels += count
        weight = count / self.pixels.clamp(min=1)
        self.running_mean += weight * (mean - self.running_mean)
        self.running_var += weight * (var * (count / (count - 1).clamp(min=1)) - self.running_var)
        return mean, var

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Older checkpoints count batches: their statistics weigh little where a training goes on.
        batches = state_dict.pop(f"{prefix}num_batches_tracked", None)
        if batches is not None:
            state_dict[f"{prefix}pixels"] = batches.expand_as(self.pixels)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def over_processes(values: Tensor) -> Tensor:
    """The sum over all processes of a distributed run, in place."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values


class BandStem(nn.Module):
    """Normalises images of any bands.

    The transformer knows RGB only: it gets the first three bands, cut to [0, 1] and normalised by the constants that
    its weights were trained with (one or two bands take turns). The U-Net gets all bands: an RGB image normalised in
    the same way, any other each band by its own mean and variance over the training so far (see `BandNorm`), so that
    reflectances, heights and temperatures may come in units of their own.

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
        self.norm = None if in_channels == RGB else BandNorm(in_channels)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> all bands (B, in_channels, H, W) and RGB (B, 3, H, W), normalised.

        ``valid`` (B, in_channels, H, W), bool, says where there is data; everywhere by default.
        """
        if self.norm is None:
            normalised = (images - self.mean) / self.std
            return normalised, normalised
        rgb = images[:, self.rgb].clamp(0, 1)
        return self.norm(images, valid), (rgb - self.mean) / self.std
