"""HQF-Net (arXiv 2604.06715) and its relatives, by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F

from hqfnet.backbone import LEVELS, FrozenBackbone
from hqfnet.feature_cache import FeatureCache
from hqfnet.fusion import DMCAF
from hqfnet.qmoe import QMoE
from hqfnet.qskip import QSkip
from hqfnet.stem import BandStem
from hqfnet.twin import Expert
from hqfnet.unet import DecoderStep, encoder_stages


@dataclass(frozen=True)
class Architecture:
    """Sizes of one named network.

    Attributes:
        widths: channels of the U-Net levels, finest first.
        stem_stride: stride of the finest level.
        backbone: timm name of the frozen transformer; None for a network without DMCAF.
        heads, points: of the deformable attention.
        skip_angles: channels that enter the circuit of each skip connection; 0 for a network without QSkip.
        experts, expert_angles: of the mixture at the bottleneck.
        depth: layers of every circuit.
    """

    widths: tuple[int, ...]
    stem_stride: int = 1
    backbone: str | None = None
    heads: int = 4
    points: int = 4
    skip_angles: int = 4
    experts: tuple[Expert, ...] = ("local", "global", "directional")
    expert_angles: int = 16
    depth: int = 2


ARCHITECTURES = {
    "hqfnet_tiny": Architecture(
        (16, 32, 64, 128), stem_stride=2, backbone="vit_tiny_patch16_dinov3_qkvb", heads=2, points=2, expert_angles=8
    ),
    "hqfnet_small": Architecture((32, 64, 128, 256), stem_stride=2, backbone="vit_small_patch16_dinov3"),
    "hqfnet_base": Architecture((64, 128, 256, 512), backbone="vit_large_patch16_dinov3", heads=8),
    "hq_unet": Architecture((16, 32, 64, 128), stem_stride=2, skip_angles=0, experts=("local",), expert_angles=8),
}


class HQFNet(nn.Module):
    """U-Net with transformer fusion (DMCAF), quantum skip connections (QSkip) and quantum experts (QMoE).

    Images are expected in [0, 1]; the network normalises them itself, RGB by the constants that the backbone was
    trained with (ImageNet's where there is no backbone), other bands by their running statistics (see `BandStem`). Any
    height and width: sides are padded by repeating the border up to the network's stride, and the logits cropped back.

    Attributes:
        aux_losses: the auxiliary losses of the latest call by name, each a scalar to be added to the loss:
            "load_balance" where the bottleneck has experts to balance.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        in_channels: int,
        pretrained: bool | str | Path,
        dmcaf: bool,
        qskip: bool,
        qmoe: bool,
        quantum: bool,
        top_k: int | None,
    ) -> None:
        super().__init__()
        widths, depth = architecture.widths, architecture.depth
        self.in_channels = in_channels
        self.aux_losses: dict[str, Tensor] = {}
        self.stride = architecture.stem_stride * 2 ** (len(widths) - 1)
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
        std: Sequence[float] = IMAGENET_DEFAULT_STD
        self.backbone: FrozenBackbone | None = None
        self.fusions: nn.ModuleList | None = None
        if dmcaf and architecture.backbone:
            self.backbone = FrozenBackbone(architecture.backbone, pretrained)
            mean, std = self.backbone.mean, self.backbone.std
            self.stride = math.lcm(self.stride, self.backbone.patch)
            self.fusions = nn.ModuleList(
                DMCAF(width, self.backbone.channels, LEVELS, architecture.heads, architecture.points)
                for width in widths
            )

        self.stem = BandStem(in_channels, mean, std)
        self.encoder = encoder_stages(in_channels, widths, architecture.stem_stride)
        self.skips = nn.ModuleList(
            QSkip(width, architecture.skip_angles, depth=depth, quantum=quantum)
            if qskip and architecture.skip_angles
            else nn.Identity()
            for width in widths[:-1]
        )
        self.bottleneck: QMoE | None = None
        if qmoe:
            self.bottleneck = QMoE(
                widths[-1], architecture.expert_angles, architecture.experts, depth=depth, quantum=quantum, top_k=top_k
            )
        self.decoder = nn.ModuleList(DecoderStep(below, above) for above, below in pairwise(widths))
        self.head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] -> logits (B, num_classes, H, W).

        ``valid`` (B, in_channels, H, W), bool, says where there is data; everywhere by default.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(f"images: expected shape (B, {self.in_channels}, H, W), got {tuple(images.shape)}")
        if valid is not None and valid.shape != images.shape:
            raise ValueError(f"valid: expected the shape of images, {tuple(images.shape)}, got {tuple(valid.shape)}")
        height, width = images.shape[-2:]
        x, rgb = self.stem(images, valid)
        padding = (0, -width % self.stride, 0, -height % self.stride)
        x = F.pad(x, padding, mode="replicate")
        padded = x.shape[-2:]

        maps = self.backbone(F.pad(rgb, padding, mode="replicate")) if self.backbone else []
        levels: list[Tensor] = []
        for k, stage in enumerate(self.encoder):
            x = stage(x)
            if self.fusions:
                x = self.fusions[k](x, maps)
            levels.append(x)

        self.aux_losses = {}
        if self.bottleneck:
            x, balance = self.bottleneck(x)
            if self.bottleneck.router.out_channels > 1:
                self.aux_losses["load_balance"] = balance
        for k in reversed(range(len(self.decoder))):
            x = self.decoder[k](x, self.skips[k](levels[k]))
        logits = F.interpolate(self.head(x), size=padded, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def __getstate__(self) -> dict[str, Any]:
        # A copy or pickle carries the network, not the autograd graph of its latest call.
        return {**super().__getstate__(), "aux_losses": {}}


def create_model(
    name: str = "hqfnet_small",
    num_classes: int = 5,
    in_channels: int = 3,
    pretrained: bool | str | Path = True,
    dmcaf: bool = True,
    qskip: bool = True,
    qmoe: bool = True,
    quantum: bool = True,
    depth: int | None = None,
    top_k: int | None = None,
    feature_cache: str | Path | None = None,
) -> HQFNet:
    """Builds a network by name.

    Args:
        name: "hqfnet_tiny" (for a CPU), "hqfnet_small", "hqfnet_base" (the paper's sizes, ViT-L/16), or "hq_unet" (a
            U-Net with one local circuit at the bottleneck; it has neither DMCAF nor QSkip to switch off).
        num_classes: number of classes, at least 2.
        in_channels: channels of the image, at least 1.
        pretrained: True downloads the backbone's weights, a path loads them from that file, False leaves
            them random. Without effect where there is no backbone (``dmcaf=False``, "hq_unet").
        dmcaf: fusion with the backbone; False also leaves the backbone out.
        qskip: quantum skip connections.
        qmoe: quantum bottleneck.
        quantum: False gives the classical twin, with twins in the places of the circuits (see `hqfnet.twin`).
        depth: layers of every circuit, at least 1; None for the architecture's (2).
        top_k: experts that count per patch at the bottleneck (see `QMoE`); None mixes all.
        feature_cache: a folder for the backbone's features of images already seen (see `FrozenBackbone`).

    Returns:
        A module that maps (B, in_channels, H, W) in [0, 1] to logits (B, num_classes, H, W); see `HQFNet`.

    Raises:
        ValueError: an unknown name, or a number out of range.
        RuntimeError: the pretrained weights could not be loaded.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name: unknown model '{name}', expected one of {', '.join(ARCHITECTURES)}")
    if num_classes < 2:
        raise ValueError(f"num_classes: expected at least 2, got {num_classes}")
    if in_channels < 1:
        raise ValueError(f"in_channels: expected at least 1, got {in_channels}")
    if depth is not None and depth < 1:
        raise ValueError(f"depth: expected at least 1 layer, got {depth}")
    architecture = ARCHITECTURES[name]
    if depth is not None:
        architecture = replace(architecture, depth=depth)
    model = HQFNet(architecture, num_classes, in_channels, pretrained, dmcaf, qskip, qmoe, quantum, top_k)
    if model.backbone and feature_cache:
        model.backbone.cache = FeatureCache(feature_cache)
    return model
