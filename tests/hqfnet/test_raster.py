"""Rasters as people bring them: damage, masks, types and tags, against what rasterio itself says."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from hqfnet.data.raster import (
    LARGEST,
    DamagedFileError,
    open_raster,
    rasters_in,
    read_image,
    read_mask,
    read_valid,
    to_unit,
)

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write(path: Path, pixels: npt.NDArray[Any], mask: npt.NDArray[Any] | None = None, **profile: Any) -> Path:
    """A GeoTIFF of (C, H, W) pixels; with ``mask`` (H, W), an internal one."""
    count, height, width = pixels.shape
    colours = profile.pop("colours", None)
    shape: dict[str, Any] = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape | profile) as file,
    ):
        if colours is not None:
            file.colorinterp = colours
        file.write(pixels)
        if mask is not None:
            file.write_mask(mask)
    return path


def smooth(bands: int = 3, side: int = 300) -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[:side, :side]
    noise = np.random.default_rng(0).integers(0, 20, (bands, side, side))
    return (rows // 2 + columns // 3 + noise).astype(np.uint8)


def write_interlaced(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """An interlaced PNG of (3, H, W) pixels, which neither Pillow nor GDAL writes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    _, height, width = pixels.shape
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, along in passes
        for row in pixels.transpose(1, 2, 0)[top::down, left::along]
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1))
    data = zlib.compress(rows)
    parts = [chunk(b"IDAT", data[start : start + 8192]) for start in range(0, len(data), 8192)]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + b"".join(parts) + chunk(b"IEND", b""))


FORMATS: dict[str, dict[str, Any]] = {
    "png": {"driver": "PNG"},
    "interlaced.png": {},
    "jpg": {"driver": "JPEG"},
    "tif": {"driver": "GTiff"},
    "tiles.tif": {"driver": "GTiff", "tiled": True, "compress": "deflate"},
    "lzw.tif": {"driver": "GTiff", "compress": "lzw"},
    "cog.tif": {"driver": "COG"},
    "jp2": {"driver": "JP2OpenJPEG", "quality": 100, "reversible": True},
    "webp": {"driver": "WEBP", "lossless": True},
    "bmp": {"driver": "BMP"},
    "ppm": {"driver": "PNM"},
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.5, 0.97])
def test_a_file_that_is_cut_is_damaged(tmp_path: Path, form: str, kept: float) -> None:
    """Whole images and windows alike, in whatever part of the file the damage is."""
    cut = tmp_path / f"cut.{form}"
    if form == "interlaced.png":
        write_interlaced(cut, smooth())
    else:
        rasterio.shutil.copy(write(tmp_path / "whole.tif", smooth()), cut, **FORMATS[form])
    if form not in ("jpg", "webp"):
        assert np.array_equal(read_image(cut, 3)[0], smooth())
    content = cut.read_bytes()
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DamagedFileError, match=f"cut.{form}: (the file is damaged|cannot be read as an image)"):
        read_image(cut, 3)
    with pytest.raises(DamagedFileError, match=f"cut.{form}: (the file is damaged|cannot be read as an image)"):
        [read_image(cut, 3, Window(0, top, 300, 20)) for top in range(0, 300, 20)]


@pytest.mark.parametrize("form", ["png", "interlaced.png"])
def test_a_bit_that_is_turned_is_damage(tmp_path: Path, form: str) -> None:
    """PNG has a checksum for each chunk."""
    path = tmp_path / f"turned.{form}"
    if form == "png":
        Image.fromarray(smooth().transpose(1, 2, 0)).save(path)
    else:
        write_interlaced(path, smooth())
    whole = path.read_bytes()
    for place in np.random.default_rng(1).integers(60, len(whole) - 20, 8):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DamagedFileError, match="the file is damaged"):
            read_image(path, 3)


def test_what_libjpeg_warns_of_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    Image.fromarray(smooth().transpose(1, 2, 0)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"turned\.jpg: the file is damaged: libjpeg: Corrupt JPEG data"):
        read_image(path, 3)


def test_what_a_reader_may_pass_over_is_no_damage(tmp_path: Path) -> None:
    """In JPEG: bytes after the end, fill bytes before it."""
    for progressive in (False, True):
        path = tmp_path / "photo.jpg"
        Image.fromarray(smooth().transpose(1, 2, 0)).save(path, progressive=progressive)
        whole, expected = path.read_bytes(), read_image(path, 3)[0]
        for content in (whole + b"more", whole[:-2] + b"\xff\xff" + whole[-2:]):
            path.write_bytes(content)
            assert np.array_equal(read_image(path, 3)[0], expected)


@pytest.mark.parametrize("profile", [{}, {"tiled": True, "compress": "lzw"}])
def test_a_file_whose_writing_was_broken_off_is_damaged(tmp_path: Path, profile: dict[str, Any]) -> None:
    """All but the pixels is written first; without them they would all be 0."""
    shape: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": 600, "width": 600, "dtype": "uint8"}
    with rasterio.open(tmp_path / "mask.tif", "w", **shape, **profile) as file:
        file.write(np.ones((1, 300, 600), np.uint8), window=Window(0, 0, 600, 300))
        (tmp_path / "killed.tif").write_bytes((tmp_path / "mask.tif").read_bytes())
    for read in (lambda path: read_image(path, 1), read_mask):
        with pytest.raises(DamagedFileError, match=r"killed\.tif: .*its writing was broken off"):
            read(tmp_path / "killed.tif")
    empty = {"sparse_ok": True, "tiled": True, "blockxsize": 64, "blockysize": 64}
    with rasterio.open(tmp_path / "sparse.tif", "w", **shape, **empty) as file:
        file.write(np.ones((1, 64, 64), np.uint8), window=Window(512, 512, 64, 64))
    assert read_mask(tmp_path / "sparse.tif").sum() == 64 * 64
    with rasterio.open(tmp_path / "empty.tif", "w", **shape, **empty, nodata=0):
        pass
    assert not read_image(tmp_path / "empty.tif", 1)[1].any()


def test_a_damaged_mask_is_damaged(tmp_path: Path) -> None:
    """And not one with ids that nobody knows."""
    path = tmp_path / "mask.png"
    Image.fromarray(smooth(1)[0] % 3).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFileError, match=r"mask\.png: the file is damaged: .*(IDAT|Read Error)"):
        read_mask(path)


def holes(count: int, *, kind: str = "uint8", empty: float = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Pixels (count, 12, 12) without data in 36 of 144 places, and where there is data."""
    valid = np.ones((12, 12), bool)
    valid[:6, :6] = False
    pixels = np.random.default_rng(2).integers(1, 250, (count, 12, 12))
    return np.where(valid, pixels, empty).astype(kind), valid


@pytest.mark.parametrize("how", ["nodata", "mask", "both"])
def test_an_infrared_band_does_not_hide_nodata_and_masks(tmp_path: Path, how: str) -> None:
    """GDAL calls the fourth of four bands of 8 bits alpha; chosen, it is data."""
    pixels, valid = holes(4)
    pixels[:, 11, 11] = 0  # in the mask, but of the nodata value
    profile: dict[str, Any] = {} if how == "mask" else {"nodata": 0}
    mask = None if how == "nodata" else np.where(valid, np.uint8(255), np.uint8(0))
    path = write(tmp_path / "infrared.tif", pixels, mask, **profile)
    with open_raster(path) as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
    expected = valid.copy()
    expected[11, 11] = how == "mask"
    read, there = read_image(path, 4)
    assert np.array_equal(there, np.broadcast_to(expected, (4, 12, 12)))
    assert np.array_equal(read, np.where(expected, pixels, 0))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("nodata", [None, 7])
def test_alpha_is_a_mask_wherever_it_is(tmp_path: Path, place: int, nodata: int | None) -> None:
    pixels, valid = holes(4)
    pixels[:, 10, 10] = 7
    alpha = np.where(valid, np.random.default_rng(3).integers(1, 256, valid.shape), 0).astype(np.uint8)
    stacked = np.insert(pixels, place, alpha, axis=0)
    colours = [ColorInterp.gray] * 5
    colours[place] = ColorInterp.alpha
    path = write(tmp_path / "alpha.tif", stacked, colours=colours, nodata=nodata)
    read, there = read_image(path, 4)
    expected = valid.copy()
    expected[10, 10] = nodata is None
    assert np.array_equal(there, np.where(pixels == nodata, False, expected))
    assert np.array_equal(read, np.where(there, pixels, 0))
    assert read_image(path, 5)[1].any(axis=0).all()  # more bands than there are others: it is data


@pytest.mark.parametrize("value", [1e20, 1e25, 1e30, 3.4e38, -3.4e38, -1e30, np.inf, -np.inf, np.nan, 1e300, -1e300])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_numbers_beyond_all_measure_are_no_data(tmp_path: Path, value: float, kind: str) -> None:
    pixels = np.random.default_rng(4).random((3, 8, 8)).astype(kind)
    with np.errstate(over="ignore"):
        pixels[1, 2, 3] = value
    read, valid = read_image(write(tmp_path / "float.tif", pixels), 3)
    assert valid.sum() == 3 * 63
    assert not valid[:, 2, 3].any()
    assert (read[:, 2, 3] == 0).all()
    assert np.isfinite(to_unit(read)).all()
    pixels[1, 2, 3] = LARGEST
    assert read_image(write(tmp_path / "large.tif", pixels), 3)[1].all()


@pytest.mark.parametrize("kind", ["int64", "uint64"])
def test_integers_of_64_bits(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(5).integers(0, 2**40, (3, 8, 8)).astype(kind)
    pixels[0, 1, 1] = np.iinfo(kind).max
    read, valid = read_image(write(tmp_path / "wide.tif", pixels), 3)
    assert valid.sum() == 3 * 63
    expected = np.where(valid, pixels, 0) / 2.0**40
    assert np.array_equal(to_unit(read, 2**40), expected.astype(np.float32))
    with pytest.raises(ValueError, match=f"scale: expected the pixel value that becomes 1, since pixels are {kind}"):
        to_unit(read)


@pytest.mark.parametrize("kind", ["complex64", "complex128", "complex_int16"])
def test_complex_pixels_are_refused(tmp_path: Path, kind: str) -> None:
    pixels = np.ones((3, 4, 4), np.complex64)
    path = write(tmp_path / "radar.tif", pixels, dtype=kind)
    with pytest.raises(ValueError, match=rf"radar\.tif: expected bands of one real type, got {kind} in the bands"):
        read_image(path, 3)
    with pytest.raises(
        ValueError, match=rf"radar\.tif: expected one band of 8-bit class ids, got 3 band\(s\) of {kind}"
    ):
        read_mask(path)


def test_bands_of_different_types_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "bytes.tif", smooth(2, 8))
    write(tmp_path / "floats.tif", smooth(1, 8).astype(np.float32))
    bands = [("Byte", "bytes", 1), ("Byte", "bytes", 2), ("Float32", "floats", 1)]
    (tmp_path / "mixed.vrt").write_text(vrt(8, bands))
    with pytest.raises(
        ValueError, match=r"mixed\.vrt: expected bands of one real type, got uint8, float32 in the bands"
    ):
        read_image(tmp_path / "mixed.vrt", 3)
    assert np.array_equal(read_image(tmp_path / "mixed.vrt", 2)[0], smooth(2, 8))


def vrt(side: int, bands: list[tuple[str, str, int]]) -> str:
    return (
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}">'
        + "".join(
            f'<VRTRasterBand dataType="{kind}" band="{k}"><SimpleSource><SourceFilename relativeToVRT="1">{name}.tif'
            f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for k, (kind, name, band) in enumerate(bands, 1)
        )
        + "</VRTDataset>"
    )


def test_scale_and_offset_tags_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "tagged.tif", smooth(3, 8))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.0001,) * 3, (-0.1,) * 3
    assert np.array_equal(read_image(path, 3)[0], smooth(3, 8))


def test_transparent_colours_of_a_png_are_no_data(tmp_path: Path) -> None:
    pixels, valid = holes(3)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "key.png", transparency=(0, 0, 0))
    read, there = read_image(tmp_path / "key.png", 3)
    assert np.array_equal(there, np.broadcast_to(valid, (3, 12, 12)))
    assert np.array_equal(read, pixels)


def test_the_raster_of_a_stem_is_the_one_with_an_ending_of_images(tmp_path: Path) -> None:
    sides = "qml rrd RPB IMD tab clr tfw md5 ovr msk aux dbf sha256 pgw wld prj TFW html lyr cpg vat gpkg pdf kml map"
    for name in ("a.TIF", "b.tif", "b.png", "c.weird", "d.dat", "d.hdr", *(f"a.{side}" for side in sides.split())):
        (tmp_path / name).touch()
    for name in ("a.TIF.aux.xml", "a.TIF.ovr", "a.TIF.msk", "a.TIF.vat.dbf"):
        (tmp_path / name).touch()
    found = rasters_in(tmp_path)
    assert [path.name for path in found["a"]] == ["a.TIF"]
    assert [path.name for path in found["b"]] == ["b.png", "b.tif"]
    assert [path.name for path in found["c"]] == ["c.weird"]
    assert [path.name for path in found["d"]] == ["d.dat"]


KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]


def random_rasters(folder: Path, count: int) -> Iterator[tuple[Path, list[int], Window | None]]:
    """Files of random types, bands, colours, nodata values and masks, some bands of each, and a window or none."""
    rng = np.random.default_rng(6)
    for k in range(count):
        kind = np.dtype(KINDS[rng.integers(len(KINDS))])
        bands, height, width = rng.integers(1, 7), *rng.integers(1, 40, 2)
        pixels = rng.integers(0, 5, (bands, height, width)).astype(kind)
        profile: dict[str, Any] = {}
        if rng.random() < 0.5:
            profile["nodata"] = [0, 3, -9999 if kind.kind != "u" and kind.itemsize > 1 else 2][rng.integers(3)]
            pixels[:, : height // 2, : width // 3] = profile["nodata"]
        if kind.kind == "f":
            spoilt = rng.random(pixels.shape) < 0.05
            pixels[spoilt] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -3.4e38, 1e17], spoilt.sum())
        mask = None
        if rng.random() < 0.3:
            mask = (255 * (rng.random((height, width)) < 0.7)).astype(np.uint8)
        if rng.random() < 0.5:
            colours = rng.choice([ColorInterp.gray, ColorInterp.red, ColorInterp.undefined, ColorInterp.alpha], bands)
            profile["colours"] = [ColorInterp(int(c)) for c in colours]
        if rng.random() < 0.3:
            profile |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
        chosen = (1 + rng.permutation(bands)[: rng.integers(1, bands + 1)]).tolist()
        top, left = int(rng.integers(height)), int(rng.integers(width))
        window = Window(left, top, width - left, height - top) if rng.random() < 0.5 else None
        yield write(folder / f"{k}.tif", pixels, mask, **profile), chosen, window


def test_random_rasters_against_rasterio(tmp_path: Path) -> None:
    """Values and masks as rasterio has them; where it takes one kind of mask for all, each that there is."""
    seen = set()
    for path, bands, window in random_rasters(tmp_path, 300):
        with open_raster(path) as raster:
            pixels, valid = read_valid(raster, bands, window)
            plain = raster.read(bands, window=window)
            alphas = [b for b in raster.indexes if raster.colorinterp[b - 1] == ColorInterp.alpha]
            flags = set(raster.mask_flag_enums[0])
            nodata, indexes = raster.nodata, list(raster.indexes)
            masks = raster.read_masks(bands, window=window) > 0
            whole = raster.dataset_mask(window=window) > 0
            shown = [raster.read(b, window=window) > 0 for b in alphas if b not in bands]
        measured = (np.abs(plain.astype(np.float64)) <= LARGEST).all(axis=0)
        there = np.ones_like(masks) if MaskFlags.alpha in flags and set(alphas) & set(bands) else masks
        if nodata is not None:
            there = there & (plain != nodata)
        expected = there & np.logical_and.reduce([measured, *shown])
        case = f"{path.name}: bands {bands} of {alphas=} {flags=} {nodata=} {plain.dtype}"
        assert np.array_equal(valid, expected), case
        assert np.array_equal(pixels, np.where(valid, plain, 0)), case
        if sorted(bands) == indexes and not alphas and (nodata is None or MaskFlags.nodata in flags):
            assert np.array_equal(valid.any(axis=0), measured & whole), case
            seen.add("the same mask")
        seen |= {plain.dtype.name, *flags}
    assert seen == {"the same mask", *KINDS, *MaskFlags}
