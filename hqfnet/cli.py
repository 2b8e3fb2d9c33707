"""``hqfnet`` (or ``python -m hqfnet``): training by LightningCLI with the shipped configurations, and the commands."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module, resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from hqfnet import checkpoint as ckpt
from hqfnet.callbacks import EarlyStopping, LastCheckpoint, PredictionPictures, WholeCheckpoints
from hqfnet.data.datamodule import SceneData
from hqfnet.refusals import in_one_line
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


FROM_DATA = ("num_classes", "class_names", "class_colours", "bands", "scale")
"""Settings of the network that the data decide."""


class DataAndModelCLI(LightningCLI):
    """Any data of hqfnet, a network with its classes, bands and scale, and a trainer with nothing of its own."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(SegmentationTask, SceneData, subclass_mode_data=True, seed_everything_default=0, **arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")


class HQFNetCLI(DataAndModelCLI):
    """``fit``, ``validate`` and ``test`` with all that belongs to a training.

    Logs for TensorBoard and as CSV, the best checkpoint by ``val/miou`` and the latest one, early stopping, pictures
    of predictions, clipped gradients; all of it in ``runs/version_<n>``, or under ``--trainer.default_root_dir``.
    """

    def __init__(self) -> None:
        # An error would come below a hundred lines of options.
        usages = {name: {"usage": f"hqfnet {name} [options]"} for name in self.subcommands()}
        super().__init__(
            parser_kwargs={"prog": "hqfnet", "description": DESCRIPTION} | usages,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"gradient_clip_val": 1.0, "default_root_dir": "runs"},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Those of Lightning but ``predict``, which is a command of its own."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_lightning_class_args(ModelCheckpoint, "best_checkpoint")
        best = {"monitor": "val/miou", "mode": "max", "filename": "best"}
        parser.set_defaults({f"best_checkpoint.{name}": value for name, value in best.items()})
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
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

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Keeps apart what was asked for, which a checkpoint must not override without a word."""
        super().parse_arguments(parser, args)
        self.asked = parser.parse_args(args, defaults=False)[self.config["subcommand"]]  # type: ignore[arg-type]

    def _parse_ckpt_path(self) -> None:
        """Lightning takes the model's settings from the checkpoint: what was asked for and differs is refused.

        It would be ignored. What the checkpoint cannot say are folders and files; the data's scale follows it as well.
        """
        subcommand = self.config["subcommand"]
        config = self.config[subcommand]
        path = config.get("ckpt_path")
        if not path:
            if subcommand != "fit":
                raise ValueError(f"--ckpt_path: `hqfnet {subcommand}` needs the checkpoint of a training to score")
            return
        checkpoint = ckpt.read_checkpoint(path)
        # Settings that come from the data are compared when the data are known: `checkpoint.check_data`.
        elsewhere = {*ckpt.FILES, *FROM_DATA}
        asked = vars(self.asked.get("model", Namespace()))
        ckpt.check_settings(checkpoint, {name: value for name, value in asked.items() if name not in elsewhere})
        if subcommand == "fit":
            self._check_seed(checkpoint)
        files = config["model"]["feature_cache"]
        super()._parse_ckpt_path()
        config = self.config[subcommand]
        config["model"]["feature_cache"] = files
        if "scale" in config["data"]["init_args"] and "data.init_args.scale" not in self.asked:
            config["data"]["init_args"]["scale"] = checkpoint["hyper_parameters"].get("scale")

    def _check_seed(self, checkpoint: dict[str, Any]) -> None:
        asked, loader = self.asked.get("seed_everything"), checkpoint["resume"]["loader"]
        if loader is not None and asked is not None and not isinstance(asked, bool) and asked != loader["seed"]:
            raise ValueError(
                f"--seed_everything: got {asked}, but the checkpoint's training goes on with {loader['seed']}"
            )


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
    """Runs the command line; ``--config`` takes a path or the name of a shipped configuration.

    Raises:
        SystemExit: 143, as a shell has it, when SIGTERM ended a training; it goes on from its latest checkpoint.
    """
    try:
        if sys.argv[1:] and sys.argv[1] in COMMANDS:
            return import_module(f"hqfnet.{sys.argv[1]}").main(sys.argv[2:])
        sys.argv[1:] = with_shipped_configs(sys.argv[1:])
        return HQFNetCLI()
    except SIGTERMException as stopped:  # Lightning's, with status 0
        raise SystemExit(128 + signal.SIGTERM) from stopped


def console() -> None:
    """The command ``hqfnet``: `main`, of which the shell is to see no result, and wrong input in one line."""
    with in_one_line():
        main()
