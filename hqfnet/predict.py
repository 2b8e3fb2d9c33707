"""``hqfnet predict``: segmentation of a scene of any size, by overlapping windows, in bounded memory."""

from __future__ import annotations

import argparse
import html
import inspect
import os
import re
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import torch
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from torch import Tensor, nn
from tqdm import tqdm

from hqfnet.data.classes import ClassList
from hqfnet.data.raster import (
    GDAL_ERRORS,
    IMAGES,
    DamagedFileError,
    Valid,
    data_bands,
    first_cause,
    may_miss_data,
    open_raster,
    read_valid,
    to_unit,
)

PREVIEW_SIDE = 2048
NODATA = 255
"""Class id of pixels without data."""

CACHE_MEGABYTES = 256
"""Of GDAL's block cache, which would otherwise take a share of the whole memory."""

DRIVERS = {".tif": "COG", ".tiff": "COG", ".png": "PNG"}
SUFFIXES = {"target": (".tif", ".tiff", ".png"), "probabilities": (".tif", ".tiff"), "preview": (".png",)}


def predict_scene(
    model: nn.Module | str | Path,
    source: str | Path,
    target: str | Path,
    *,
    classes: ClassList | None = None,
    probabilities: str | Path | None = None,
    preview: str | Path | None = None,
    window: int = 512,
    overlap: float = 0.25,
    batch_size: int = 1,
    bands: Sequence[int] | None = None,
    scale: float | None = None,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Writes the class ids of an image of any size to ``target``, and returns that path.

    The image is read and predicted window by window; where windows overlap, their class probabilities are averaged
    with weights that fall towards the border of a window. Memory holds one row of windows as probabilities, however
    tall the image is.

    A GeoTIFF is cloud-optimised and has the georeference of the source, the class colours as colour table, the class
    names as tags ``class_0``, ``class_1``, ..., and class `NODATA` where the source has no data (see
    `hqfnet.data.raster.read_valid`). A PNG has the colours and nothing else. Every file is written
    under another name and renamed when it is whole; where it replaces another one, the side files of that one
    (overviews, statistics, masks, world files) are removed, which would be read with the new one.

    Args:
        model: a checkpoint of hqfnet, or a module that maps (B, C, H, W) in [0, 1] to logits (B, num_classes, H, W)
            and has ``in_channels``; it runs in evaluation mode. Where its ``forward`` has an argument ``valid``, that
            tells it where there is data (B, C, H, W), bool.
        source: the image, in any format that GDAL reads.
        target: .tif, .tiff or .png.
        classes: names and colours; by default the model's own, or numbered classes.
        probabilities: a .tif for the probabilities, one float32 band per class, NaN where there is no data.
        preview: a .png for a colour picture of at most 2048 pixels a side.
        window: side of a window in pixels.
        overlap: share of a window that the next one covers again, in [0, 1).
        batch_size: windows that are predicted at once.
        bands: numbers of the bands to read, from 1 on, in the order of the model's channels; by default all but alpha.
        scale: pixel value that becomes 1; by default that of the model's training, or else the largest value of an
            integer type, and 1 for floats.
        device: where to run; by default where the model is, a GPU if there is one for a checkpoint.
        overwrite: replace files that exist.
        progress: show a progress bar.

    Raises:
        ValueError: an argument out of range, an image that cannot be read or whose bands do not fit the model, a result
            of the model that is not finite, or a file that exists, could not be written, is of another kind or is what
            the source is read from; nothing has been written then.
    """
    source, target = Path(source), Path(target)
    _check_numbers(window, overlap, batch_size, scale)
    others = {"probabilities": probabilities, "preview": preview}
    outputs = {"target": target} | {name: Path(path) for name, path in others.items() if path}
    _check_outputs(outputs, source, overwrite)
    if device is not None:
        _check_device(device)

    network = _module(model, device)
    classes = classes or getattr(network, "classes", None)
    if scale is None and isinstance(settings := getattr(network, "hparams", None), dict):
        scale = settings.get("scale")
    with _open(source) as raster, _naming_failure(target), ExitStack() as stack:
        _check_sources(outputs, raster)
        scene = Scene(raster, _chosen_bands(raster, source, bands, network), scale)
        placed = raster.crs or raster.gcps[0] or raster.rpcs or not raster.transform.is_identity
        if not placed and target.suffix.lower() != ".png":
            warnings.warn(f"{source}: has no georeference, so {target} has none either", stacklevel=2)
        work = Path(stack.enter_context(_work_folder(target)))
        step = max(round(window * (1 - overlap)), 1)
        rows = blended_rows(network, scene, window, step, batch_size, progress)
        ids_path, shares_path = work / "ids.tif", work / "shares.tif"
        with ExitStack() as writing:
            ids_file = shares_file = None
            for top, shares, valid in rows:
                if ids_file is None:
                    classes = classes or ClassList.numbered(len(shares))
                    if len(classes) != len(shares):
                        raise ValueError(f"classes: got {len(classes)}, but the model has {len(shares)}")
                    ids_file = writing.enter_context(_create_ids(ids_path, scene, classes))
                    if probabilities is not None:
                        shares_file = writing.enter_context(_create_shares(shares_path, scene, classes))
                here = Window(0, top, scene.width, shares.shape[1])
                ids = shares.argmax(dim=0).to(torch.uint8).cpu().numpy()
                ids_file.write(np.where(valid, ids, NODATA).astype(np.uint8), 1, window=here)
                if shares_file is not None:
                    shares_file.write(np.where(valid, shares.cpu().numpy(), np.float32(np.nan)), window=here)
        assert classes is not None
        finished = {target: _translate(ids_path, work / f"ids-whole{target.suffix}", target, "MODE")}
        if probabilities is not None:
            path = Path(probabilities)
            finished[path] = _translate(shares_path, work / f"shares-whole{path.suffix}", path, "AVERAGE")
        if preview is not None:
            _write_preview(ids_path, work / "preview.png", classes)
            finished[Path(preview)] = work / "preview.png"
        for path, whole in finished.items():
            _move(whole, path)
    return target


@dataclass(frozen=True)
class Scene:
    """An open image, and what of it the model sees.

    Attributes:
        raster: the open file.
        bands: numbers from 1 on.
        scale: pixel value that becomes 1; None for the type's own.
    """

    raster: rasterio.DatasetReader
    bands: list[int]
    scale: float | None

    @property
    def height(self) -> int:
        return self.raster.height

    @property
    def width(self) -> int:
        return self.raster.width

    def read(self, window: Window) -> tuple[npt.NDArray[np.float32], Valid]:
        """Pixels for the model, 0 where there is no data, and where there is, both (C, h, w)."""
        pixels, valid = read_valid(self.raster, self.bands, window)
        return to_unit(pixels, self.scale), valid


@torch.no_grad()
def blended_rows(
    model: nn.Module, scene: Scene, window: int, step: int, batch_size: int, progress: bool = False
) -> Iterator[tuple[int, Tensor, npt.NDArray[np.bool_]]]:
    """Yields the scene in pieces of h rows, from top to bottom.

    A piece is its first row, probabilities (num_classes, h, width), and where there is data (h, width). Windows
    without any data are not predicted.
    """
    device = next(model.parameters()).device
    # torch.compile hides what the network takes.
    takes_valid = "valid" in inspect.signature(getattr(model, "_orig_mod", model).forward).parameters
    was_training = model.training
    model.eval()
    high, wide = min(window, scene.height), min(window, scene.width)
    weights = blend_weights(high, wide).to(device)
    tops, lefts = window_starts(scene.height, high, step), window_starts(scene.width, wide, step)
    strip: Tensor | None = None  # (num_classes + 1, high, width): weighted sums of probabilities, and the weights
    valid = np.zeros((high, scene.width), bool)
    try:
        with tqdm(total=len(tops) * len(lefts), unit="window", disable=not progress) as bar:
            for top, following in zip(tops, [*tops[1:], scene.height], strict=True):
                for first in range(0, len(lefts), batch_size):
                    columns = lefts[first : first + batch_size]
                    windows = [scene.read(Window(left, top, wide, high)) for left in columns]
                    images, data = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*windows, strict=True))
                    for left, (_, there) in zip(columns, windows, strict=True):
                        valid[:, left : left + wide] = there.any(axis=0)
                    if strip is None or any(there.any() for _, there in windows):
                        known = {"valid": data} if takes_valid else {}
                        scores = model(images, **known).float().softmax(dim=1) * weights
                        if not scores.isfinite().all():
                            raise ValueError(
                                f"{scene.raster.name}: the model's result is not a number for the windows of {wide} x "
                                f"{high} pixels at row {top}, columns {columns}; pixels there reach "
                                f"{images.abs().max():.3g}"
                            )
                        if strip is None:
                            strip = scores.new_zeros(scores.shape[1] + 1, high, scene.width)
                        for left, score in zip(columns, scores, strict=True):
                            strip[:-1, :, left : left + wide] += score
                            strip[-1, :, left : left + wide] += weights
                    bar.update(len(columns))
                assert strip is not None
                done = min(following - top, high)
                yield top, strip[:-1, :done] / strip[-1, :done].clamp(min=1e-12), valid[:done].copy()
                # What the next row of windows overlaps moves to the top of the strip.
                strip = torch.cat([strip[:, done:], torch.zeros_like(strip[:, :done])], dim=1)
    finally:
        model.train(was_training)


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Where windows start along one side: every ``step``, the last one flush with the end."""
    last = max(length - window, 0)
    return [*range(0, last, step), last]


def blend_weights(height: int, width: int) -> Tensor:
    """(height, width) weights of a window: 1 in its middle, falling linearly to its border, never 0."""
    rows, columns = (1 - (torch.arange(n) - (n - 1) / 2).abs() / (n / 2 + 0.5) for n in (height, width))
    return rows[:, None] * columns[None, :]


def colourize(ids: npt.NDArray[np.integer], palette: Sequence[tuple[int, int, int]]) -> npt.NDArray[np.uint8]:
    """Class ids (H, W) to colours (H, W, 3); ids without a colour become white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[ids]


def _module(model: nn.Module | str | Path, device: str | torch.device | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return model if device is None else model.to(device)
    from hqfnet.task import load_task  # Lightning and torchmetrics take seconds to import

    return load_task(model).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _check_numbers(window: int, overlap: float, batch_size: int, scale: float | None) -> None:
    if window < 1:
        raise ValueError(f"window: expected at least 1 pixel, got {window}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap: expected a share in [0, 1), got {overlap}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1 window, got {batch_size}")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale: expected a positive pixel value, got {scale}")


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        raise ValueError(f"device: '{device}' cannot be used: {error}") from error


def _check_outputs(outputs: Mapping[str, Path], source: Path, overwrite: bool) -> None:
    for name, path in outputs.items():
        if path.suffix.lower() not in SUFFIXES[name]:
            raise ValueError(f"{name}: expected a file name that ends in {' or '.join(SUFFIXES[name])}, got {path}")
        if not path.parent.is_dir():
            raise ValueError(f"{name}: there is no folder {path.parent} to write {path.name} to")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"{name}: the folder {path.parent} cannot be written to")
        if path.is_dir():
            raise ValueError(f"{name}: {path} is a folder")
        if path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f"{name}: {path} is the source itself")
        for file in [path, *_side_files(path)]:
            if os.path.lexists(file) and not overwrite:
                raise ValueError(f"{name}: {file} exists; it is only replaced when asked to (overwrite)")
    if len({path.resolve() for path in outputs.values()}) < len(outputs):
        raise ValueError(f"{', '.join(outputs)}: expected different files, got {', '.join(map(str, outputs.values()))}")


def _check_sources(outputs: Mapping[str, Path], raster: rasterio.DatasetReader) -> None:
    """Refuses to replace what the source is read from."""
    replaced = [(name, file) for name, path in outputs.items() for file in [path, *_side_files(path)] if file.exists()]
    if not replaced:
        return
    behind = [file for name in _files_behind(raster) for file in _files_named(name)]
    for name, file in replaced:
        if any(file.samefile(other) for other in behind):
            raise ValueError(f"{name}: the source {raster.name} is read from {file}, which would be replaced")


def _files_behind(raster: rasterio.DatasetReader) -> set[str]:
    """GDAL's names of all that a raster is read from: for a VRT its sources, and what those are read from."""
    found: set[str] = set()
    waiting = {raster.name}
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            with open_raster(name) as inner:
                waiting |= set(inner.files) - found
                is_vrt = inner.driver == "VRT"
        except DamagedFileError:  # a side file that is no raster
            continue
        if is_vrt and os.path.isfile(name):
            # GDAL leaves out the sources of a VRT's masks.
            texts = map(html.unescape, re.findall(r">\s*([^<>]+?)\s*<", Path(name).read_text(errors="replace")))
            paths = {path for text in texts for path in (text, os.path.join(os.path.dirname(name), text))}
            waiting |= set(filter(os.path.isfile, paths)) - found
    return found


def _files_named(name: str) -> list[Path]:
    """The files that a name of GDAL's is about: itself, or FILE in ``/vsisubfile/0_100,FILE``, ``FORMAT:1:FILE``."""
    parts = [name, *re.split(r'[,:?&="]+', name)]
    tails = [part[start:] for part in parts for start in [0, *(slash.start() for slash in re.finditer("/", part))]]
    heads = ["/".join(tail.split("/")[:count]) for tail in tails for count in range(1, tail.count("/") + 2)]
    return [Path(head) for head in dict.fromkeys(heads) if os.path.isfile(head)]


def _side_files(path: Path) -> list[Path]:
    """The files that GDAL would read together with a raster of this name, or has read with the one that is there."""
    letters = path.suffix[1:].lower()
    own = re.compile(
        rf"{re.escape(path.name.lower())}\.(ovr|msk|aux\.xml)(\..*)?|"
        rf"{re.escape(path.stem.lower())}\.({letters[0]}{letters[-1]}|{letters})w"
    )
    siblings = [file for file in path.parent.iterdir() if file != path]
    found = {file for file in siblings if own.fullmatch(file.name.lower())}
    # Others of its stem (.wld, .RPB, ...) may be those of another raster.
    if not any(file.stem == path.stem and file.suffix.lower() in IMAGES for file in siblings):
        try:
            with open_raster(path) as raster:
                files = {Path(name) for name in raster.files} if raster.driver in ("GTiff", "PNG") else set()
        except DamagedFileError:
            files = set()
        found |= files & set(siblings)
    return sorted(found)


def _chosen_bands(
    raster: rasterio.DatasetReader, source: Path, bands: Sequence[int] | None, model: nn.Module
) -> list[int]:
    if bands is None:
        chosen, advice = data_bands(raster), "; choose by the argument bands"
    else:
        chosen, advice = list(bands), ""
        missing = [i for i in chosen if i not in raster.indexes]
        if missing:
            raise ValueError(f"bands: {source} has bands 1 to {raster.count}, got {missing}")
    channels = int(model.in_channels)  # type: ignore[arg-type]
    if len(chosen) != channels:
        raise ValueError(f"bands: the model expects {channels}, got {len(chosen)} of {source}{advice}")
    return chosen


@contextmanager
def _open(path: Path) -> Iterator[rasterio.DatasetReader]:
    with ExitStack() as stack:
        try:
            raster = stack.enter_context(open_raster(path, GDAL_CACHEMAX=CACHE_MEGABYTES))
        except DamagedFileError as error:
            raise ValueError(f"source: {path} cannot be read as an image: {error.__cause__}") from error
        yield raster


@contextmanager
def _naming_failure(target: Path) -> Iterator[None]:
    """Errors of writing, as the one that is documented; those of reading have become it before."""
    try:
        yield
    except (*GDAL_ERRORS, OSError) as error:
        free = shutil.disk_usage(target.parent).free / 2**20
        raise ValueError(
            f"target: {target} could not be written: {first_cause(error)} ({free:.0f} MiB are free in {target.parent})"
        ) from error


def _work_folder(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder beside the target, so that renaming is enough in the end; removed whatever happens."""
    try:
        return tempfile.TemporaryDirectory(prefix=".hqfnet-", dir=target.parent)
    except OSError as error:
        raise ValueError(f"target: the folder {target.parent} cannot be written to: {error}") from error


def _create(path: Path, scene: Scene, **profile: Any) -> rasterio.io.DatasetWriter:
    raster = scene.raster
    points, points_crs = raster.gcps
    # A GeoTIFF has either; a transform says more, unless it is the only one that lacks its coordinate system.
    placed = not raster.transform.is_identity and (raster.crs or not points_crs)
    place = (
        {"gcps": points, "crs": points_crs or CRS()}
        if points and not placed
        else {"crs": raster.crs, "transform": raster.transform}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(
            path, "w", driver="GTiff", height=scene.height, width=scene.width, rpcs=raster.rpcs, bigtiff="IF_SAFER",
            **place, **profile,
        )  # fmt: skip


def _create_ids(path: Path, scene: Scene, classes: ClassList) -> rasterio.io.DatasetWriter:
    file = _create(path, scene, count=1, dtype="uint8", nodata=NODATA if may_miss_data(scene.raster) else None)
    file.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(classes.palette)})
    file.update_tags(**{f"class_{i}": name for i, name in enumerate(classes.names)})
    return file


def _create_shares(path: Path, scene: Scene, classes: ClassList) -> rasterio.io.DatasetWriter:
    nodata = float("nan") if may_miss_data(scene.raster) else None
    file = _create(path, scene, count=len(classes), dtype="float32", nodata=nodata)
    file.descriptions = classes.names
    return file


def _translate(whole: Path, translated: Path, target: Path, resampling: str) -> Path:
    """The file in the format of the target."""
    driver = DRIVERS[target.suffix.lower()]
    options = (
        {"compress": "deflate", "overview_resampling": resampling, "bigtiff": "IF_SAFER"} if driver == "COG" else {}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        rasterio.shutil.copy(whole, translated, driver=driver, **options)
    return translated


def _write_preview(ids_path: Path, preview: Path, classes: ClassList) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(ids_path) as file:
            factor = min(1.0, PREVIEW_SIDE / max(file.height, file.width))
            shape = (max(round(file.height * factor), 1), max(round(file.width * factor), 1))
            ids = file.read(1, out_shape=shape, resampling=Resampling.mode)
    Image.fromarray(colourize(ids, classes.palette)).save(preview)


def _move(whole: Path, path: Path) -> None:
    if whole.parent.stat().st_dev != path.parent.stat().st_dev:
        # Another file system: copied under another name first, so that the last step is a renaming there as well.
        with _work_folder(path) as folder:
            copied = Path(folder) / path.name
            shutil.copyfile(whole, copied)
            _move(copied, path)
        return
    for file in _side_files(path):
        file.unlink()
    os.replace(whole, path)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, so that no work folder is left; where they are ignored, they stay so."""
    handled = [kind for kind in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) != signal.SIG_IGN]

    def end(number: int, _: Any) -> None:
        for kind in handled:
            signal.signal(kind, signal.SIG_IGN)  # a second one must not end the clearing up
        raise SystemExit(128 + number)

    before = [signal.signal(kind, end) for kind in handled]
    try:
        yield
    finally:
        for kind, handler in zip(handled, before, strict=True):
            signal.signal(kind, handler)


def main(arguments: Sequence[str] | None = None) -> Path:
    """The command line; see `predict_scene`."""
    parser = argparse.ArgumentParser(prog="hqfnet predict", description="Segments an image of any size.")
    parser.add_argument("source", type=Path, help="the image, in any format that GDAL reads")
    parser.add_argument("-o", "--output", type=Path, required=True, help="class ids: .tif (cloud-optimised) or .png")
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of hqfnet fit")
    parser.add_argument("--probabilities", type=Path, help=".tif for the probabilities of all classes")
    parser.add_argument("--preview", type=Path, help=".png for a colour picture")
    parser.add_argument("--window", type=int, default=512, help="side of a window in pixels (%(default)s)")
    parser.add_argument("--overlap", type=float, default=0.25, help="share of a window, in [0, 1) (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=1, help="windows predicted at once (%(default)s)")
    parser.add_argument("--bands", type=int, nargs="+", help="bands to read, from 1 on (all but alpha)")
    parser.add_argument("--scale", type=float, help="pixel value that becomes 1 (that of the training)")
    parser.add_argument("--device", help="as torch names it (a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="torch's CPU threads")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        if options.threads < 1:
            parser.error(f"--threads: expected at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    with _ended_by_signals():
        return predict_scene(
            options.checkpoint,
            options.source,
            options.output,
            probabilities=options.probabilities,
            preview=options.preview,
            window=options.window,
            overlap=options.overlap,
            batch_size=options.batch_size,
            bands=options.bands,
            scale=options.scale,
            device=options.device,
            overwrite=options.overwrite,
            progress=True,
        )
