"""What the pages about hqfnet show runs, on small networks and images."""

import shlex
import sys

import numpy as np
import rasterio
import torch

from hqfnet.cli import main
from tests import pages
from tests.hqfnet.conftest import write_raster


def test_geotiff(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def shell(line: str) -> None:
        words = shlex.split(line.replace("\\\n", " "))
        assert words[0] == "hqfnet"
        monkeypatch.setattr(sys, "argv", words)
        main()

    smaller = {
        "side = 1024": "side = 128", "--data.crop 256": "--data.crop 64", "hqfnet_tiny": "hq_unet",
        "max_epochs 40": "max_epochs 1 --trainer.accelerator cpu --trainer.enable_progress_bar false",
        "--preview map.png": "--preview map.png --window 64 --device cpu",
    }  # fmt: skip
    names = pages.run("docs/tutorials/geotiff.md", smaller, shell=shell)
    with rasterio.open("scene.tif") as scene, rasterio.open("map.tif") as found:
        assert (found.crs, found.bounds, found.shape) == (scene.crs, scene.bounds, scene.shape)
        assert found.tags()["class_4"] == "water"
        assert set(np.unique(found.read(1))) <= set(range(5))
    with rasterio.open("field/masks/west.tif") as west, rasterio.open("field/masks/east.tif") as east:
        parts = west.read(1), east.read(1)
        assert (west.bounds.right, west.crs) == (east.bounds.left, east.crs)
    np.testing.assert_array_equal(np.concatenate(parts, 1), names["ids"])


def test_guide(monkeypatch, tmp_path, landcoverai):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIR").symlink_to(landcoverai)
    write_raster(tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 256, (3, 40, 48)).astype(np.uint8))

    names = {"images": torch.rand(2, 3, 33, 40), "loss": torch.zeros(())}
    smaller = {"hqfnet_small": "hq_unet", ", pretrained=True": "", '"best.ckpt"': "model"}
    pages.run("docs/hqfnet.md", smaller, names)
    assert names["logits"].shape == (2, 5, 33, 40)
    with rasterio.open("classes.tif") as found:
        assert found.shape == (40, 48)
