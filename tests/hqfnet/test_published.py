"""The published data sets, from tiny files in their layouts: samples, splits, bad files, one step of each config."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torchgeo.datasets import DatasetNotFoundError

from hqfnet.cli import main
from hqfnet.data import IGNORE_INDEX, LandCoverAIData, OpenEarthMap, OpenEarthMapData, SeasoNetData
from hqfnet.data import openearthmap as module
from hqfnet.data.raster import DamagedFileError
from tests.hqfnet.conftest import write_raster

matplotlib.use("Agg")


def read_labels(path: Path) -> torch.Tensor:
    with rasterio.open(path) as raster:
        return torch.from_numpy(raster.read(1).astype(np.int64))


def test_landcoverai_samples(landcoverai: Path) -> None:
    data = LandCoverAIData(str(landcoverai), crop=64, workers=0)
    assert data.class_names == ["Background", "Building", "Woodland", "Water", "Road"]
    assert data.class_colours[3] == "#00C5FF"
    sample = data.dataset("val")[0]
    image = np.array(Image.open(landcoverai / "output" / "M-33-20-D-c-4-2_3.jpg"))
    ids = np.array(Image.open(landcoverai / "output" / "M-33-20-D-c-4-2_3_m.png"))[..., 0]
    np.testing.assert_allclose(sample["image"].numpy(), image.transpose(2, 0, 1) / 255, atol=1e-6)
    assert np.array_equal(sample["mask"].numpy(), ids)
    assert [len(data.dataset(stage)) for stage in ("train", "val", "test")] == [3, 1, 1]
    assert len(LandCoverAIData(str(landcoverai), crop=32).dataset("test")) == 4


def test_landcoverai_before_its_images_are_cut(landcoverai: Path) -> None:
    (landcoverai / "output").rename(landcoverai / "images")
    with pytest.raises(ValueError, match=r"the images are not cut into chips yet; run the archive's split\.py"):
        LandCoverAIData(str(landcoverai))
    for use in (LandCoverAIData.prepare_data, lambda data: data.dataset("train")):
        with pytest.raises(DatasetNotFoundError, match="Dataset not found in `root="):
            use(LandCoverAIData(str(landcoverai / "nowhere")))


def test_seasonet_samples(seasonet: Path) -> None:
    data = SeasoNetData(str(seasonet), workers=0)
    assert (data.channels, data.num_classes) == (12, 33)
    training = data.dataset("val")
    assert len(training) == 2
    sample = training[0]
    patch = seasonet / "winter" / "grid1" / "32UME_20180418T104021_53_1_7_5" / "32UME_20180418T104021_53_1_7_5"
    with rasterio.open(f"{patch}_10m_RGB.tif") as raster:
        torch.testing.assert_close(sample["image"][:3], torch.from_numpy(raster.read().astype(np.float32)) / 3000)
    with rasterio.open(f"{patch}_60m.tif") as raster:
        coarse = raster.read(2)[10, 10] / 3000
    assert sample["image"][11, 62, 62].item() == pytest.approx(coarse, abs=0.5)  # bilinear, six pixels for one
    labels = read_labels(Path(f"{patch}_labels.tif"))
    assert torch.equal(sample["mask"], torch.where(labels == 0, IGNORE_INDEX, labels - 1))


def test_seasonet_bands_seasons_and_grids(seasonet: Path) -> None:
    data = SeasoNetData(str(seasonet), bands=["20m", "10m_IR"], seasons=["Spring", "Summer"], grids=[2], workers=0)
    training = data.dataset("train")
    assert data.channels == 7
    assert [Path(name).parts[-4:-2] for name in training.files] == [("spring", "grid2"), ("summer", "grid2")]
    assert training[0]["image"].shape == (7, 120, 120)
    wrongs: list[dict[str, Any]] = [{"bands": ["30m"]}, {"seasons": []}, {"grids": [1, 1]}]
    for wrong in wrongs:
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name}: expected some of"):
            SeasoNetData(str(seasonet), **wrong)


def test_openearthmap_samples(openearthmap: Path) -> None:
    training = OpenEarthMap(openearthmap, "train")
    assert [files["image"].name for files in training.files] == ["aachen_1.tif", "kujawsko-pomorskie_2.tif"]
    sample = training[0]
    folder = openearthmap / "OpenEarthMap_wo_xBD" / "aachen"
    with rasterio.open(folder / "images" / "aachen_1.tif") as raster:
        assert torch.equal(sample["image"], torch.from_numpy(raster.read().astype(np.float32)))
    labels = read_labels(folder / "labels" / "aachen_1.tif")
    assert torch.equal(sample["mask"], torch.where(labels == 0, 255, labels - 1))
    assert set(OpenEarthMap(openearthmap, "test")[0]) == {"image"}
    doubled = OpenEarthMap(openearthmap, "val", transforms=lambda sample: {"image": 2 * sample["image"]})
    torch.testing.assert_close(doubled[0]["image"], 2 * OpenEarthMap(openearthmap, "val")[0]["image"])


def test_openearthmap_plot(openearthmap: Path) -> None:
    sample = OpenEarthMap(openearthmap, "train")[0]
    figure = OpenEarthMap(openearthmap, "train").plot(sample | {"prediction": sample["mask"]}, suptitle="aachen")
    assert [axis.get_title() for axis in figure.axes] == ["Image", "Mask", "Prediction"]
    drawn = figure.axes[1].images[0]
    assert tuple(drawn.cmap(7)[:3]) == pytest.approx((222 / 255, 31 / 255, 7 / 255))
    assert drawn.get_array().mask.sum() == (sample["mask"] == 255).sum()  # type: ignore[union-attr]
    without = OpenEarthMap(openearthmap, "test")
    assert len(without.plot(without[0], show_titles=False).axes) == 1


def test_openearthmap_is_unpacked_and_downloaded(
    openearthmap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "archives"
    there.mkdir()
    archive = Path(shutil.make_archive(str(there / "OpenEarthMap"), "zip", openearthmap))
    with pytest.raises(RuntimeError, match=r"OpenEarthMap\.zip: the checksum is not that of the published archive"):
        OpenEarthMap(there, checksum=True)
    monkeypatch.setattr(OpenEarthMap, "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(OpenEarthMap(there, checksum=True)) == 2

    def download(url: str, root: Path, filename: str, md5: str | None) -> None:
        assert (url, md5) == (OpenEarthMap.url, OpenEarthMap.md5)
        root.mkdir()
        shutil.copy(archive, root / filename)

    monkeypatch.setattr(module, "download_url", download)
    assert len(OpenEarthMap(tmp_path / "fresh", download=True, checksum=True)) == 2
    with pytest.raises(DatasetNotFoundError, match="download=False"):
        OpenEarthMap(tmp_path / "empty")


def test_openearthmap_names_what_is_missing(openearthmap: Path) -> None:
    folder = openearthmap / "OpenEarthMap_wo_xBD"
    (folder / "aachen" / "labels" / "aachen_1.tif").unlink()
    with pytest.raises(ValueError, match=r"1 files of the split 'train' are missing.*labels.aachen_1\.tif"):
        OpenEarthMap(openearthmap, "train")
    (folder / "xbd_files.csv").unlink()
    with pytest.raises(ValueError, match=r"2 files of the split 'train' are missing"):
        OpenEarthMap(openearthmap, "train")
    with pytest.raises(ValueError, match="split: expected one of train, val, test, got 'dev'"):
        OpenEarthMap(openearthmap, "dev")


def test_openearthmap_names_bands_and_ids_that_do_not_fit(openearthmap: Path) -> None:
    region = openearthmap / "OpenEarthMap_wo_xBD" / "aachen"
    crops = OpenEarthMapData(str(openearthmap), crop=96, augment=False).dataset("train")
    for kind, message, pixels in (
        ("labels", r"aachen_1\.tif: class ids from 257 to 257 are out of range", np.full((1, 70, 90), 258, np.uint16)),
        ("images", r"aachen_1\.tif: expected an image of 3 bands, got 1", np.zeros((1, 70, 90), np.uint8)),
    ):
        write_raster(region / kind / "aachen_1.tif", pixels)
        with pytest.raises(ValueError, match=message):
            crops[0]


def test_openearthmap_crops_and_test_split(openearthmap: Path) -> None:
    data = OpenEarthMapData(str(openearthmap), crop=64, augment=False)
    assert len(data.dataset("train")) == 2 * 2 + 1  # 70 x 90 and 64 x 64 pixels
    assert data.class_names[-1] == "Building"
    with pytest.raises(ValueError, match="not all test images have labels; test_split='val'"):
        data.dataset("test")
    instead = OpenEarthMapData(str(openearthmap), test_split="val", crop=64).dataset("test")
    assert torch.equal(instead[0]["mask"], data.dataset("val")[0]["mask"])
    with pytest.raises(ValueError, match="test_split: expected 'test' or 'val', got 'train'"):
        OpenEarthMapData(str(openearthmap), test_split="train")


def damage(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def no_raster(path: Path) -> None:
    path.write_text("no image at all")


@pytest.mark.parametrize("spoil", [damage, no_raster, Path.unlink])
def test_damaged_files_are_named_and_skipped_only_when_asked(
    landcoverai: Path, seasonet: Path, openearthmap: Path, spoil: Callable[[Path], None]
) -> None:
    patch = "32UME_20180418T104021_53_2_7_5"
    cases: list[tuple[Any, Path, Path, int, int]] = [
        (LandCoverAIData, landcoverai, landcoverai / "output" / "M-33-20-D-c-4-2_1.jpg", 1, 3),
        (SeasoNetData, seasonet, seasonet / "spring" / "grid2" / patch / f"{patch}_20m.tif", 1, 12),
    ]
    if spoil is damage:
        label = openearthmap / "OpenEarthMap_wo_xBD" / "kujawsko-pomorskie" / "images" / "kujawsko-pomorskie_2.tif"
        cases.append((OpenEarthMapData, openearthmap, label, 4, 3))
    for kind, root, path, index, channels in cases:
        arguments: dict[str, Any] = {"root": str(root), "crop": 64, "augment": False}
        strict, lenient = kind(**arguments).dataset("train"), kind(**arguments, skip_damaged=True).dataset("train")
        spoil(path)
        index = index if kind is not SeasoNetData else 4 * index  # four crops of 64 cover a patch
        strict[0]
        with pytest.raises(ValueError, match=f"{path.stem.removesuffix('_20m')}.*cannot be read"):
            strict[index]
        with pytest.warns(UserWarning, match=f"{path.stem.removesuffix('_20m')}.*it is skipped"):
            sample = lenient[index]
        assert sample["image"].shape == (channels, 64, 64)
        assert sample["image"].abs().max() == 0
        assert (sample["mask"] == IGNORE_INDEX).all()
        assert sample["mask"].dtype == torch.int64


def test_a_bit_that_is_turned_in_a_mask_is_damage(landcoverai: Path) -> None:
    """Pillow would take some for other classes."""
    path = landcoverai / "output" / "M-33-20-D-c-4-2_0_m.png"
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(60, len(whole) - 20, 200):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DamagedFileError, match=r"4-2_0\.jpg: cannot be read"):
            LandCoverAIData(str(landcoverai), crop=64, augment=False).dataset("train")[0]


def test_openearthmap_headers_are_skipped_only_when_asked(openearthmap: Path) -> None:
    no_raster(openearthmap / "OpenEarthMap_wo_xBD" / "aachen" / "images" / "aachen_1.tif")
    with pytest.raises(ValueError, match=r"aachen_1\.tif: cannot be read as an image"):
        OpenEarthMapData(str(openearthmap), crop=64).dataset("train")
    with pytest.warns(UserWarning, match=r"aachen_1\.tif.*it is skipped"):
        left = OpenEarthMapData(str(openearthmap), crop=64, skip_damaged=True, augment=False).dataset("train")
    assert [Path(name).name for name in left.files] == ["kujawsko-pomorskie_2.tif"]
    assert (left[0]["mask"] != IGNORE_INDEX).any()


def test_unknown_ids_sizes_and_bands_name_the_file(landcoverai: Path) -> None:
    chip = landcoverai / "output" / "M-33-20-D-c-4-2_1"
    training = LandCoverAIData(str(landcoverai), crop=64, skip_damaged=True, augment=False).dataset("train")
    Image.new("L", (64, 64), 9).save(f"{chip}_m.png")
    with pytest.raises(ValueError, match=r"2_1\.jpg: class id\(s\) \[9\] are out of range: expected 0 to 4"):
        training[1]
    other = LandCoverAIData(str(landcoverai), crop=64, augment=False)
    Image.new("L", (64, 60), 1).save(f"{chip}_m.png")
    with pytest.raises(ValueError, match=r"2_1\.jpg: expected an image of 3 bands and a mask of 64 x 64"):
        other.dataset("train")[1]
    Image.new("CMYK", (64, 64)).save(f"{chip}.jpg")
    with pytest.raises(ValueError, match=r"2_1\.jpg: expected an image of 3 bands .*got shapes \(4, 64, 64\)"):
        other.dataset("train")[1]


def test_failed_downloads_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenEarthMap, "url", "file:///nowhere/OpenEarthMap.zip")
    data = OpenEarthMapData(str(tmp_path / "new"), download=True)
    with pytest.raises(ConnectionError, match=r"OpenEarthMap could not be downloaded to .*new: .*\n.*by hand"):
        data.prepare_data()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "OpenEarthMap.zip").write_bytes(b"PK")
    for use in (OpenEarthMapData.prepare_data, lambda data: data.dataset("train")):
        with pytest.raises(ValueError, match="torn: an archive there is damaged or not complete"):
            use(OpenEarthMapData(str(tmp_path / "torn")))
    with pytest.raises(ValueError, match="torn: an archive there is damaged .* the checksum is not"):
        OpenEarthMapData(str(tmp_path / "torn"), checksum=True).prepare_data()


def test_archives_are_unpacked_before_other_processes_look(openearthmap: Path, tmp_path: Path) -> None:
    there = tmp_path / "archives"
    there.mkdir()
    shutil.make_archive(str(there / "OpenEarthMap"), "zip", openearthmap)
    OpenEarthMapData(str(there)).prepare_data()
    assert (there / "OpenEarthMap_wo_xBD" / "train.txt").is_file()


@pytest.mark.parametrize("name", ["landcoverai", "seasonet", "openearthmap"])
def test_each_config_trains_a_step(
    name: str, threads: None, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = request.getfixturevalue(name)
    arguments = [
        "fit", "--config", name, "--data.root", str(root), "--data.crop", "64", "--data.batch_size", "2",
        "--data.workers", "0", "--model.model", "hqfnet_tiny", "--model.pretrained", "false",
        "--trainer.fast_dev_run", "true",
        "--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.logger", "false",
        "--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["hqfnet", *arguments])
    fitted = main()
    assert fitted.trainer.global_step == 1
    logged = fitted.trainer.callback_metrics
    assert torch.isfinite(logged["train/loss"])
    assert {"val/miou", f"val/iou/{fitted.datamodule.class_names[-1]}"} <= set(logged)
    assert fitted.model.in_channels == fitted.datamodule.channels
