"""Prediction by overlapping windows."""

from __future__ import annotations

import os
import resource
import signal
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
from rasterio.enums import ColorInterp
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


def test_sources_that_cannot_be_right_are_named(tmp_path: Path, picture: Path, out: Path) -> None:
    """Before anything is written; a PNG that is cut, in a window that holds all of it."""
    picture.write_bytes(picture.read_bytes()[: picture.stat().st_size // 2])
    radar = write_scene(tmp_path / "radar.tif", np.ones((3, 20, 20), np.complex64))
    counts = write_scene(tmp_path / "counts.tif", np.ones((3, 20, 20), np.int64))
    mixed = write_vrt(tmp_path / "mixed.vrt", "counts.tif")
    mixed.write_text(mixed.read_text().replace("Byte", "Float32", 1))
    for source, message in {
        picture: r"picture\.png: the file is damaged",
        radar: r"radar\.tif: expected bands of one real type, got complex64 in the bands \[1, 2, 3\]",
        mixed: r"mixed\.vrt: expected bands of one real type, got float32, uint8 in the bands \[1, 2, 3\]",
        counts: "scale: expected the pixel value that becomes 1, since pixels are int64",
    }.items():
        with pytest.raises(ValueError, match=message):
            predict_scene(Brightest(), source, out / "ids.png")
    assert not list(out.iterdir())
    predict_scene(Brightest(), counts, out / "ids.png", scale=10)


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
    with rasterio.open(source, "r+") as file:
        file.crs, file.transform = PLACE["crs"], PLACE["transform"]
    with rasterio.open(predict_scene(Brightest(), source, out / "ids.tif", overwrite=True)) as file:
        assert file.rpcs.to_dict() == polynomials.to_dict()
        assert (file.crs, file.transform) == (rasterio.CRS.from_string(PLACE["crs"]), PLACE["transform"])


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
    with pytest.raises(
        ValueError, match=r"target: .*ids\.tif could not be written: no space left on device \(.* MiB are"
    ):
        predict_scene(Brightest(), scene, out / "ids.tif", overwrite=overwrite)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("limit", [1000, 100_000, 250_000, 400_000, 470_000, 900_000])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_is_said(tmp_path: Path, limit: int, overwrite: bool) -> None:
    """At whatever step it is full; what was there stays."""
    source = write_scene(tmp_path / "scene.tif", np.random.default_rng(1).integers(0, 256, (3, 700, 600), np.uint8))
    out = tmp_path / "out"
    out.mkdir()
    if overwrite:
        (out / "ids.tif").write_text("precious")
    before = {path: path.read_bytes() for path in out.iterdir()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(ValueError, match=r"target: .*ids\.tif could not be written: .* \(.* MiB are free in"):
            predict_scene(
                Brightest(), source, out / "ids.tif", overlap=0, probabilities=out / "shares.tif", overwrite=overwrite
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


class Interrupted(Brightest):
    """Its process gets a signal, twice, with the third window."""

    def __init__(self, kind: signal.Signals) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        if self.windows == 3:
            os.kill(os.getpid(), self.kind)
            os.kill(os.getpid(), self.kind)
        return logits


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_signal_leaves_nothing_behind(
    scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch, kind: signal.Signals, ignored: bool
) -> None:
    """As under nohup, a signal that is ignored stays so."""
    (out / "ids.tif").write_text("precious")
    monkeypatch.setattr("hqfnet.predict._module", lambda *_: Interrupted(kind))
    arguments = [str(scene), "-o", str(out / "ids.tif"), "--checkpoint", "a.ckpt", "--window", "16", "--overwrite"]
    before = signal.signal(kind, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        if ignored:
            main(arguments)
        else:
            with pytest.raises(SystemExit) as end:
                main(arguments)
            assert end.value.code == 128 + kind
            assert (out / "ids.tif").read_text() == "precious"
        assert signal.getsignal(kind) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(kind, before)
    assert [path.name for path in out.iterdir()] == ["ids.tif"]


@pytest.mark.parametrize("value", [1e20, 1e30, 3.4e38, -3.4e38, float("inf"), float("nan")])
@pytest.mark.parametrize("channels", [3, 4])
def test_one_pixel_beyond_all_measure_is_without_data(tmp_path: Path, out: Path, value: float, channels: int) -> None:
    """And changes no class of the window around it."""
    pixels = np.random.default_rng(2).random((channels, 40, 40)).astype(np.float32)
    torch.manual_seed(0)
    task = SegmentationTask("hq_unet", 3, in_channels=channels, pretrained=False).eval()
    found = []
    for spoilt in (0, value):
        pixels[1, 20, 20] = spoilt
        scene = write_scene(tmp_path / "scene.tif", pixels)
        with rasterio.open(predict_scene(task, scene, out / "ids.tif", overwrite=True)) as file:
            found.append(file.read(1))
    assert found[1][20, 20] == 255
    assert (found[1] == 255).sum() == 1
    pixels[:, 20, 20] = 0
    scene = write_scene(tmp_path / "scene.tif", pixels)
    with rasterio.open(predict_scene(task, scene, out / "ids.tif", overwrite=True)) as file:
        assert np.array_equal(np.where(found[1] == 255, file.read(1), found[1]), file.read(1))


def test_a_result_that_is_no_number_is_an_error(scene: Path, out: Path) -> None:
    """Its classes would all be 0."""
    model = Brightest()
    with torch.no_grad():
        model.scale.fill_(float("nan"))
    with pytest.raises(
        ValueError, match=r"scene\.tif: the model's result is not a number for the windows of 16 x 16 pix"
    ):
        predict_scene(model, scene, out / "ids.tif", window=16)
    assert not list(out.iterdir())


def test_networks_that_ask_are_told_where_there_is_data(tmp_path: Path, out: Path) -> None:
    class Told(Brightest):
        def forward(self, images: Tensor, valid: Tensor | None = None) -> Tensor:
            seen.append(valid)
            return super().forward(images)

    seen: list[Tensor | None] = []
    pixels = np.random.default_rng(2).random((3, 30, 30)).astype(np.float32)
    pixels[:, 5, 5] = pixels[1, 7, 7] = -9999
    predict_scene(Told(), write_scene(tmp_path / "gaps.tif", pixels, nodata=-9999), out / "ids.tif")
    (valid,) = seen
    assert valid is not None
    assert np.array_equal(valid[0].numpy(), pixels != -9999)


def test_alpha_and_an_infrared_band(tmp_path: Path, out: Path) -> None:
    """Alpha in the second place of five is no band of the model, and a mask."""
    pixels = np.random.default_rng(2).integers(1, 256, (5, 30, 30)).astype(np.uint8)
    pixels[1, :10] = 0
    colours = [ColorInterp.red, ColorInterp.alpha, ColorInterp.green, ColorInterp.blue, ColorInterp.gray]
    profile: dict[str, Any] = {"height": 30, "width": 30, "count": 5, "dtype": "uint8"} | PLACE
    with rasterio.open(tmp_path / "five.tif", "w", driver="GTiff", **profile) as file:
        file.colorinterp = colours
        file.write(pixels)
    with rasterio.open(predict_scene(Brightest(4), tmp_path / "five.tif", out / "ids.tif")) as file:
        ids = file.read(1)
    assert file.nodata == 255
    assert np.array_equal(ids, np.where(pixels[1] == 0, 255, pixels[[0, 2, 3, 4]].argmax(axis=0)))


POINTS = '<GCP Id="a" Pixel="0" Line="0" X="10" Y="50"/><GCP Id="b" Pixel="20" Line="0" X="11" Y="50"/>'
TRANSFORM = "<GeoTransform>300000,0.5,0,2800000,0,-0.5</GeoTransform>"


def write_vrt(path: Path, source: str, head: str = "", relative: int = 1, side: int = 20) -> Path:
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{k}"><SimpleSource><SourceFilename relativeToVRT="{relative}">{source}'
        f"</SourceFilename><SourceBand>{k}</SourceBand></SimpleSource></VRTRasterBand>"
        for k in (1, 2, 3)
    )
    path.write_text(f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">{head}{bands}</VRTDataset>')
    return path


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (f"<SRS>EPSG:32640</SRS>{TRANSFORM}<GCPList Projection='EPSG:4326'>{POINTS}</GCPList>", "transform"),
        (f"{TRANSFORM}<GCPList>{POINTS}</GCPList>", "transform"),
        (f"<SRS>EPSG:32640</SRS>{TRANSFORM}<GCPList>{POINTS}</GCPList>", "transform"),
        (f"{TRANSFORM}<GCPList Projection='EPSG:4326'>{POINTS}</GCPList>", "points"),
        (f"<GCPList>{POINTS}</GCPList>", "points"),
        (f"<GCPList Projection='EPSG:4326'>{POINTS}</GCPList>", "points"),
    ],
)
def test_places_of_two_kinds(tmp_path: Path, out: Path, head: str, kept: str) -> None:
    """A GeoTIFF has a transform or points; the transform and its system are kept."""
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", height=20, width=20, count=3, dtype="uint8"
    ) as file:
        file.write(np.ones((3, 20, 20), np.uint8))
    source = write_vrt(tmp_path / "points.vrt", "plain.tif", head)
    target = predict_scene(Brightest(), source, out / "ids.tif", probabilities=out / "shares.tif")
    for path in (target, out / "shares.tif"):
        with rasterio.open(source) as before, rasterio.open(path) as after:
            if kept == "transform":
                assert (after.crs, after.transform) == (before.crs, before.transform)
            else:
                assert after.gcps[1] == before.gcps[1]
                assert [(p.row, p.col, p.x, p.y) for p in after.gcps[0]] == [(0, 0, 10, 50), (0, 20, 11, 50)]


def side_files(path: Path) -> dict[str, Path]:
    """Side files of another raster at this path, each of which GDAL takes for one of what is there now."""
    old = {"driver": "GTiff", "count": 1, "dtype": "uint8"}
    names = {kind: path.with_name(path.name + kind) for kind in (".ovr", ".msk", ".aux.xml", ".ovr.aux.xml")}
    for kind, side in ((".ovr", 15), (".msk", 40)):
        with rasterio.open(names[kind], "w", height=60 if side == 40 else side, width=side, **old) as file:
            file.write(np.full((1, *file.shape), 0, np.uint8))
    for kind in (".aux.xml", ".ovr.aux.xml"):
        names[kind].write_text(f"<PAMDataset>{TRANSFORM}<Metadata><MDI key='old'>1</MDI></Metadata></PAMDataset>")
    names["world"] = path.with_suffix(path.suffix[:2] + path.suffix[-1] + "w")
    names["world"].write_text("7\n0\n0\n-7\n5\n5\n")
    return names


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_side_files_go_with_their_file(scene: Path, out: Path, ending: str) -> None:
    target = out / f"ids.{ending}"
    clean = predict_scene(Brightest(), scene, out / f"clean.{ending}")
    names = side_files(target)
    (out / "ids.qml").write_text("a style is the user's")
    for file in names.values():
        with pytest.raises(ValueError, match=r"target: .*ids.* exists; it is only replaced when asked to"):
            predict_scene(Brightest(), scene, target)
        assert file.exists()
    target.write_text("old")
    predict_scene(Brightest(), scene, target, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == sorted([clean.name, target.name, "ids.qml"])
    with rasterio.open(target) as file, rasterio.open(clean) as expected:
        assert file.files == [str(target)]
        assert file.transform == expected.transform
        assert file.tags() == expected.tags()
        assert file.mask_flag_enums == expected.mask_flag_enums
        assert np.array_equal(file.read(), expected.read())


def test_side_files_of_other_rasters_stay(scene: Path, out: Path) -> None:
    """A world file .wld may be that of any raster of its stem; .jgw is that of a JPEG."""
    for name in ("ids.wld", "ids.jgw", "ids2.tfw"):
        (out / name).write_text("7\n0\n0\n-7\n5\n5\n")
    (out / "ids.jpg").write_text("a photo")
    predict_scene(Brightest(), scene, out / "ids.tif")
    predict_scene(Brightest(), scene, out / "ids.tif", overwrite=True)
    assert {path.name for path in out.iterdir()} == {"ids.tif", "ids.jpg", "ids.wld", "ids.jgw", "ids2.tfw"}


@pytest.mark.parametrize("how", [
    "relative", "absolute", "nested", "mosaic", "symlink", "hard link", "link to the target", "vsisubfile",
    "subdataset", "mask", "overview", "side file",
])  # fmt: skip
def test_what_the_source_is_read_from_is_not_replaced(tmp_path: Path, out: Path, how: str) -> None:
    base = out / "b.tif"
    pixels = np.random.default_rng(1).integers(0, 256, (3, 20, 20), np.uint8)
    write_scene(base, pixels)
    other = write_scene(tmp_path / "other.tif", pixels)
    source, target = tmp_path / "source.vrt", base
    if how in ("relative", "symlink", "hard link", "link to the target"):
        name = "out/b.tif"
        if how == "symlink":
            (tmp_path / "link.tif").symlink_to(base)
            name = "link.tif"
        elif how == "hard link":
            (tmp_path / "link.tif").hardlink_to(base)
            name = "link.tif"
        elif how == "link to the target":
            target = out / "link.tif"
            target.symlink_to(base)
        write_vrt(source, name)
    elif how == "absolute":
        write_vrt(source, str(base), relative=0)
    elif how == "nested":
        write_vrt(tmp_path / "inner.vrt", "out/b.tif")
        write_vrt(source, "inner.vrt")
    elif how == "mosaic":
        write_vrt(source, "other.tif")
        text = source.read_text()
        source.write_text(text.replace("</SimpleSource>", f"</SimpleSource><SimpleSource><SourceFilename>{base}"
            "</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"))  # fmt: skip
    elif how == "vsisubfile":
        write_vrt(source, f"/vsisubfile/0_{base.stat().st_size},{base}", relative=0)
    elif how == "subdataset":
        source = Path(f"GTIFF_DIR:1:{base}")
    elif how == "mask":
        with rasterio.open(base, "w", driver="GTiff", count=1, height=20, width=20, dtype="uint8") as file:
            file.write(np.full((1, 20, 20), 255, np.uint8))
        write_vrt(source, "other.tif")
        mask = f"<MaskBand><VRTRasterBand dataType='Byte'><SimpleSource><SourceFilename>{base}</SourceFilename>"
        mask += "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></MaskBand></VRTDataset>"
        source.write_text(source.read_text().replace("</VRTDataset>", mask))
    elif how == "overview":
        write_vrt(source, "other.tif")
        overview = (
            f"<Overview><SourceFilename>{base}</SourceFilename><SourceBand>1</SourceBand></Overview></VRTRasterBand>"
        )
        source.write_text(source.read_text().replace("</VRTRasterBand>", overview))
    elif how == "side file":
        other.rename(out / "b.tif.msk")
        write_vrt(source, "out/b.tif.msk")
        base.unlink()
    before = {path: path.read_bytes() for path in out.iterdir()}
    for arguments in ({"target": target}, {"target": out / "new.tif", "probabilities": target}):
        with pytest.raises(ValueError, match=r"is read from .*, which would be replaced"):
            predict_scene(Brightest(), source, **arguments, overwrite=True)  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    write_scene(out / "unrelated.tif", pixels)
    predict_scene(Brightest(), source, out / "unrelated.tif", overwrite=True)


def test_overwrite_replaces(scene: Path, out: Path) -> None:
    (out / "ids.tif").write_text("old")
    with rasterio.open(predict_scene(Brightest(), scene, out / "ids.tif", overwrite=True)) as file:
        assert file.shape == (60, 40)


def test_command_line_names_what_is_wrong(
    scene: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(scene), "-o", str(out / "ids.tif")]
    for more, said in (
        ([], "the following arguments are required: --checkpoint"),
        (["--checkpoint", "a.ckpt", "--threads", "0"], "--threads: expected at least 1, got 0"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, *more])
        assert said in capsys.readouterr().err
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, said in (
        ("no", "checkpoint: there is no file"),
        ("text", r"text\.ckpt cannot be read as one"),
        ("other", "was not written by hqfnet's training"),
    ):
        with pytest.raises(ValueError, match=said):
            main([*arguments, "--checkpoint", str(tmp_path / f"{name}.ckpt")])
    assert not list(out.iterdir())


@pytest.mark.parametrize("compiled", [False, True])
def test_where_there_is_data_is_told_by_name(compiled: bool, tmp_path: Path, out: Path) -> None:
    class Told(Brightest):
        def forward(self, images: Tensor, months: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
            assert months is None
            assert valid is not None
            assert valid.dtype == torch.bool
            assert not valid[:, :, 3, 4].any()
            return super().forward(images)

    pixels = np.random.default_rng(2).random((3, 40, 40)).astype(np.float32)
    pixels[1, 3, 4] = np.nan
    model: Any = torch.compile(Told(), backend="eager") if compiled else Told()
    with rasterio.open(predict_scene(model, write_scene(tmp_path / "scene.tif", pixels), out / "ids.tif")) as file:
        assert np.argwhere(file.read(1) == 255).tolist() == [[3, 4]]


def test_a_link_to_nothing_is_kept(scene: Path, out: Path) -> None:
    (out / "ids.tif").symlink_to(out / "elsewhere" / "ids.tif")
    with pytest.raises(ValueError, match=r"target: .*ids\.tif exists; it is only replaced when asked to"):
        predict_scene(Brightest(), scene, out / "ids.tif")
    assert (out / "ids.tif").is_symlink()
