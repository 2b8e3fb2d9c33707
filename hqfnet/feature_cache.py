"""Feature maps on disk, one file per image."""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class FeatureCache:
    """Lists of tensors on disk under keys made from what they were computed from.

    An entry is a safetensors file that appears under its name only when it is complete, so a process may be killed at
    any moment, and several may share a folder. Each entry carries a checksum; where it does not hold, the entry is
    reported, removed and counts as missing.

    Args:
        folder: where the entries are; it is made when the first one is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def key(self, image: Tensor, context: str) -> str:
        """A digest of an image (shape, dtype, values) and of what else the entry depends on."""
        digest = hashlib.sha256(f"{context} {tuple(image.shape)} {image.dtype}".encode())
        digest.update(_bytes(image).data)
        return digest.hexdigest()

    def load(self, key: str) -> list[Tensor] | None:
        """The tensors of an entry, on the CPU; None where there is none or where it is damaged."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                tensors = [file.get_tensor(str(i)) for i in range(len(file.keys()))]
                if (file.metadata() or {}).get("crc32") != _checksum(tensors):
                    raise ValueError("the checksum does not hold")
        except (OSError, SafetensorError, ValueError) as error:
            warnings.warn(f"{path}: damaged and removed: {error}", stacklevel=2)
            path.unlink(missing_ok=True)
            return None
        return tensors

    def store(self, key: str, tensors: Sequence[Tensor]) -> None:
        """Writes an entry; a failure leaves nothing behind."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        host = [tensor.contiguous().cpu() for tensor in tensors]
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        try:
            save_file({str(i): tensor for i, tensor in enumerate(host)}, unfinished, {"crc32": _checksum(host)})
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """The values of a tensor as bytes, without regard to its dtype (numpy knows no bfloat16)."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _checksum(tensors: Sequence[Tensor]) -> str:
    checksum = 0
    for tensor in tensors:
        checksum = zlib.crc32(_bytes(tensor).data, checksum)
    return str(checksum)
