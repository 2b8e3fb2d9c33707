"""Reading images and masks in any format that GDAL knows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

Pixels = npt.NDArray[Any]


class DamagedFileError(ValueError):
    """A file that should hold an image or a mask cannot be read."""


_SIDE_FILES = {".xml", ".txt", ".json", ".tfw", ".jgw", ".pgw", ".prj"}


def rasters_in(folder: Path) -> list[Path]:
    """The files of a folder in alphabetical order, without the side files that belong to rasters."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() not in _SIDE_FILES)


def raster_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels; DamagedFileError when the file cannot be opened."""
    with _open(path) as raster:
        return raster.height, raster.width


def read_image(path: Path, channels: int, window: Window | None = None) -> Pixels:
    """The first ``channels`` bands as (channels, H, W), in the file's own type.

    Raises:
        ValueError: the file cannot be read (DamagedFileError) or has fewer bands.
    """
    with _open(path) as raster:
        if raster.count < channels:
            raise ValueError(f"{path}: expected at least {channels} bands, got {raster.count}")
        return _read(raster, path, list(range(1, channels + 1)), window)


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
        return _read(raster, path, 1, window)


def mask_colours(path: Path) -> dict[int, str]:
    """The palette of a mask as id -> "#RRGGBB"; empty when it has none."""
    with _open(path) as raster:
        try:
            colours = raster.colormap(1)
        except ValueError:
            return {}
    return {i: "#{:02X}{:02X}{:02X}".format(*colour[:3]) for i, colour in colours.items()}


def georeference(path: Path) -> dict[str, Any] | None:
    """Coordinate system and transform of a raster, as keywords for writing one; None when it has neither."""
    with _open(path) as raster:
        if raster.crs is None and raster.transform.is_identity:
            return None
        return {"crs": raster.crs, "transform": raster.transform}


def _open(path: Path) -> rasterio.DatasetReader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise DamagedFileError(f"{path}: cannot be read as an image: {error}") from error


def _read(raster: rasterio.DatasetReader, path: Path, bands: int | list[int], window: Window | None) -> Pixels:
    try:
        return raster.read(bands, window=window)
    except RasterioError as error:
        raise DamagedFileError(f"{path}: the file is damaged: {error}") from error
