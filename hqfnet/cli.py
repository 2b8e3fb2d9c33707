"""``python -m hqfnet fit|validate|test|predict``: LightningCLI with the shipped configurations."""

from __future__ import annotations

import sys
from importlib import resources
from itertools import pairwise
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from hqfnet.data.datamodule import SceneData
from hqfnet.task import SegmentationTask


class HQFNetCLI(LightningCLI):
    """The classes of the data are the classes of the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("num_classes", "class_names", "class_colours"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


def shipped_config(value: str) -> str:
    """The path of a shipped configuration ("generated", "folder"); anything else as it came."""
    shipped = Path(str(resources.files("hqfnet"))) / "configs" / f"{value}.yaml"
    return str(shipped) if shipped.is_file() and not Path(value).is_file() else value


def main() -> HQFNetCLI:
    """Runs the command line; ``--config`` takes a path or the name of a shipped configuration."""
    sys.argv[1:] = sys.argv[1:2] + [
        shipped_config(value) if option == "--config" else value for option, value in pairwise(sys.argv[1:])
    ]
    return HQFNetCLI(SegmentationTask, SceneData, subclass_mode_data=True, save_config_kwargs={"overwrite": True})
