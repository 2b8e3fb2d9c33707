"""Folders of images and masks: what is read, and how errors name the culprit."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import from_origin
from torch.utils.data import DataLoader

from hqfnet.data import IGNORE_INDEX, ClassList, FolderData, FolderDataset, class_pixels, class_weights, load_classes
from hqfnet.data.raster import mask_colours, read_image, to_unit
from hqfnet.task import SegmentationTask


def dataset(root: Path, split: str = "val", **arguments: object) -> FolderDataset:
    return FolderDataset(root, split, ClassList.numbered(3, (9, 255)), **{"crop": 40} | arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("keep_in_memory", [False, True])
def test_grid_crops_hold_every_pixel_once(folder: Path, keep_in_memory: bool) -> None:
    image = np.array(Image.open(folder / "images" / "c.png"))
    ids = np.array(Image.open(folder / "masks" / "c.png")).astype(np.int64)
    tiles = dataset(folder, keep_in_memory=keep_in_memory)
    assert len(tiles) == 2 * 3
    rows = [torch.cat([tiles[3 * r + c]["mask"] for c in range(3)], dim=1) for r in range(2)]
    mask = torch.cat(rows).numpy()
    assert np.array_equal(mask[:50, :90], np.where(ids == 9, IGNORE_INDEX, ids))
    assert (mask[50:] == IGNORE_INDEX).all()
    assert (mask[:, 90:] == IGNORE_INDEX).all()
    rows = [torch.cat([tiles[3 * r + c]["image"] for c in range(3)], dim=2) for r in range(2)]
    pixels = torch.cat(rows, dim=1).numpy()
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[:, :50, :90], image.transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_array_equal(pixels[:, 50:, :90], np.broadcast_to(pixels[:, 49:50, :90], (3, 30, 90)))


def test_random_crops_keep_image_and_mask_together(folder: Path) -> None:
    """The mask of a picture made from its ids must still match it after flips and turns."""
    rng = np.random.default_rng(1)
    for stem in "ab":
        ids = rng.integers(0, 3, (70, 64), dtype=np.uint8)
        Image.fromarray(np.repeat(ids[..., None] * 100, 3, axis=2)).save(folder / "images" / f"{stem}.png")
        Image.fromarray(ids).save(folder / "masks" / f"{stem}.png")
    torch.manual_seed(0)
    crops = dataset(folder, "train", augment=True, crop=32)
    first = [crops[0] for _ in range(8)]
    for sample in first:
        assert type(sample["image"]) is torch.Tensor
        assert torch.equal((sample["image"][0] * 255 / 100).round().long(), sample["mask"])
    assert len({sample["image"].numpy().tobytes() for sample in first}) > 1
    torch.manual_seed(0)
    assert torch.equal(crops[0]["image"], first[0]["image"])


def test_random_crops_come_from_everywhere(folder: Path) -> None:
    rows, columns = np.mgrid[:70, :100].astype(np.uint8)
    Image.fromarray(np.stack([rows, columns, rows], axis=2)).save(folder / "images" / "a.png")
    torch.manual_seed(0)
    crops = dataset(folder, "train", augment=True, crop=32)
    corners = [(255 * crops[0]["image"]).round().amin(dim=(1, 2))[:2].tolist() for _ in range(200)]
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), max(tops)) == (0, 70 - 32)
    assert min(lefts) < 5
    assert 63 < max(lefts) <= 100 - 32


def test_crop_larger_than_image(folder: Path) -> None:
    sample = dataset(folder, "train", crop=128, augment=True)[0]
    assert sample["image"].shape == (3, 128, 128)
    assert (sample["mask"] != IGNORE_INDEX).sum() <= 70 * 100


def test_sixteen_bit_geotiff_with_four_bands(folder: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 65536, (4, 50, 90)).astype(np.uint16)
    (folder / "images" / "c.png").unlink()
    path = folder / "images" / "c.tif"
    with rasterio.open(path, "w", driver="GTiff", height=50, width=90, count=4, dtype="uint16") as raster:
        raster.write(pixels)
    read, valid = read_image(path, 4)
    np.testing.assert_allclose(to_unit(read), pixels / 65535, atol=1e-6)
    assert valid.all()
    assert dataset(folder, channels=4)[0]["image"].shape == (4, 40, 40)


@pytest.mark.parametrize("keep_in_memory", [False, True])
@pytest.mark.parametrize("nodata", [-9999.0, float("nan")])
def test_pixels_without_data_are_ignored(folder: Path, nodata: float, keep_in_memory: bool) -> None:
    """As in prediction; a nodata value in one band alone becomes 0 there."""
    pixels = np.random.default_rng(3).uniform(0.1, 1, (3, 50, 90)).astype(np.float32)
    pixels[:, :10] = nodata
    pixels[0, 20, 20] = -9999
    (folder / "images" / "c.png").unlink()
    with rasterio.open(
        folder / "images" / "c.tif", "w", driver="GTiff", height=50, width=90, count=3, dtype="float32", nodata=-9999
    ) as raster:
        raster.write(pixels)
    with Image.open(folder / "masks" / "c.png") as mask:
        ids = np.array(mask)
    sample = dataset(folder, crop=90, keep_in_memory=keep_in_memory)[0]
    assert sample["image"].min() == 0
    assert sample["image"][0, 20, 20] == 0
    assert torch.equal(sample["image"][1:, 10:50], torch.from_numpy(pixels[1:, 10:]))
    assert (sample["mask"][:10] == IGNORE_INDEX).all()
    assert np.array_equal(sample["mask"][10:50], np.where(ids[10:] == 9, IGNORE_INDEX, ids[10:]))


@pytest.mark.parametrize("nodata", [None, -9999.0])
@pytest.mark.parametrize("augment", [False, True])
def test_band_statistics_of_a_training_are_of_its_data(folder: Path, nodata: float | None, augment: bool) -> None:
    """Three quarters are missing, one band is missing alone elsewhere, and a pixel is beyond all measure."""
    rng = np.random.default_rng(3)
    empty = np.nan if nodata is None else nodata
    for stem, (height, width) in {"a": (70, 100), "b": (64, 64)}.items():
        pixels = rng.normal(0.823, 0.05, (4, height, width)).astype(np.float32)
        pixels[:, : height * 3 // 4] = empty
        pixels[2, -1, -1] = 1e25
        if nodata is not None:
            pixels[3, -5:] = nodata
        (folder / "images" / f"{stem}.png").unlink()
        profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": 4, "dtype": "float32"}
        with rasterio.open(folder / "images" / f"{stem}.tif", "w", nodata=nodata, **profile) as raster:
            raster.write(pixels)
    task = SegmentationTask("hq_unet", 3, in_channels=4, pretrained=False).train()
    crops = DataLoader(dataset(folder, "train", channels=4, crop=32, augment=augment), batch_size=4)
    for batch in crops:
        assert batch["valid"].shape == batch["image"].shape
        assert (batch["image"][~batch["valid"]] == 0).all()
        assert torch.isfinite(task.loss(batch)[0])
    norm = task.model.stem.norm
    assert norm is not None
    torch.testing.assert_close(norm.running_mean, torch.full((4,), 0.823), rtol=0, atol=0.01)
    torch.testing.assert_close(norm.running_var.sqrt(), torch.full((4,), 0.05), rtol=0.1, atol=0)


def test_palette_of_a_mask(folder: Path) -> None:
    assert mask_colours(folder / "masks" / "a.png")[2] == "#1400FD"


def test_names_of_all_languages_and_side_files(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / kind / "c.png").rename(folder / kind / "Zürich 地図.png")
        for suffix in (".wld", ".pngw", ".hdr", ".ovr"):
            (folder / kind / "Zürich 地図").with_suffix(suffix).write_text("no image")
    (folder / "val.txt").write_text("Zürich 地図\r\n", "utf-8-sig")
    read_all(folder)


def test_side_files_are_no_second_image(folder: Path) -> None:
    """Of whatever program they are; only what can be an image is one."""
    sides = "qml rrd RPB IMD tab clr tfw md5 msk dbf lyr cpg sha1 html pdf kml geojson gpkg"
    for kind in ("images", "masks"):
        for suffix in sides.split():
            (folder / kind / f"c.{suffix}").write_text("no image")
    read_all(folder)


PLACE: dict[str, Any] = {"crs": "EPSG:32640", "transform": from_origin(300000, 2800000, 0.5, 0.5)}


def place(root: Path, **of_the_mask: object) -> None:
    """The validation image as a GeoTIFF in `PLACE`, its mask as one elsewhere."""
    for kind, place in (("images", PLACE), ("masks", of_the_mask)):
        with Image.open(root / kind / "c.png") as old:
            pixels = np.atleast_3d(np.array(old)).transpose(2, 0, 1)
        (root / kind / "c.png").unlink()
        profile: dict[str, Any] = {"count": len(pixels), "height": 50, "width": 90, "dtype": "uint8"}
        with rasterio.open(root / kind / "c.tif", "w", driver="GTiff", **profile | place) as file:
            file.write(pixels)


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        ({"transform": from_origin(300005, 2800000, 0.5, 0.5)}, "their places, by up to 10.0 pixels"),
        ({"transform": from_origin(300000, 2800000.3, 0.5, 0.5)}, "their places, by up to 0.6 pixels"),
        ({"transform": from_origin(300000, 2800000, 1, 1)}, "their places, by up to 103.0 pixels"),
        ({"crs": None, "transform": from_origin(300005, 2800000, 0.5, 0.5)}, "their places, by up to 10.0 pixels"),
        ({"crs": "EPSG:32639"}, "their coordinate systems, EPSG:32640 and EPSG:32639"),
        (
            {"crs": "EPSG:4326", "transform": from_origin(55, 25, 1e-5, 1e-5)},
            "their coordinate systems, EPSG:32640 and",
        ),
    ],
)
def test_masks_that_lie_elsewhere_are_said(folder: Path, elsewhere: dict[str, object], said: str) -> None:
    place(folder, **PLACE | elsewhere)
    with pytest.warns(UserWarning, match=rf"1 mask\(s\) do not lie where their images lie, first: .*c\.tif .* {said}"):
        dataset(folder)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "here",
    [
        {},
        {"crs": rasterio.CRS.from_epsg(32640).to_wkt()},
        {"transform": from_origin(300000.1, 2800000, 0.5, 0.5)},
        {"crs": None},
        {"crs": None, "transform": None},
        {"transform": None},
    ],
)
def test_masks_in_their_place_are_not(folder: Path, here: dict[str, object]) -> None:
    place(folder, **{key: value for key, value in (PLACE | here).items() if value is not None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset(folder)


@pytest.mark.parametrize("stages", [("train", "val"), ("train", "test"), ("val", "test")])
def test_an_image_in_two_splits_is_said(folder: Path, stages: tuple[str, str]) -> None:
    (folder / "test.txt").write_text("b\n" if "train" in stages else "c\n")
    if "test" not in stages:
        (folder / "test.txt").unlink()
        (folder / "val.txt").write_text("c\nb\n")
    data = FolderData(str(folder), classes=3, ignore_ids=[9], crop=32)
    shared = "c" if stages == ("val", "test") else "b"
    for stage in stages:
        message = rf"{stages[0]}\.txt and .*{stages[1]}\.txt share 1 image\(s\), first '{shared}'"
        with pytest.warns(UserWarning, match=message):
            data.dataset(stage)


def test_an_image_that_is_listed_twice_is_said(folder: Path) -> None:
    """It counts twice in the scores."""
    (folder / "val.txt").write_text("c\nc\n")
    with pytest.warns(UserWarning, match=r"val\.txt: lists 1 image\(s\) more than once, first 'c'"):
        assert len(dataset(folder)) == 12


@pytest.mark.filterwarnings("error")
def test_a_split_that_is_not_used_may_be_empty(folder: Path) -> None:
    (folder / "test.txt").write_text("")
    FolderData(str(folder), classes=3, ignore_ids=[9], crop=32).dataset("train")
    FolderData(str(folder), classes=3, ignore_ids=[9], crop=32, val_split="train").dataset("train")


@pytest.mark.parametrize(
    ("ids", "classes", "said"),
    [
        ([0, 255], 2, r"\[0, 255\] alone, and of these \[255\] do not count.* classes have the ids 0 to 1"),
        ([1, 255], 3, r"\[1, 255\] alone, and of these \[255\] do not count.* classes have the ids 0 to 2"),
        ([255], 2, r"\[255\] alone"),
    ],
)
def test_masks_with_nothing_to_tell_apart_are_said(folder: Path, ids: list[int], classes: int, said: str) -> None:
    """Masks of 0 and 255 would score 1.0: the second class is an id that is ignored."""
    for stem, shape in (("a", (70, 100)), ("b", (64, 64))):
        mask = np.random.default_rng(0).choice(ids, shape).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")
    with pytest.warns(UserWarning, match=rf"train\.txt: its masks hold the ids {said}"):
        FolderDataset(folder, "train", ClassList.numbered(classes), 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FolderDataset(folder, "train", ClassList.numbered(max(ids) + 1 if max(ids) < 255 else 2, (9,)), 32)
        mask[0, 0] = 1 - min(ids) if min(ids) < 2 else 1
        mask[0, 1] = min(ids) if min(ids) < 2 else 0
        Image.fromarray(mask).save(folder / "masks" / "b.png")  # the second class, in the last mask
        FolderDataset(folder, "train", ClassList.numbered(classes), 32)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"classes": CLASSES, "ignore_ids": "255"}', "ignore_ids: expected a list of ids, got '255'"),
        ('{"classes": CLASSES, "ignore_ids": ["255"]}', r"ignore_ids: expected ids in 0\.\.255, got \['255'\]"),
        ('{"classes": CLASSES, "ignore_ids": [5.5]}', r"ignore_ids: expected ids in 0\.\.255, got \[5\.5\]"),
        ('{"classes": CLASSES, "ignore_ids": [true]}', r"ignore_ids: expected ids in 0\.\.255, got \[True\]"),
        ('{"classes": CLASSES, "ignore_id": [5]}', "'ignore_id' is not known; known are classes, ignore_ids, source"),
        ('{"classes": [{"name": "a", "color": "#000000"}]}', "'color' is not known; known are colour, name"),
        ('{"classes": {"a": "#000000", "b": "#000000"}}', "expected an object with colour, name, got 'a'"),
        ('{"classes": [["a", "#000000"]]}', "expected an object with colour, name"),
        ("[]", "expected an object with classes, ignore_ids, source"),
        (
            '{"classes": [{"name": "a", "colour": "#000000"}, {"name": "a", "colour": "#000001"}]}',
            "names: expected different names, got 'a' more than once",
        ),
    ],
)
def test_class_files_say_what_is_wrong(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "classes.json"
    classes = '[{"name": "a", "colour": "#000000"}, {"name": "b", "colour": "#0000FF"}]'
    path.write_text(content.replace("CLASSES", classes))
    with pytest.raises(ValueError, match=rf"'.*classes\.json' is not a class file: \w+: .*{said}"):
        load_classes(path)


def read_all(root: Path) -> None:
    tiles = dataset(root)
    for i in range(len(tiles)):
        tiles[i]


def spoil_missing_root(root: Path) -> Path:
    return root / "nowhere"


def spoil_masks_folder(root: Path) -> None:
    (root / "masks").rename(root / "labels")


def spoil_split(root: Path) -> None:
    (root / "val.txt").unlink()


def spoil_empty_split(root: Path) -> None:
    (root / "val.txt").write_text("\n\n")


def spoil_listing(root: Path) -> None:
    (root / "val.txt").write_bytes("Zürich".encode("latin-1"))


def spoil_stem(root: Path) -> None:
    (root / "val.txt").write_text("c\nghost\n")


def spoil_mask(root: Path) -> None:
    (root / "masks" / "c.png").unlink()


def spoil_mask_size(root: Path) -> None:
    Image.new("L", (90, 51)).save(root / "masks" / "c.png")


def spoil_image(root: Path) -> None:
    (root / "images" / "c.png").write_bytes(b"no image at all")


def spoil_image_data(root: Path) -> None:
    whole = (root / "images" / "c.png").read_bytes()
    (root / "images" / "c.png").write_bytes(whole[: len(whole) // 2])


def spoil_mask_bands(root: Path) -> None:
    Image.new("RGB", (90, 50)).save(root / "masks" / "c.png")


def spoil_image_bands(root: Path) -> None:
    Image.new("L", (90, 50)).save(root / "images" / "c.png")


def spoil_class_id(root: Path) -> None:
    Image.new("L", (90, 50), 7).save(root / "masks" / "c.png")


def spoil_double(root: Path) -> None:
    Image.new("RGB", (90, 50)).save(root / "images" / "c.bmp")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_missing_root, r"nowhere: there is no such folder"),
        (spoil_masks_folder, r"masks: there is no such folder"),
        (spoil_split, r"val\.txt: there is no such split file"),
        (spoil_empty_split, r"val\.txt: the split file lists no image"),
        (spoil_listing, r"val\.txt: the split file is not in UTF-8"),
        (spoil_stem, r"'ghost' has no image"),
        (spoil_mask, r"'c' has no mask in .*masks"),
        (spoil_mask_size, r"c\.png: the mask is 90 x 51 pixels, but its image .*c\.png is 90 x 50"),
        (spoil_image, r"images.c\.png: cannot be read as an image"),
        (spoil_image_data, r"images.c\.png: the file is damaged"),
        (spoil_mask_bands, r"masks.c\.png: expected one band of 8-bit class ids, got 3"),
        (spoil_image_bands, r"images.c\.png: expected at least 3 bands, got 1"),
        (spoil_class_id, r"masks.c\.png: class id\(s\) \[7\] are out of range: expected 0 to 2"),
        (spoil_double, r"'c' has more than one image: .*c\.bmp, .*c\.png"),
    ],
)
def test_errors_name_the_culprit(folder: Path, spoil: object, message: str) -> None:
    root = spoil(folder) or folder  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        read_all(root)


def test_sizes_must_be_positive(folder: Path) -> None:
    with pytest.raises(ValueError, match="crop: expected at least 1 pixel, got 0"):
        dataset(folder, crop=0)
    with pytest.raises(ValueError, match="channels: expected at least 1 band, got 0"):
        dataset(folder, channels=0)
    with pytest.raises(ValueError, match="scale: expected a positive pixel value, got 0"):
        dataset(folder, scale=0)


def test_datamodule_serves_batches(folder: Path) -> None:
    data = FolderData(str(folder), classes=3, ignore_ids=[9], crop=32, batch_size=2, workers=0)
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32)
    assert data.class_names == ["class 0", "class 1", "class 2"]


def test_class_file(tmp_path: Path) -> None:
    dubai = load_classes("dubai")
    assert dubai.names == ("building", "land", "road", "vegetation", "water")
    assert dubai.palette[0] == (0xC8, 0x45, 0x3B)
    assert dubai.ignore_ids == (5, 255)
    path = tmp_path / "classes.json"
    path.write_text('{"classes": [{"name": "x", "colour": "#000000"}, {"name": "y", "colour": "blue"}]}')
    with pytest.raises(ValueError, match=re.escape(f"'{path}' is not a class file") + ".*blue"):
        load_classes(path)
    with pytest.raises(ValueError, match="neither a file nor the name of a shipped class list"):
        load_classes("atlantis")
    with pytest.raises(ValueError, match=r"ignore_ids: \[1\] are also classes"):
        ClassList.numbered(2, (1, 255))
    with pytest.raises(ValueError, match=r"ignore_ids: expected ids in 0\.\.255, got \[256\]"):
        ClassList.numbered(2, (256,))


@pytest.mark.skipif("HQF_DATA" not in os.environ, reason="HQF_DATA names no data folder")
def test_a_real_folder_reads_from_end_to_end() -> None:
    known = load_classes("dubai")
    for split in ("train", "val"):
        tiles = FolderDataset(os.environ["HQF_DATA"], split, known, crop=512)
        for i in range(0, len(tiles), 10):
            ids = set(tiles[i]["mask"].unique().tolist())
            assert ids <= {0, 1, 2, 3, 4, IGNORE_INDEX}


def test_scale_is_the_value_that_becomes_one(folder: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 6000, (3, 50, 90)).astype(np.uint16)
    (folder / "images" / "c.png").unlink()
    path = folder / "images" / "c.tif"
    with rasterio.open(path, "w", driver="GTiff", height=50, width=90, count=3, dtype="uint16") as raster:
        raster.write(pixels)
    np.testing.assert_allclose(dataset(folder, scale=3000)[0]["image"], pixels[:, :40, :40] / 3000, atol=1e-6)


def test_jitter_changes_brightness_and_contrast_alone(folder: Path) -> None:
    torch.manual_seed(0)
    plain = dataset(folder, "train", augment=True)[0]
    torch.manual_seed(0)
    changed = dataset(folder, "train", augment=True, jitter=0.2)[0]
    torch.manual_seed(0)
    again = dataset(folder, "train", augment=True, jitter=0.2)[0]
    assert torch.equal(changed["image"], again["image"])
    assert torch.equal(changed["mask"], plain["mask"])
    # One gain and one offset for all pixels of all bands, not clipped.
    steps = changed["image"].diff(dim=-1) / plain["image"].diff(dim=-1)
    gains = steps[plain["image"].diff(dim=-1).abs() > 0.1]
    assert 0.8 <= gains.mean() <= 1.2
    assert gains.mean() != 1
    torch.testing.assert_close(gains, gains.mean().expand_as(gains), rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    assert torch.equal(dataset(folder, jitter=0.2)[0]["image"], dataset(folder)[0]["image"])
    with pytest.raises(ValueError, match=r"jitter: expected a share in \[0, 1\), got 1"):
        dataset(folder, jitter=1)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_files_that_are_cut_are_named_whatever_is_skipped(folder: Path, kind: str) -> None:
    """In crops of the whole image, too, where GDAL has a way of its own to read a PNG."""
    path = folder / kind / "c.png"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for keep in (False, True):
        with pytest.raises(ValueError, match=rf"{kind}.c\.png: the file is damaged"):
            dataset(folder, crop=90, keep_in_memory=keep)[0]
        with pytest.warns(UserWarning, match=rf"{kind}.c\.png: the file is damaged.*it is skipped"):
            sample = dataset(folder, crop=90, keep_in_memory=keep, skip_damaged=True)[0]
        assert (sample["mask"] == IGNORE_INDEX).all()


def test_damaged_files_are_skipped_only_when_asked(folder: Path) -> None:
    tiles = dataset(folder, skip_damaged=True)
    spoil_image_data(folder)
    with pytest.warns(UserWarning, match=r"images.c\.png: the file is damaged.*it is skipped"):
        sample = tiles[0]
    assert (sample["mask"] == IGNORE_INDEX).all()
    assert sample["image"].shape == (3, 40, 40)
    (folder / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images.a\.png: cannot be read as an image"):
        dataset(folder, "train")
    with pytest.warns(UserWarning, match=r"images.a\.png: cannot be read as an image.*it is skipped"):
        left = dataset(folder, "train", skip_damaged=True)
    assert [mask.name for _, mask in left.pairs] == ["b.png"]
    (folder / "images" / "b.png").write_bytes(b"no image")
    with (
        pytest.warns(UserWarning, match="it is skipped"),
        pytest.raises(ValueError, match=r"train\.txt: none of its images can be read"),
    ):
        dataset(folder, "train", skip_damaged=True)
    # An unknown id is a wrong class list, not damage.
    spoil_class_id(folder)
    Image.new("RGB", (90, 50)).save(folder / "images" / "c.png")
    with pytest.raises(ValueError, match=r"class id\(s\) \[7\]"):
        dataset(folder, skip_damaged=True)[0]


def test_class_weights(folder: Path) -> None:
    ids = np.array(Image.open(folder / "masks" / "c.png"))
    pixels = class_pixels(dataset(folder), 3)
    assert pixels.tolist() == [(ids == k).sum() for k in range(3)]
    weights = class_weights(torch.tensor([900, 90, 1, 9]))
    torch.testing.assert_close(weights, torch.tensor([0.9, 0.09, 0.01, 0.01]).rsqrt())
    assert torch.isfinite(class_weights(torch.zeros(3, dtype=torch.int64))).all()
