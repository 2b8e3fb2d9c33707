"""Fixtures of the hqfnet tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder: two training images, one for validation, 3 classes, id 9 to be ignored."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for stem, (height, width) in {"a": (70, 100), "b": (64, 64), "c": (50, 90)}.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
        mask = Image.fromarray(rng.choice([0, 1, 2, 9], (height, width)).astype(np.uint8), mode="P")
        mask.putpalette([k for i in range(10) for k in (10 * i, 0, 255 - i)])
        mask.save(root / "masks" / f"{stem}.png")
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    return root


def write_raster(path: Path, pixels: npt.NDArray[np.integer], **profile: object) -> None:
    """Writes (bands, H, W) as a GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    place = {"crs": "EPSG:32632", "transform": from_origin(664800, 5342400, 10, 10)}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=pixels.dtype, **place, **profile
    ) as raster:
        raster.write(pixels)


@pytest.fixture
def landcoverai(tmp_path: Path) -> Path:
    """LandCover.ai after its split.py: chips (64 x 64 here) named <tile>_<k>, grey masks in three equal channels."""
    rng = np.random.default_rng(0)
    root = tmp_path / "landcoverai"
    (root / "output").mkdir(parents=True)
    chips = [f"M-33-20-D-c-4-2_{k}" for k in range(5)]
    for chip in chips:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / "output" / f"{chip}.jpg")
        mask = rng.integers(0, 5, (64, 64, 1), dtype=np.uint8).repeat(3, axis=2)
        Image.fromarray(mask).save(root / "output" / f"{chip}_m.png")
    for split, names in {"train": chips[:3], "val": chips[3:4], "test": chips[4:]}.items():
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.fixture
def seasonet(tmp_path: Path) -> Path:
    """SeasoNet unpacked: one patch for each season and grid, files of 10, 20 and 60 m, labels from 0 (none) to 33."""
    rng = np.random.default_rng(0)
    root = tmp_path / "seasonet"
    rows = ["Index,Season,Grid,Latitude,Longitude,Satellite,Year,Month,Day,Hour,Minute,Second,Clouds,Snow,Classes,Path"]
    for season in ("spring", "summer", "fall", "winter", "snow"):
        for grid in (1, 2):
            patch = f"32UME_20180418T104021_53_{grid}_7_5"
            folder = f"{season}/grid{grid}/{patch}"
            for kind, bands, side in (("10m_RGB", 3, 120), ("10m_IR", 1, 120), ("20m", 6, 60), ("60m", 2, 20)):
                pixels = rng.integers(0, 6000, (bands, side, side)).astype(np.uint16)
                write_raster(root / folder / f"{patch}_{kind}.tif", pixels)
            labels = rng.integers(0, 34, (1, 120, 120)).astype(np.uint8)
            write_raster(root / folder / f"{patch}_labels.tif", labels)
            rows.append(
                f"{len(rows) - 1},{season.capitalize()},{grid},53.{grid},7.5,A,2018,4,18,10,40,21,0,0,'2',{folder}"
            )
    (root / "meta.csv").write_text("\n".join(rows) + "\n")
    (root / "splits").mkdir()
    for split, indices in {"train": range(6), "val": range(6, 8), "test": range(8, 10)}.items():
        (root / "splits" / f"{split}.csv").write_text("".join(f"{i}\n" for i in indices))
    return root


@pytest.fixture
def openearthmap(tmp_path: Path) -> Path:
    """OpenEarthMap unpacked: regions with images and labels from 0 (none) to 8, an image of xBD left out."""
    rng = np.random.default_rng(0)
    root = tmp_path / "openearthmap"
    folder = root / "OpenEarthMap_wo_xBD"
    splits = {
        "train": ["aachen_1.tif", "el_rodeo_1.tif", "kujawsko-pomorskie_2.tif"],
        "val": ["aachen_2.tif"],
        "test": ["aachen_3.tif"],
    }
    for split, names in splits.items():
        for name in names:
            region = name.rpartition("_")[0]
            height, width = (70, 90) if name == "aachen_1.tif" else (64, 64)
            if region != "el_rodeo":
                write_raster(
                    folder / region / "images" / name, rng.integers(0, 256, (3, height, width)).astype(np.uint8)
                )
            if split != "test":
                write_raster(folder / region / "labels" / name, rng.integers(0, 9, (1, height, width)).astype(np.uint8))
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "xbd_files.csv").write_text("guatemala-volcano_00000000_pre_disaster.png,el_rodeo_1.tif\n")
    return root
