"""Prediction by overlapping windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin
from torch import Tensor, nn

from hqfnet.data import ClassList
from hqfnet.predict import blend_weights, predict_file, window_starts, write_prediction


class Brightest(nn.Module):
    """The class of a pixel is its brightest channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images


class Centred(Brightest):
    """Class 0 wins, weakly, except at the border of a window, where class 1 wins by much."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros_like(images)
        logits[:, 1] = 8
        logits[:, 1, 4:-4, 4:-4] = 0
        logits[:, 0, 4:-4, 4:-4] = 2
        return logits


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("window", [16, 33, 70, 101, 512])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_agree_with_the_whole(picture: Path, window: int, overlap: float) -> None:
    ids = predict_file(Brightest(), picture, 3, window, overlap)
    assert np.array_equal(ids, np.array(Image.open(picture)).argmax(axis=2))


def test_the_middle_of_a_window_counts_more_than_its_border(picture: Path) -> None:
    without = predict_file(Centred(), picture, 3, 32, 0.0)
    blended = predict_file(Centred(), picture, 3, 32, 0.5)
    inside = (slice(4, -4), slice(4, -4))
    assert (without[inside] == 1).mean() > 0.2
    assert (blended[inside] == 1).mean() < 0.05


@pytest.mark.parametrize(("length", "window", "step"), [(100, 32, 24), (32, 32, 8), (10, 32, 24), (65, 32, 32)])
def test_window_starts_cover_a_side(length: int, window: int, step: int) -> None:
    starts = window_starts(length, window, step)
    covered = np.zeros(length)
    for start in starts:
        assert start >= 0
        assert start + min(window, length) <= length
        covered[start : start + window] += 1
    assert covered.min() >= 1
    assert starts == sorted(set(starts))


def test_blend_weights_fall_to_the_border() -> None:
    weights = blend_weights(9, 6)
    assert weights.min() > 0
    assert weights[4, 2] == weights.max() <= 1
    assert torch.equal(weights, weights.flip(0, 1))


def test_georeference_is_kept(tmp_path: Path) -> None:
    source, out = tmp_path / "scene.tif", tmp_path / "out"
    place = {"crs": "EPSG:32640", "transform": from_origin(300000, 2800000, 0.5, 0.5)}
    pixels = np.random.default_rng(1).integers(0, 65536, (3, 60, 40)).astype(np.uint16)
    with rasterio.open(source, "w", driver="GTiff", height=60, width=40, count=3, dtype="uint16", **place) as raster:
        raster.write(pixels)
    classes = ClassList.numbered(3)
    target = write_prediction(predict_file(Brightest(), source, 3, 32), source, out, classes)
    assert target == out / "scene.tif"
    with rasterio.open(target) as raster:
        assert raster.crs == rasterio.CRS.from_epsg(32640)
        assert raster.transform == place["transform"]
        assert np.array_equal(raster.read(1), pixels.argmax(axis=0))
        assert raster.colormap(1)[2][:3] == classes.palette[2]
    assert Image.open(out / "scene_preview.png").size == (40, 60)


def test_png_without_georeference(picture: Path, tmp_path: Path) -> None:
    classes = ClassList.numbered(3)
    ids = predict_file(Brightest(), picture, 3)
    target = write_prediction(ids, picture, tmp_path / "out", classes)
    assert target.name == "picture.png"
    with Image.open(target) as written:
        assert written.mode == "P"
        assert np.array_equal(np.array(written), ids)
        assert written.convert("RGB").getpixel((0, 0)) == classes.palette[ids[0, 0]]


def test_bad_arguments(picture: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="window: expected at least 1 pixel, got 0"):
        predict_file(Brightest(), picture, 3, window=0)
    with pytest.raises(ValueError, match=r"overlap: expected a share in \[0, 1\), got 1"):
        predict_file(Brightest(), picture, 3, overlap=1)
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match=r"no\.png: cannot be read as an image"):
        predict_file(Brightest(), tmp_path / "no.png", 3)
