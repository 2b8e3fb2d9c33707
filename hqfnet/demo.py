"""``python -m hqfnet.demo``: train a small HQF-Net for a few minutes and show what it learned."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from hqfnet.data import IGNORE_INDEX, SCENE_CLASSES, ClassList, FolderDataset, GeneratedScenes, load_classes
from hqfnet.data.crops import Sample, network_inputs, turn_at_random
from hqfnet.data.folder import find_pairs, warn_of_shared_images
from hqfnet.data.raster import mask_colours, read_mask
from hqfnet.figures import draw_curve, draw_predictions, every_nth, richest_tiles
from hqfnet.model import ARCHITECTURES
from hqfnet.refusals import in_one_line
from hqfnet.task import SegmentationTask, check_finite, make_optimizer, segmentation_metrics
from hqfnet.timing import QuantumTimer, now

CLASS_FILE = "classes.json"
CURVE_TILES = 48
PICTURE_TILES = 6
EVALUATIONS = 6
WARM_UP_STEPS = 20


@dataclass
class Result:
    """What a run measured; written to metrics.json.

    Attributes:
        model, quantum: what was trained.
        miou, accuracy, iou: on all held-out tiles; ``iou`` by class name, None for one that does not occur.
        tiles: number of held-out tiles.
        steps, batch_size, crop: of the training.
        step_seconds: mean wall time of a training step (forward, backward, optimiser; not loading the batch).
        quantum_seconds: the part of it inside the circuit layers (see `QuantumTimer`).
        device, threads: where it ran, torch's number of CPU threads.
    """

    model: str
    quantum: bool
    miou: float
    accuracy: float
    iou: dict[str, float | None]
    tiles: int
    steps: int
    batch_size: int
    crop: int
    step_seconds: float
    quantum_seconds: float
    device: str
    threads: int


@dataclass
class History:
    """The course of a training: the loss of each step, and (step, mIoU on the same few held-out tiles)."""

    losses: list[float]
    miou: list[tuple[int, float]]
    step_seconds: float = 0.0
    quantum_seconds: float = 0.0


class InMemory(Dataset[Sample]):
    """Generated scenes, drawn once, flipped and turned at each visit."""

    def __init__(self, scenes: GeneratedScenes) -> None:
        self.samples = [scenes[i] for i in tqdm(range(len(scenes)), desc="drawing scenes", unit="scene")]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Sample:
        return turn_at_random(self.samples[i])


def folder_classes(root: Path) -> ClassList:
    """The classes of a folder: its classes.json, or else every id up to the highest, in the masks' own colours."""
    if (root / CLASS_FILE).is_file():
        return load_classes(root / CLASS_FILE)
    masks = [mask for split in ("train", "val") for _, mask in find_pairs(root, split)]
    highest = max(int(ids[ids != IGNORE_INDEX].max(initial=1)) for ids in map(read_mask, masks))
    numbered = ClassList.numbered(highest + 1)
    own = mask_colours(masks[0])
    colours = tuple(own.get(i, colour) for i, colour in enumerate(numbered.colours))
    return ClassList(numbered.names, colours, numbered.ignore_ids)


def load_data(data: Path | None, classes: str | None, crop: int) -> tuple[Dataset[Sample], Dataset[Sample], ClassList]:
    """Training set, held-out set and classes."""
    if data is None:
        drawn = InMemory(GeneratedScenes(160, crop, seed=0))
        return drawn, GeneratedScenes(CURVE_TILES, crop, seed=1), SCENE_CLASSES
    known = load_classes(classes) if classes else folder_classes(data)
    warn_of_shared_images(data, ("train", "val"))
    training = FolderDataset(data, "train", known, crop, augment=True, keep_in_memory=True)
    return training, FolderDataset(data, "val", known, crop, keep_in_memory=True), known


@torch.no_grad()
def evaluate(task: SegmentationTask, tiles: Dataset[Sample], device: torch.device) -> dict[str, Tensor]:
    """miou, accuracy and iou."""
    task.eval()
    metrics = segmentation_metrics(len(task.classes)).to(device)
    for batch in tqdm(DataLoader(tiles, batch_size=8), desc="scoring", leave=False):
        metrics.update(task(*(tensor.to(device) for tensor in network_inputs(batch))), batch["mask"].to(device))
    task.train()
    scores: dict[str, Tensor] = metrics.compute()
    return scores


def train(
    task: SegmentationTask,
    training: Dataset[Sample],
    tiles: Dataset[Sample],
    seconds: float,
    batch_size: int,
    device: torch.device,
) -> History:
    """Trains for ``seconds`` of wall time, a step at least; the learning rate is a cosine of the time that has passed.

    Args:
        task: the network with its loss.
        training: samples to learn from.
        tiles: held-out samples for the curve.
        seconds: wall time, loading and evaluations included.
        batch_size: samples per step.
        device: where the task is.
    """
    timer = QuantumTimer(task)
    optimizer = make_optimizer(task, task.lr, task.weight_decay)
    batches = endless(DataLoader(training, batch_size=batch_size, shuffle=True))
    history = History([], [])
    task.train()
    start = now()
    with tqdm(total=round(seconds), desc="training", bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} s{postfix}") as bar:
        while (passed := now() - start) < seconds or not history.losses:
            warm_up = min(1.0, (len(history.losses) + 1) / WARM_UP_STEPS)
            for group in optimizer.param_groups:
                group["lr"] = task.lr * warm_up * (1 + math.cos(math.pi * min(passed / seconds, 1))) / 2
            batch = {name: tensor.to(device) for name, tensor in next(batches).items()}
            begin, circuits_before = now(), timer.seconds
            loss, _ = task.loss(batch)
            check_finite("loss", loss, len(history.losses))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.step_seconds += now() - begin
            history.quantum_seconds += timer.seconds - circuits_before
            history.losses.append(loss.item())
            if passed >= seconds * (len(history.miou) + 1) / EVALUATIONS:
                history.miou.append((len(history.losses), float(evaluate(task, tiles, device)["miou"])))
            recent = history.losses[-20:]
            score = f", mIoU {history.miou[-1][1]:.3f}" if history.miou else ""
            bar.n = min(round(now() - start), bar.total)
            bar.set_postfix_str(f"step {len(history.losses)}, loss {sum(recent) / len(recent):.3f}{score}")
    history.miou.append((len(history.losses), float(evaluate(task, tiles, device)["miou"])))
    return history


def endless(loader: DataLoader[Sample]) -> Iterator[Sample]:
    """Batches, epoch after epoch."""
    while True:
        yield from loader


def report(result: Result) -> str:
    """The table of metrics.md."""
    share = result.quantum_seconds / result.step_seconds
    rows = [
        ("mIoU", f"{result.miou:.3f}"),
        ("overall accuracy", f"{result.accuracy:.3f}"),
        *((f"IoU {name}", "does not occur" if iou is None else f"{iou:.3f}") for name, iou in result.iou.items()),
        ("training step", f"{1000 * result.step_seconds:.0f} ms"),
        ("of it in quantum layers", f"{1000 * result.quantum_seconds:.0f} ms = {100 * share:.1f} %"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"# {result.model}{'' if result.quantum else ', classical twin'}\n\n"
        f"{result.steps} steps of {result.batch_size} crops of {result.crop} x {result.crop} pixels; scored on "
        f"{result.tiles} held-out tiles of that size.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        f"A step is forward, backward and optimiser, without loading the batch; mean wall time on {result.device}, "
        f"{result.threads} CPU threads. The quantum layers are the patch circuits alone, forward and backward, without "
        "the convolutions around them. The backbone has random weights unless --pretrained was given.\n"
    )


def main(arguments: Sequence[str] | None = None) -> Result:
    """Trains, scores, and writes predictions.png, curve.png, metrics.md and metrics.json."""
    parser = argparse.ArgumentParser(prog="python -m hqfnet.demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with images/, masks/, train.txt, val.txt (default: scenes)")
    parser.add_argument("--classes", help=f"class file, or 'dubai' (default: {CLASS_FILE} in the folder, or numbers)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results (default: demo)")
    parser.add_argument("--minutes", type=float, default=3.0, help="training time (default: 3)")
    parser.add_argument("--model", choices=ARCHITECTURES, default="hqfnet_tiny", help="(default: hqfnet_tiny)")
    parser.add_argument("--pretrained", action="store_true", help="download the backbone's weights")
    parser.add_argument("--classical", action="store_true", help="train the classical twin instead")
    parser.add_argument("--crop", type=int, default=192, help="side of a crop in pixels (default: 192)")
    parser.add_argument("--batch-size", type=int, default=8, help="crops per step (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and crops (default: 0)")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes < math.inf:
        parser.error(f"--minutes: expected a positive time, got {options.minutes}")
    if options.batch_size < 1:
        parser.error(f"--batch-size: expected at least 1 crop, got {options.batch_size}")

    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training, held_out, classes = load_data(options.data, options.classes, options.crop)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {options.out} cannot be written to: {error}")
    task = SegmentationTask(
        options.model,
        len(classes),
        pretrained=options.pretrained,
        quantum=not options.classical,
        class_names=list(classes.names),
        class_colours=list(classes.colours),
        lr=2e-3,
    ).to(device)
    tiles = Subset(held_out, every_nth(len(held_out), CURVE_TILES))  # type: ignore[arg-type]
    history = train(task, training, tiles, 60 * options.minutes, options.batch_size, device)
    scores = evaluate(task, held_out, device)
    steps = len(history.losses)
    result = Result(
        model=options.model,
        quantum=not options.classical,
        miou=float(scores["miou"]),
        accuracy=float(scores["accuracy"]),
        iou={name: None if iou.isnan() else float(iou) for name, iou in zip(classes.names, scores["iou"], strict=True)},
        tiles=len(held_out),  # type: ignore[arg-type]
        steps=steps,
        batch_size=options.batch_size,
        crop=options.crop,
        step_seconds=history.step_seconds / steps,
        quantum_seconds=history.quantum_seconds / steps,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        threads=torch.get_num_threads(),
    )
    (options.out / "metrics.json").write_text(json.dumps(asdict(result), indent=2) + "\n")
    (options.out / "metrics.md").write_text(report(result))
    draw_curve(history.losses, history.miou, len(tiles), options.out / "curve.png")
    title = f"{options.model}: mIoU {result.miou:.3f}, overall accuracy {result.accuracy:.3f} on held-out tiles"
    shown = [held_out[i] for i in richest_tiles(held_out, PICTURE_TILES, len(classes))]
    draw_predictions(task, shown, classes, title, options.out / "predictions.png")
    print(report(result))
    print(f"Pictures and tables are in {options.out}/")
    return result


if __name__ == "__main__":
    with in_one_line():
        main()
