"""What a checkpoint says about itself, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hqfkernels
from hqfnet.data.classes import ClassList

FORMAT = 1
"""Raised when older checkpoints can no longer be read."""

KEY = "hqfnet"
ARCHITECTURE = ("model", "num_classes", "in_channels", "dmcaf", "qskip", "qmoe", "quantum", "depth", "top_k")
"""The settings of `SegmentationTask` that decide which weights there are and what they mean."""

FILES = ("pretrained", "feature_cache")
"""Its settings that name files, which are no part of a checkpoint."""


def stamp() -> dict[str, Any]:
    """What is written into a checkpoint under `KEY`."""
    return {"format": FORMAT, "version": hqfkernels.__version__}


def read_tensors(path: str | Path, mmap: bool = False) -> Any:
    """Reads a file of ``torch.save`` that holds tensors, numbers, texts, lists and dicts; nothing in it is run.

    Args:
        path: the file.
        mmap: leave tensors on disk until they are used.

    Raises:
        ValueError: the file is damaged or holds something else, which is not read because it could run code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # there is no end to what a pickle that is damaged, or made to harm, lets torch raise
        raise ValueError(
            f"{path} cannot be read as one: it is damaged, or holds other objects than tensors and settings, which are "
            "refused because they could run code"
        ) from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of `SegmentationTask` without running code from it; tensors stay on disk until used.

    Raises:
        ValueError: there is no such file, it is no checkpoint of hqfnet, or it is of another format.
    """
    if not Path(path).is_file():
        raise ValueError(f"checkpoint: there is no file {path}")
    try:
        content = read_tensors(path, mmap=True)
    except ValueError as error:
        raise ValueError(f"checkpoint: {error}") from error
    check_format(content, str(path))
    checkpoint: dict[str, Any] = content
    checkpoint["hyper_parameters"].pop("_instantiator", None)  # Lightning's note on how its command line made the task
    return checkpoint


def check_format(checkpoint: Any, name: str = "the checkpoint") -> None:
    """Raises ValueError unless hqfnet wrote it, in the format that is read here."""
    parts = [checkpoint.get(part) if isinstance(checkpoint, dict) else None for part in (KEY, "hyper_parameters")]
    if not all(isinstance(part, dict) for part in parts) or not checkpoint[KEY].keys() >= stamp().keys():
        raise ValueError(f"checkpoint: {name} was not written by hqfnet's training, so its network is unknown")
    written = checkpoint[KEY]
    if written["format"] != FORMAT:
        raise ValueError(
            f"checkpoint: {name} has format {written['format']} (hqfnet {written['version']}), but this is "
            f"hqfnet {hqfkernels.__version__}, which reads format {FORMAT}"
        )
    # Training never writes these: only a forged checkpoint makes its reader fetch weights or write to a folder.
    files = {key: checkpoint["hyper_parameters"].get(key) for key in FILES}
    if any(files.values()):
        raise ValueError(f"checkpoint: {name} was not written by hqfnet's training: it asks for files: {files}")


def check_architecture(checkpoint: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError, naming every difference, unless the checkpoint holds the network that is ``wanted``."""
    check_settings(checkpoint, {name: wanted.get(name) for name in ARCHITECTURE})


def check_settings(checkpoint: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ValueError, naming every difference, unless the checkpoint has the settings that are ``wanted``.

    Settings of `SegmentationTask` that are not in ``wanted``, or that the checkpoint does not know, may differ.
    """
    saved = checkpoint["hyper_parameters"]
    differing = [name for name in wanted if name in saved and saved[name] != wanted[name]]
    if differing:
        holds = "another network" if set(differing) & set(ARCHITECTURE) else "a training with other settings"
        here = ", ".join(f"{name}={wanted[name]}" for name in differing)
        there = ", ".join(f"{name}={saved[name]}" for name in differing)
        raise ValueError(
            f"checkpoint: it holds {holds}: {there} where {here} was asked for; leave out what is to stay as it was"
        )


def check_data(checkpoint: Mapping[str, Any], wanted: Mapping[str, Any], training: bool) -> None:
    """Raises ValueError unless data mean to the checkpoint's network what its training data meant.

    Classes and bands must be the same, in the same order, as far as both are named. Data to be scored may come in units
    of their own, by a ``scale`` that says so; training goes on with the same.

    Args:
        checkpoint: what was read.
        wanted: settings of `SegmentationTask` that come from the data.
        training: whether training goes on, or the network is scored.
    """
    saved = checkpoint["hyper_parameters"]
    numbered = ClassList.numbered(saved["num_classes"]).names
    checked = [
        name
        for name, unnamed in (("class_names", list(numbered)), ("bands", None))
        if not any(values.get(name) in (None, unnamed) for values in (saved, wanted))
    ]
    if training or wanted.get("scale") is None:
        checked.append("scale")
    check_settings(checkpoint, {name: wanted.get(name) for name in checked})
