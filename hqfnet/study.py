"""What the studies share: many short trainings of one command line, each kept when it is done."""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from hqfnet.cli import DataAndModelCLI, with_shipped_configs
from hqfnet.data.datamodule import SceneData
from hqfnet.task import SegmentationTask

Result = dict[str, Any]


class Run:
    """One training as `hqfnet fit` would make it, without logs, checkpoints and callbacks.

    Args:
        arguments: as of ``hqfnet fit``; ``settings`` have the last word.
        seed: of weights, order and augmentation.
        settings: further ones, by their names on the command line.
    """

    def __init__(self, arguments: Sequence[str], seed: int, settings: dict[str, Any]) -> None:
        quiet = {
            "seed_everything": seed,
            "trainer.logger": False,
            "trainer.callbacks": None,
            "trainer.enable_checkpointing": False,
            "trainer.enable_model_summary": False,
            "trainer.enable_progress_bar": False,
            "trainer.num_sanity_val_steps": 0,
        }
        options = [f"--{name}={json.dumps(value)}" for name, value in (quiet | settings).items()]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
            cli = DataAndModelCLI(
                run=False, save_config_callback=None, args=[*with_shipped_configs(arguments), *options]
            )
        self.trainer: lightning.Trainer = cli.trainer
        self.task: SegmentationTask = cli.model
        self.data: SceneData = cli.datamodule

    def fit(self) -> float:
        """Trains, and returns the seconds that it took."""
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            self.trainer.fit(self.task, self.data)
        return time.perf_counter() - start

    def validate(self) -> dict[str, float]:
        """The metrics of the validation split."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            (scores,) = self.trainer.validate(self.task, self.data, verbose=False)
        return dict(scores)


def kept(path: Path, settings: dict[str, Any], work: Callable[[], Result]) -> Result:
    """The result of ``work``, which is done only once: a study that was interrupted goes on where it was.

    Args:
        path: JSON file of the result.
        settings: what the result depends on; kept with it.
        work: gives what JSON can hold.

    Raises:
        SystemExit: the file is damaged, or holds a result of other settings.
    """
    settings = json.loads(json.dumps(settings))
    if path.is_file():
        try:
            content = json.loads(path.read_text())
            before, result = content["settings"], content["result"]
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"--out: {path} is damaged; delete it, and this part is done again: {error!r}") from error
        if before != settings:
            raise SystemExit(f"--out: {path} is of a study with other settings; choose another folder")
    else:
        result = work()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps({"settings": settings, "result": result}, indent=1) + "\n")
        partial.replace(path)
    return result


def study_parser(name: str, description: str) -> argparse.ArgumentParser:
    """What every study asks for."""
    parser = argparse.ArgumentParser(
        prog=f"hqfnet {name}",
        description=description,
        allow_abbrev=False,
        epilog="Everything else is handed on to each training: --config, --data.*, --model.*, --trainer.* as of "
        "`hqfnet fit`. An interrupted study goes on where it was when started again.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    return parser


def parse_study(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The study's own options, checked and in force, and what is handed on to each training."""
    options, rest = parser.parse_known_args(arguments)
    for name in ("seeds", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1, got {getattr(options, name)}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {options.out} cannot be written to: {error}")
    torch.set_num_threads(options.threads)
    for logger in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return options, rest


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
