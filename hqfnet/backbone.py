"""The frozen DINOv3 vision transformer (arXiv 2508.10104), from timm."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import timm
import torch
from torch import Tensor, nn

from hqfnet.checkpoint import read_tensors
from hqfnet.feature_cache import FeatureCache

LEVELS = 4


class FrozenBackbone(nn.Module):
    """Four intermediate feature maps of a frozen ViT, evenly spaced over its depth.

    It stays in evaluation mode whatever ``train()`` says, runs without autograd, and none of its parameters asks
    for a gradient. Its weights are part of ``state_dict``, so a checkpoint needs no download. On a GPU it computes in
    bfloat16, or in float16 where the GPU has no bfloat16; on a CPU in the precision of its weights. Mixed precision of
    the training around it makes no difference: the same image has the same maps.

    Args:
        name: timm name of a ViT with patch embedding, e.g. ``vit_large_patch16_dinov3.sat493m``.
        pretrained: True downloads the weights, a path loads them from that file, False leaves them random. A file is
            ``*.safetensors``, or a checkpoint of tensors alone, which is read without running any code in it.

    Attributes:
        channels: channels of each feature map.
        patch: side of a patch in pixels; input sides must be multiples of it.
        mean, std: constants of red, green and blue by which the weights expect images in [0, 1] to be normalised.
        cache: where to keep the maps of images already seen, or None. Worth it where the same crops come again:
            validation, or training without random changes.

    Raises:
        RuntimeError: the weights could not be had; the message says what to do.
    """

    def __init__(self, name: str, pretrained: bool | str | Path = True) -> None:
        super().__init__()
        source: dict[str, Any] = {} if isinstance(pretrained, bool) else {"file": str(pretrained)}
        try:
            if source:
                check_weight_file(Path(source["file"]))
            vit: Any = timm.create_model(
                name, pretrained=bool(pretrained), num_classes=0, pretrained_cfg_overlay=source or None
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
        self.name = name
        self.channels: int = vit.embed_dim
        self.patch: int = vit.patch_embed.patch_size[0]
        self.mean: Sequence[float] = config["mean"]
        self.std: Sequence[float] = config["std"]
        self.cache: FeatureCache | None = None
        depth = len(vit.blocks)
        self._indices = [depth * (level + 1) // LEVELS - 1 for level in range(LEVELS)]
        self._fingerprint: str | None = None
        self.register_load_state_dict_post_hook(_forget_fingerprint)

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Keeps the evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised RGB images (B, 3, H, W) -> four maps (B, channels, H / patch, W / patch), in the images' dtype."""
        if self.cache is None:
            return [level.to(images.dtype) for level in self._maps(images)]
        keys = [self.cache.key(image, self.fingerprint()) for image in images]
        found = {i: maps for i, key in enumerate(keys) if (maps := self.cache.load(key)) is not None}
        unseen = [i for i in range(len(keys)) if i not in found]
        if unseen:
            levels = self._maps(images[unseen])
            for row, i in enumerate(unseen):
                found[i] = [level[row] for level in levels]
                self.cache.store(keys[i], found[i])
        return [torch.stack([found[i][level].to(images) for i in range(len(keys))]) for level in range(LEVELS)]

    def fingerprint(self) -> str:
        """A digest of what the maps of an image depend on, apart from the image: weights, levels, precision."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"{self.name} {self._indices}".encode())
            for key, weight in self.vit.state_dict().items():
                digest.update(key.encode())
                digest.update(weight.contiguous().cpu().view(-1).view(torch.uint8).numpy())
            self._fingerprint = digest.hexdigest()
        return f"{self._fingerprint} {half_precision(next(self.vit.parameters()).device)}"

    def _maps(self, images: Tensor) -> list[Tensor]:
        vit: Any = self.vit
        half = half_precision(images.device)
        with torch.autocast(images.device.type, half, enabled=half is not None):
            return vit.forward_intermediates(images, indices=self._indices, norm=True, intermediates_only=True)


def _forget_fingerprint(backbone: nn.Module, keys: Any) -> None:
    backbone._fingerprint = None  # type: ignore[assignment]


def half_precision(device: torch.device) -> torch.dtype | None:
    """The 16-bit type that the backbone computes in on a device; None on a CPU, which gains nothing by one."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def check_weight_file(path: Path) -> None:
    """Refuses a weight file that is missing, damaged, or a pickle of more than tensors.

    Raises:
        Exception: whatever safetensors raises, and what `read_tensors` does; nothing in the file is run.
    """
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt"):
            pass
    else:
        read_tensors(path)
