"""``hqfnet`` (or ``python -m hqfnet``): training by LightningCLI with the shipped configurations, and the commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module, resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from hqfnet import checkpoint as ckpt
from hqfnet.callbacks import LastCheckpoint, PredictionPictures, WholeCheckpoints
from hqfnet.data.datamodule import SceneData
from hqfnet.task import SegmentationTask

COMMANDS = {
    "predict": "segment a scene of any size",
    "ablation": "train and table the network without its parts, with them, and its classical twin",
    "stability": "train over seeds and circuit depths, and draw how it starts",
    "zoo": "table of all networks: parameters and step times",
}
"""Modules of hqfnet with a ``main``, beside the subcommands of LightningCLI."""

DESCRIPTION = "Train and evaluate HQF-Net. Further commands, each with --help of its own: " + "; ".join(
    f"hqfnet {name} ({what})" for name, what in COMMANDS.items()
)


class DataAndModelCLI(LightningCLI):
    """Any data of hqfnet, a network with its classes and scale, and a trainer with nothing of its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(SegmentationTask, SceneData, subclass_mode_data=True, seed_everything_default=0, **arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in ("num_classes", "class_names", "class_colours", "scale"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


class HQFNetCLI(DataAndModelCLI):
    """``fit``, ``validate`` and ``test`` with all that belongs to a training.

    Logs for TensorBoard and as CSV, the best checkpoint by ``val/miou`` and the latest one, early stopping, pictures
    of predictions, clipped gradients; all of it in ``runs/version_<n>``, or under ``--trainer.default_root_dir``.
    """

    def __init__(self) -> None:
        super().__init__(
            parser_kwargs={"description": DESCRIPTION},
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"gradient_clip_val": 1.0, "default_root_dir": "runs"},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Those of Lightning but ``predict``, which is a command of its own."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        best: dict[str, Any] = {"monitor": "val/miou", "mode": "max"}
        parser.add_lightning_class_args(ModelCheckpoint, "best_checkpoint")
        parser.set_defaults({f"best_checkpoint.{name}": value for name, value in best.items()})
        parser.set_defaults({"best_checkpoint.filename": "best"})
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {f"early_stopping.{name}": value for name, value in (best | {"patience": 15, "strict": False}).items()}
        )
        parser.add_lightning_class_args(PredictionPictures, "pictures")

    def instantiate_trainer(self, **arguments: Any) -> Trainer:
        """Adds the two loggers and the writer of checkpoints unless the configuration says otherwise."""
        config = self.config_init[self.subcommand]["trainer"]
        if config["plugins"] is None:
            arguments["plugins"] = WholeCheckpoints()
        if config["logger"] is None:
            warnings.filterwarnings("ignore", "Experiment logs directory .* exists and is not empty")
            tensorboard = TensorBoardLogger(config["default_root_dir"], name="")
            table = CSVLogger(config["default_root_dir"], name="", version=tensorboard.version)
            arguments["logger"] = [tensorboard, table]
        return super().instantiate_trainer(**arguments)

    def _parse_ckpt_path(self) -> None:
        """Lightning takes the model's settings from the checkpoint; settings that ask for another network are refused.

        It would train or test the checkpoint's network without a word. The folder for features is not a checkpoint's to
        say.
        """
        path = self.config[self.config["subcommand"]].get("ckpt_path")
        wanted = dict(self.config[self.config["subcommand"]]["model"])
        if path:
            checkpoint = ckpt.read_checkpoint(path)
            wanted["num_classes"] = checkpoint["hyper_parameters"]["num_classes"]  # comes from the data, later
            ckpt.check_architecture(checkpoint, wanted)
        super()._parse_ckpt_path()
        self.config[self.config["subcommand"]]["model"]["feature_cache"] = wanted["feature_cache"]


def with_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments in which ``--config NAME`` of a shipped configuration has become its path."""
    named = []
    for option, value in pairwise(["", *arguments]):
        prefix = "--config=" if value.startswith("--config=") else ""
        if prefix or option in ("--config", "-c"):
            value = prefix + shipped_config(value.removeprefix(prefix))
        named.append(value)
    return named


def shipped_config(value: str) -> str:
    """The path of a shipped configuration ("generated", "folder"); anything else as it came."""
    shipped = Path(str(resources.files("hqfnet"))) / "configs" / f"{value}.yaml"
    return str(shipped) if shipped.is_file() and not Path(value).is_file() else value


def main() -> Any:
    """Runs the command line; ``--config`` takes a path or the name of a shipped configuration."""
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        return import_module(f"hqfnet.{sys.argv[1]}").main(sys.argv[2:])
    sys.argv[1:] = with_shipped_configs(sys.argv[1:])
    return HQFNetCLI()


def console() -> None:
    """The command ``hqfnet``: `main`, of which the shell is to see no result."""
    main()
