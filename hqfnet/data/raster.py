"""Reading images and masks in any format that GDAL knows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

Pixels = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]


class DamagedFileError(ValueError):
    """A file that should hold an image or a mask cannot be read."""


_WORLD_FILES = {".tfw", ".jgw", ".pgw", ".j2w", ".bpw", ".gfw", ".tifw", ".jpgw", ".pngw", ".wld"}
_SIDE_FILES = {".xml", ".txt", ".json", ".prj", ".hdr", ".aux", ".ovr"} | _WORLD_FILES


def rasters_in(folder: Path) -> list[Path]:
    """The files of a folder in alphabetical order, without the side files that belong to rasters."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() not in _SIDE_FILES)


def raster_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels; DamagedFileError when the file cannot be opened."""
    with _open(path) as raster:
        return raster.height, raster.width


def read_image(path: Path, channels: int, window: Window | None = None) -> tuple[Pixels, Valid]:
    """The first ``channels`` bands as (channels, H, W), in the file's own type, and where there is data (H, W).

    See `read_valid` for what counts as data.

    Raises:
        ValueError: the file cannot be read (DamagedFileError) or has fewer bands.
    """
    with _open(path) as raster:
        if raster.count < channels:
            raise ValueError(f"{path}: expected at least {channels} bands, got {raster.count}")
        with _naming_damage(path):
            return read_valid(raster, list(range(1, channels + 1)), window)


def may_miss_data(raster: rasterio.DatasetReader) -> bool:
    """Whether pixels of a raster can be without data."""
    masked = any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)
    return masked or any(np.issubdtype(np.dtype(kind), np.floating) for kind in raster.dtypes)


def read_valid(raster: rasterio.DatasetReader, bands: list[int], window: Window | None = None) -> tuple[Pixels, Valid]:
    """Bands as (C, H, W), in the raster's own type with 0 where a band has no data, and where there is data (H, W).

    A pixel is without data where the raster says so of all these bands, by its nodata value, a mask or an alpha band,
    and where any of them is not a finite float32. An alpha band that is among them is data: GDAL takes the fourth band
    of any image of 8 bits for one, near infrared too.

    Raises:
        RasterioError: the file is damaged.
    """
    pixels = raster.read(bands, window=window)
    if not may_miss_data(raster):
        return pixels, np.ones(pixels.shape[1:], bool)
    with np.errstate(over="ignore"):
        finite = np.isfinite(pixels.astype(np.float32)).all(axis=0)
    there = np.ones(pixels.shape, bool)
    if not any(raster.colorinterp[band - 1] == ColorInterp.alpha for band in bands):
        there = raster.read_masks(bands, window=window) > 0
    valid = finite & there.any(axis=0)
    return np.where(there & valid, pixels, pixels.dtype.type(0)), valid


def to_unit(pixels: Pixels, scale: float | None = None) -> npt.NDArray[np.float32]:
    """Pixels as float32, divided by ``scale``.

    Without ``scale``, integers are divided by the largest value of their type and floats stay as they are. Sensors
    that do not use the range of their type need it: 16-bit reflectances of Sentinel-2, say, with 3000.
    """
    if scale is None:
        scale = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1
    return pixels.astype(np.float32) / np.float32(scale)


def read_mask(path: Path, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """The class ids of a mask as (H, W) uint8; for a palette image, the indices and not the colours.

    Raises:
        ValueError: the file cannot be read (DamagedFileError), has more than one band, or is not 8-bit.
    """
    with _open(path) as raster:
        if raster.count != 1 or raster.dtypes[0] != "uint8":
            raise ValueError(
                f"{path}: expected one band of 8-bit class ids, got {raster.count} band(s) of {raster.dtypes[0]}"
            )
        with _naming_damage(path):
            ids: npt.NDArray[np.uint8] = raster.read(1, window=window)
        return ids


def mask_colours(path: Path) -> dict[int, str]:
    """The palette of a mask as id -> "#RRGGBB"; empty when it has none."""
    with _open(path) as raster:
        try:
            colours = raster.colormap(1)
        except ValueError:
            return {}
    return {i: "#{:02X}{:02X}{:02X}".format(*colour[:3]) for i, colour in colours.items()}


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        raise DamagedFileError(f"{path}: the file is damaged: {error}") from error


def _open(path: Path) -> rasterio.DatasetReader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise DamagedFileError(f"{path}: cannot be read as an image: {error}") from error
