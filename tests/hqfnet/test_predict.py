"""Prediction by overlapping windows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.shutil
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioIOError
from rasterio.rpc import RPC
from rasterio.transform import from_origin
from torch import Tensor, nn

from hqfnet.data import ClassList
from hqfnet.predict import blend_weights, main, predict_scene, window_starts
from hqfnet.task import SegmentationTask

PLACE: dict[str, Any] = {"crs": "EPSG:32640", "transform": from_origin(300000, 2800000, 0.5, 0.5)}
CLASSES = ClassList(("sea", "land", "cloud"), ("#102030", "#405060", "#708090"))


class Brightest(nn.Module):
    """The class of a pixel is its brightest channel."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.in_channels = channels
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.windows = 0

    def forward(self, images: Tensor) -> Tensor:
        self.windows += len(images)
        return self.scale * images


class Centred(Brightest):
    """Class 0 wins, weakly, except at the border of a window, where class 1 wins by much."""

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros_like(images)
        logits[:, 1] = 8
        logits[:, 1, 4:-4, 4:-4] = 0
        logits[:, 0, 4:-4, 4:-4] = 2
        return logits


class Failing(Brightest):
    """Gives up at the third window."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        if self.windows >= 3:
            raise RuntimeError("out of memory")
        return logits


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def write_scene(path: Path, pixels: npt.NDArray[Any], **profile: Any) -> Path:
    count, height, width = pixels.shape
    shape: dict[str, Any] = {"height": height, "width": width, "count": count, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **(PLACE | profile)) as file:
        file.write(pixels)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 65536, (3, 60, 40)).astype(np.uint16)
    return write_scene(tmp_path / "scene.tif", pixels)


@pytest.mark.parametrize("window", [16, 33, 70, 101, 512])
@pytest.mark.parametrize(("overlap", "batch_size"), [(0.0, 1), (0.25, 3), (0.6, 100)])
def test_windows_agree_with_the_whole(picture: Path, out: Path, window: int, overlap: float, batch_size: int) -> None:
    target = predict_scene(Brightest(), picture, out / "ids.png", window=window, overlap=overlap, batch_size=batch_size)
    assert np.array_equal(np.array(Image.open(target)), np.array(Image.open(picture)).argmax(axis=2))


def test_the_middle_of_a_window_counts_more_than_its_border(picture: Path, out: Path) -> None:
    inside = (slice(4, -4), slice(4, -4))
    shares = []
    for overlap in (0.0, 0.5):
        target = predict_scene(Centred(), picture, out / f"{overlap}.png", window=32, overlap=overlap)
        shares.append((np.array(Image.open(target))[inside] == 1).mean())
    assert shares[0] > 0.2
    assert shares[1] < 0.05


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


def test_a_geotiff_keeps_its_place_and_shows_its_classes(scene: Path, out: Path) -> None:
    target = predict_scene(Brightest(), scene, out / "ids.tif", classes=CLASSES, window=32, preview=out / "preview.png")
    with rasterio.open(scene) as file:
        pixels = file.read()
    with rasterio.open(target) as file:
        assert file.crs == rasterio.CRS.from_epsg(32640)
        assert file.transform == PLACE["transform"]
        assert np.array_equal(file.read(1), pixels.argmax(axis=0))
        assert [file.colormap(1)[i][:3] for i in range(3)] == CLASSES.palette
        assert file.tags()["class_1"] == "land"
        assert file.nodata is None
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with Image.open(out / "preview.png") as preview:
        assert preview.size == (40, 60)
        assert preview.getpixel((0, 0)) == CLASSES.palette[pixels[:, 0, 0].argmax()]
    assert {path.name for path in out.iterdir()} == {"ids.tif", "preview.png"}


def test_ground_control_points_are_kept(tmp_path: Path, out: Path) -> None:
    points = [GroundControlPoint(0, 0, 10, 50), GroundControlPoint(0, 20, 11, 50), GroundControlPoint(20, 0, 10, 49)]
    with rasterio.open(
        tmp_path / "points.tif", "w", driver="GTiff", height=20, width=20, count=3, dtype="uint8",
        gcps=points, crs="EPSG:4326",
    ) as file:  # fmt: skip
        file.write(np.ones((3, 20, 20), np.uint8))
    with rasterio.open(predict_scene(Brightest(), tmp_path / "points.tif", out / "ids.tif")) as file:
        kept, crs = file.gcps
        assert crs == rasterio.CRS.from_epsg(4326)
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_rational_polynomials_are_kept(tmp_path: Path, out: Path) -> None:
    numbers = dict.fromkeys(("height", "lat", "line", "long", "samp"), 2.0)
    scales = {f"{name}_{kind}": value for name, value in numbers.items() for kind in ("off", "scale")}
    series = {f"{name}_{part}_coeff": [0.5] * 20 for name in ("line", "samp") for part in ("num", "den")}
    polynomials = RPC(**scales, **series, err_bias=1.0, err_rand=1.0)
    source = tmp_path / "raw.tif"
    with rasterio.open(
        source, "w", driver="GTiff", width=30, height=20, count=3, dtype="uint8", rpcs=polynomials
    ) as file:
        file.write(np.full((3, 20, 30), 9, np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_scene(Brightest(), source, out / "ids.tif")
    with rasterio.open(out / "ids.tif") as file:
        assert file.rpcs.to_dict() == polynomials.to_dict()


def test_probabilities(scene: Path, out: Path) -> None:
    target = predict_scene(
        Brightest(), scene, out / "ids.tif", classes=CLASSES, window=24, overlap=0.5, probabilities=out / "shares.tif"
    )
    with rasterio.open(scene) as file:
        expected = (20 * torch.from_numpy(file.read().astype(np.float32)) / 65535).softmax(dim=0)
    with rasterio.open(out / "shares.tif") as file:
        shares = file.read()
        assert file.descriptions == CLASSES.names
        assert file.crs == rasterio.CRS.from_epsg(32640)
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    with rasterio.open(target) as file:
        assert np.array_equal(file.read(1), shares.argmax(axis=0))


@pytest.mark.parametrize("kind", ["nodata", "alpha", "nan"])
def test_pixels_without_data(tmp_path: Path, out: Path, kind: str) -> None:
    """They become class 255 and leave their neighbours alone; windows of nothing else are not predicted."""
    rng = np.random.default_rng(2)
    missing = np.zeros((96, 96), bool)
    missing[:40, :40] = True
    missing[70, 50] = True
    if kind == "nan":
        pixels = np.where(missing, np.nan, rng.random((3, 96, 96))).astype(np.float32)
        write_scene(tmp_path / "holes.tif", pixels)
    else:
        pixels = np.where(missing, 0, rng.integers(1, 256, (3, 96, 96))).astype(np.uint8)
        if kind == "nodata":
            write_scene(tmp_path / "holes.tif", pixels, nodata=0)
        else:
            alpha = np.where(missing, 0, 255).astype(np.uint8)
            write_scene(tmp_path / "holes.tif", np.concatenate([pixels, alpha[None]]), photometric="RGB", alpha="YES")
    model = Brightest()
    target = predict_scene(
        model, tmp_path / "holes.tif", out / "ids.tif", window=32, overlap=0, probabilities=out / "shares.tif"
    )
    with rasterio.open(target) as file:
        assert file.nodata == 255
        assert np.array_equal(file.read(1), np.where(missing, 255, np.nan_to_num(pixels).argmax(axis=0)))
    with rasterio.open(out / "shares.tif") as file:
        assert np.array_equal(np.isnan(file.read(1)), missing)
    assert model.windows == 8 + (1 if missing[:32, :32].all() else 0)  # the first tells the number of classes


def test_bands_of_their_own_without_data(tmp_path: Path, out: Path) -> None:
    """What counts are the bands that the model sees; one of them alone becomes 0."""
    pixels = np.random.default_rng(2).random((4, 30, 30)).astype(np.float32)
    pixels[0, 3, 3] = pixels[:3, 5, 5] = -9999
    model, seen = Brightest(), []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    scene = write_scene(tmp_path / "gaps.tif", pixels, nodata=-9999)
    with rasterio.open(predict_scene(model, scene, out / "ids.tif", bands=[1, 2, 3])) as file:
        ids = file.read(1)
    assert ids[5, 5] == 255
    assert (ids == 255).sum() == 1
    assert torch.equal(seen[0][0], torch.from_numpy(pixels[:3]).clamp(min=0))


def test_an_alpha_band_that_was_chosen_is_data(tmp_path: Path, out: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 2, (4, 30, 30)).astype(np.uint8)  # GDAL takes the last for alpha
    scene = write_scene(tmp_path / "infrared.tif", pixels)
    with rasterio.open(predict_scene(Brightest(4), scene, out / "ids.tif", bands=[1, 2, 3, 4])) as file:
        assert np.array_equal(file.read(1), pixels.argmax(axis=0))


def test_png_without_georeference(picture: Path, out: Path) -> None:
    target = predict_scene(Brightest(), picture, out / "ids.png", classes=CLASSES)
    with Image.open(target) as written:
        assert written.mode == "P"
        ids = np.array(written)
        assert written.convert("RGB").getpixel((0, 0)) == CLASSES.palette[ids[0, 0]]
    assert list(out.iterdir()) == [target]


def test_an_image_without_georeference_is_said_to_have_none(picture: Path, scene: Path, out: Path) -> None:
    with pytest.warns(UserWarning, match=r"picture\.png: has no georeference, so .*ids\.tif has none either"):
        predict_scene(Brightest(), picture, out / "ids.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_scene(Brightest(), picture, out / "ids.png")
        predict_scene(Brightest(), scene, out / "placed.tif")
        picture.with_suffix(".pgw").write_text("0.5\n0\n0\n-0.5\n300000\n2800000\n")  # a place without its system
        with rasterio.open(predict_scene(Brightest(), picture, out / "world.tif")) as file:
            assert file.transform.a == 0.5


def test_bands_and_scale(tmp_path: Path, out: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 4000, (5, 20, 30)).astype(np.uint16)
    path = write_scene(tmp_path / "five.tif", pixels)
    seen = []
    model = Brightest()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    target = predict_scene(model, path, out / "ids.tif", bands=[4, 2, 1], scale=4000)
    with rasterio.open(target) as file:
        assert np.array_equal(file.read(1), pixels[[3, 1, 0]].argmax(axis=0))
    torch.testing.assert_close(seen[0][0], torch.from_numpy(pixels[[3, 1, 0]] / np.float32(4000)).float())
    with pytest.raises(ValueError, match=r"bands: the model expects 3, got 5 of .*five\.tif; choose by the argument"):
        predict_scene(Brightest(), path, out / "no.tif")
    with pytest.raises(ValueError, match=r"bands: the model expects 3, got 2 of .*five\.tif$"):
        predict_scene(Brightest(), path, out / "no.tif", bands=[1, 2])
    with pytest.raises(ValueError, match=r"bands: .*five\.tif has bands 1 to 5, got \[0, 6\]"):
        predict_scene(Brightest(), path, out / "no.tif", bands=[0, 6, 1])
    assert not (out / "no.tif").exists()


def test_scale_of_the_training(tmp_path: Path, out: Path) -> None:
    path = write_scene(tmp_path / "reflectance.tif", np.full((3, 32, 32), 1500, np.uint16))
    task = SegmentationTask("hq_unet", 3, pretrained=False, scale=3000)
    seen = []
    task.register_forward_pre_hook(lambda module, args: seen.append(float(args[0].mean())))
    predict_scene(task, path, out / "a.tif")
    predict_scene(task, path, out / "b.tif", scale=1500)
    assert seen == [0.5, 1]


def test_the_model_is_given_back_as_it_was(picture: Path, out: Path) -> None:
    model = Brightest().train()
    states = []
    model.register_forward_pre_hook(lambda module, args: states.append(module.training))
    predict_scene(model, picture, out / "ids.png")
    assert states == [False]
    assert model.training
    assert model.scale.grad is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("window", 0, "window: expected at least 1 pixel, got 0"),
        ("overlap", 1, r"overlap: expected a share in \[0, 1\), got 1"),
        ("batch_size", 0, "batch_size: expected at least 1 window, got 0"),
        ("scale", 0.0, "scale: expected a positive pixel value, got 0.0"),
        ("device", "abacus", "device: 'abacus' cannot be used"),
        ("target", "ids.jpg", r"target: expected a file name that ends in \.tif or \.tiff or \.png, got .*ids\.jpg"),
        ("target", "nowhere/ids.tif", "target: there is no folder .*nowhere to write ids.tif to"),
        ("target", "ids.tif/more.tif", r"target: there is no folder .*ids\.tif to write more\.tif to"),
        ("target", "ids.tif", r"target: .*ids\.tif exists; it is only replaced when asked to"),
        ("target", "folder.tif", r"target: .*folder\.tif is a folder"),
        ("target", "../scene.tif", r"target: .*scene\.tif is the source itself"),
        ("probabilities", "shares.png", r"probabilities: expected a file name that ends in \.tif"),
        ("preview", "ids.tif", r"preview: expected a file name that ends in \.png"),
        ("preview", "new.png", r"target, preview: expected different files"),
        ("classes", ClassList.numbered(4), "classes: got 4, but the model has 3"),
        ("source", "missing.tif", r"source: .*missing\.tif cannot be read as an image"),
        ("source", "text.tif", r"source: .*text\.tif cannot be read as an image"),
        ("source", "cut.tif", r"cut\.tif: the file is damaged"),
    ],
)
def test_bad_input_changes_nothing(scene: Path, out: Path, name: str, value: Any, message: str) -> None:
    (out / "ids.tif").write_text("precious")
    (out / "folder.tif").mkdir()
    (out / "text.tif").write_text("no image")
    (out / "cut.tif").write_bytes(scene.read_bytes()[:9000])
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    arguments: dict[str, Any] = {"source": scene, "target": out / "new.png", "overwrite": True}
    if name in ("source", "target", "probabilities", "preview"):
        value = out / value
    arguments |= {name: value, "overwrite": "only replaced" not in message}
    with pytest.raises(ValueError, match=message):
        predict_scene(Brightest(), **arguments)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert (out / "folder.tif").is_dir()


def test_a_folder_that_cannot_be_written_to(scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(ValueError, match="target: the folder .*out cannot be written to: read-only file system"):
        predict_scene(Brightest(), scene, out / "ids.tif")


def failing_copy(*_: Any, **__: Any) -> None:
    raise RasterioIOError("no space left on device")


@pytest.mark.parametrize("overwrite", [False, True])
def test_failures_leave_nothing_behind(
    scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        (out / "ids.tif").write_text("precious")
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(RuntimeError, match="out of memory"):
        predict_scene(Failing(), scene, out / "ids.tif", window=16, overwrite=overwrite)
    monkeypatch.setattr(rasterio.shutil, "copy", failing_copy)
    with pytest.raises(RasterioIOError, match="no space left"):
        predict_scene(Brightest(), scene, out / "ids.tif", overwrite=overwrite)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_overwrite_replaces(scene: Path, out: Path) -> None:
    (out / "ids.tif").write_text("old")
    with rasterio.open(predict_scene(Brightest(), scene, out / "ids.tif", overwrite=True)) as file:
        assert file.shape == (60, 40)


def test_command_line_names_what_is_wrong(
    scene: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main([str(scene), "-o", str(out / "ids.tif"), *arguments])
        return capsys.readouterr().err

    assert "the following arguments are required: --checkpoint" in refused()
    assert "checkpoint: there is no file" in refused("--checkpoint", str(tmp_path / "no.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    assert "text.ckpt cannot be read as one" in refused("--checkpoint", str(tmp_path / "text.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "was not written by hqfnet's training" in refused("--checkpoint", str(tmp_path / "other.ckpt"))
    assert not list(out.iterdir())
