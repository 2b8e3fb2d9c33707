"""What a checkpoint says about itself, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hqfkernels

FORMAT = 1
"""Raised when older checkpoints can no longer be read."""

KEY = "hqfnet"
ARCHITECTURE = ("model", "num_classes", "in_channels", "dmcaf", "qskip", "qmoe", "quantum", "depth", "top_k")
"""The settings of `SegmentationTask` that decide which weights there are and what they mean."""


def stamp() -> dict[str, Any]:
    """What is written into a checkpoint under `KEY`."""
    return {"format": FORMAT, "version": hqfkernels.__version__}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of `SegmentationTask` without running code from it; tensors stay on disk until used.

    Raises:
        ValueError: there is no such file, it is no checkpoint of hqfnet, or it is of another format.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint: there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # there is no telling what a damaged file makes of torch's reader
        raise ValueError(f"checkpoint: {path} cannot be read as one: {error}") from error
    check_format(content, str(path))
    checkpoint: dict[str, Any] = content
    checkpoint["hyper_parameters"].pop("_instantiator", None)  # Lightning's note on how its command line made the task
    return checkpoint


def check_format(checkpoint: Any, name: str = "the checkpoint") -> None:
    """Raises ValueError unless hqfnet wrote it, in the format that is read here."""
    written = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if (
        not isinstance(written, dict)
        or not written.keys() >= stamp().keys()
        or not isinstance(checkpoint.get("hyper_parameters"), dict)
    ):
        raise ValueError(f"checkpoint: {name} was not written by hqfnet's training, so its network is unknown")
    if written["format"] != FORMAT:
        raise ValueError(
            f"checkpoint: {name} has format {written['format']} (hqfnet {written['version']}), but this is hqfnet "
            f"{hqfkernels.__version__}, which reads format {FORMAT}"
        )


def check_architecture(checkpoint: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError, naming every difference, unless the checkpoint holds the network that is ``wanted``."""
    saved = checkpoint["hyper_parameters"]
    differing = [name for name in ARCHITECTURE if saved.get(name) != wanted.get(name)]
    if differing:
        here = ", ".join(f"{name}={wanted.get(name)}" for name in differing)
        there = ", ".join(f"{name}={saved.get(name)}" for name in differing)
        raise ValueError(f"checkpoint: it holds another network: {there} where {here} was asked for")
