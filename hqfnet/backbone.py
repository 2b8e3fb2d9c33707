"""The frozen DINOv3 vision transformer (arXiv 2508.10104), from timm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

LEVELS = 4


class FrozenBackbone(nn.Module):
    """Four intermediate feature maps of a frozen ViT, evenly spaced over its depth.

    It stays in evaluation mode whatever ``train()`` says, runs without autograd, and none of its parameters asks
    for a gradient. Its weights are part of ``state_dict``, so a checkpoint needs no download.

    Args:
        name: timm name of a ViT with patch embedding, e.g. ``vit_large_patch16_dinov3.sat493m``.
        in_channels: channels of the image; timm adapts the RGB patch embedding by repeating it.
        pretrained: True downloads the weights, a path loads them from that file, False leaves them random.

    Attributes:
        channels: channels of each feature map.
        patch: side of a patch in pixels; input sides must be multiples of it.
        mean, std: per-channel constants by which the weights expect images in [0, 1] to be normalised.

    Raises:
        RuntimeError: the weights could not be had; the message says what to do.
    """

    def __init__(self, name: str, in_channels: int = 3, pretrained: bool | str | Path = True) -> None:
        super().__init__()
        source: dict[str, Any] = {} if isinstance(pretrained, bool) else {"file": str(pretrained)}
        try:
            vit: Any = timm.create_model(
                name,
                pretrained=bool(pretrained),
                num_classes=0,
                in_chans=in_channels,
                pretrained_cfg_overlay=source or None,
            )
        except Exception as error:
            # timm passes on whatever its hub client, HTTP library or file reader raises; there is no common base.
            if not pretrained:
                raise
            wanted = f"from {pretrained}" if source else "by download"
            raise RuntimeError(
                f"the pretrained weights of backbone '{name}' could not be loaded {wanted}: {error}\n"
                "Use pretrained=False for random weights, or pretrained='FILE' with a weight file of this timm model "
                "(model.safetensors) that was downloaded elsewhere."
            ) from error
        self.vit: nn.Module = vit
        self.requires_grad_(False)
        self.train(False)
        config = vit.pretrained_cfg
        self.channels: int = vit.embed_dim
        self.patch: int = vit.patch_embed.patch_size[0]
        self.mean, self.std = (repeat_rgb(config[key], in_channels) for key in ("mean", "std"))
        depth = len(vit.blocks)
        self._indices = [depth * (level + 1) // LEVELS - 1 for level in range(LEVELS)]

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Keeps the evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, in_channels, H, W) -> four maps (B, channels, H / patch, W / patch)."""
        vit: Any = self.vit
        return vit.forward_intermediates(images, indices=self._indices, norm=True, intermediates_only=True)


def repeat_rgb(rgb: Sequence[float], channels: int) -> tuple[float, ...]:
    """Per-channel constants of RGB, repeated over ``channels`` as timm repeats the patch embedding."""
    return tuple(rgb[channel % len(rgb)] for channel in range(channels))
