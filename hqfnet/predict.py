"""Prediction on images of any size, by overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from PIL import Image
from rasterio.windows import Window
from torch import Tensor, nn

from hqfnet.data.classes import ClassList
from hqfnet.data.raster import georeference, raster_size, read_image, to_unit

PREVIEW_SIDE = 2048


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Where windows start along one side: every ``step``, the last one flush with the end."""
    last = max(length - window, 0)
    return [*range(0, last, step), last]


def blend_weights(height: int, width: int) -> Tensor:
    """(height, width) weights of a window: 1 in its middle, falling linearly to its border, never 0."""
    rows, columns = (1 - (torch.arange(n) - (n - 1) / 2).abs() / (n / 2 + 0.5) for n in (height, width))
    return rows[:, None] * columns[None, :]


@torch.no_grad()
def predict_file(
    model: nn.Module, path: Path, channels: int, window: int = 512, overlap: float = 0.25
) -> npt.NDArray[np.uint8]:
    """Class ids of an image of any size.

    The image is read and predicted window by window; where windows overlap, their class probabilities are averaged
    with weights that fall towards the border of a window. Only one row of windows is held as probabilities.

    Args:
        model: (1, channels, H, W) in [0, 1] -> logits (1, num_classes, H, W); it is used as it is (call ``eval()``).
        path: the image, in any format that GDAL reads.
        channels: bands to read.
        window: side of a window in pixels.
        overlap: share of a window that the next one covers again, in [0, 1).

    Returns:
        (H, W) uint8.

    Raises:
        ValueError: an argument out of range, or an image that cannot be read.
    """
    if window < 1:
        raise ValueError(f"window: expected at least 1 pixel, got {window}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap: expected a share in [0, 1), got {overlap}")
    device = next(model.parameters()).device
    height, width = raster_size(path)
    high, wide = min(window, height), min(window, width)
    weights = blend_weights(high, wide).to(device)
    step = max(round(window * (1 - overlap)), 1)
    tops, lefts = window_starts(height, high, step), window_starts(width, wide, step)
    ids = np.empty((height, width), np.uint8)
    strip: Tensor | None = None  # (num_classes, high, width): weighted probabilities from the current top on
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        for left in lefts:
            pixels = to_unit(read_image(path, channels, Window(left, top, wide, high)))
            scores = model(torch.from_numpy(pixels).to(device)[None])[0].float().softmax(dim=0) * weights
            if strip is None:
                strip = scores.new_zeros(len(scores), high, width)
            strip[:, :, left : left + wide] += scores
        assert strip is not None
        done = min(following - top, high)
        ids[top : top + done] = strip[:, :done].argmax(dim=0).cpu().numpy()
        # What the next row of windows overlaps moves to the top of the strip.
        strip = torch.cat([strip[:, done:], torch.zeros_like(strip[:, :done])], dim=1)
    return ids


def write_prediction(ids: npt.NDArray[np.uint8], source: Path, folder: Path, classes: ClassList) -> Path:
    """Writes class ids beside a colour preview, and returns the path of the class ids.

    ``<stem>.tif`` with the source's georeference where it has one, ``<stem>.png`` otherwise, both with the class
    colours as palette; ``<stem>_preview.png`` is a colour picture of at most 2048 pixels a side.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids, mode="P")
    picture.putpalette([value for colour in classes.palette for value in colour])
    place = georeference(source)
    if place is None:
        target = folder / f"{source.stem}.png"
        picture.save(target)
    else:
        target = folder / f"{source.stem}.tif"
        height, width = ids.shape
        with rasterio.open(
            target, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", compress="deflate", **place
        ) as raster:
            raster.write(ids, 1)
            raster.write_colormap(1, {i: (*colour, 255) for i, colour in enumerate(classes.palette)})
    preview = picture.convert("RGB")
    preview.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    preview.save(folder / f"{source.stem}_preview.png")
    return target


def colourize(ids: npt.NDArray[np.integer], palette: Sequence[tuple[int, int, int]]) -> npt.NDArray[np.uint8]:
    """Class ids (H, W) to colours (H, W, 3); ids without a colour become white."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table[ids]
