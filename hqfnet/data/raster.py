"""Reading images and masks in any format that GDAL knows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NodataShadowWarning, NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

Pixels = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]

LARGEST = 1e18
"""Of the numbers in an image, in magnitude. What lies beyond is a mark for missing data that no tag tells of (1e20,
1e30, -3.4e38): its square alone takes float32, in which networks compute variances, to its end."""

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""What rasterio raises of GDAL's errors, its own or as they come."""

_GDAL = {
    # For an image that is read as a whole GDAL has a short cut around libpng, which takes damage for data.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    # Of damage in the middle of a JPEG, libjpeg makes a warning and grey blocks.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
}


class DamagedFileError(ValueError):
    """A file that should hold an image or a mask cannot be read."""


@contextmanager
def open_raster(path: str | Path, **options: Any) -> Iterator[rasterio.DatasetReader]:
    """An open raster; GDAL has its ``options``, and reports damage, as long as it is open.

    Raises:
        DamagedFileError: the file cannot be opened, or its writing has been broken off.
    """
    with rasterio.Env(**_GDAL, **options):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                raster = rasterio.open(path)
        except GDAL_ERRORS as error:
            raise DamagedFileError(f"{path}: cannot be read as an image: {error}") from error
        with raster:
            # A GeoTIFF whose writer was killed is whole but for its pixels, which read as 0.
            if raster.driver == "GTiff" and raster.nodata is None and not _has_blocks(raster):
                raise DamagedFileError(f"{path}: the file is damaged: it holds no pixels, its writing was broken off")
            yield raster


def _has_blocks(raster: rasterio.DatasetReader) -> bool:
    rows, columns = raster.block_shapes[0]
    return any(
        raster.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band) is not None
        for band in raster.indexes
        for row in range(-(-raster.height // rows))
        for column in range(-(-raster.width // columns))
    )


@dataclass(frozen=True)
class Layout:
    """Size and place of a raster.

    Attributes:
        size: (height, width) in pixels.
        crs: coordinate system, None without one.
        transform: (column, row) to coordinates, None without one.
    """

    size: tuple[int, int]
    crs: CRS | None
    transform: Affine | None

    @classmethod
    def of(cls, path: Path) -> Layout:
        """That of a file; DamagedFileError when it cannot be opened."""
        with open_raster(path) as raster:
            place = None if raster.transform.is_identity or raster.transform.is_degenerate else raster.transform
            return cls((raster.height, raster.width), raster.crs, place)

    def difference(self, other: Layout) -> str:
        """In what a raster of the same size lies elsewhere, by more than half a pixel; empty where nothing tells."""
        if self.crs and other.crs and self.crs != other.crs:
            return f"their coordinate systems, {self.crs.to_string()} and {other.crs.to_string()}"
        if self.transform is None or other.transform is None:
            return ""
        height, width = self.size
        corners = np.array([(0, width, 0, width), (0, 0, height, height), (1, 1, 1, 1)])
        here, there = (np.reshape(transform, (3, 3)) for transform in (self.transform, other.transform))
        moved = np.linalg.norm(np.linalg.inv(here) @ there @ corners - corners, axis=0).max()
        return f"their places, by up to {moved:.1f} pixels" if moved > 0.5 else ""


IMAGES = {
    ".tif", ".tiff", ".gtiff", ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".jp2", ".j2k",
    ".jpx", ".jpc", ".jpf", ".vrt", ".img", ".ecw", ".sid", ".ntf", ".nitf", ".pix", ".pgm", ".ppm", ".pnm",
    ".tga", ".sgi", ".bil", ".bip", ".bsq", ".mrf", ".asc", ".grd", ".rst", ".sdat", ".flt", ".nc", ".hdf", ".h5",
    ".grb", ".grib", ".dem",
}  # fmt: skip
"""Endings of files that are rasters; what else has their name, in any of too many formats, belongs to them."""

_WORLD_FILES = {".tfw", ".jgw", ".pgw", ".j2w", ".bpw", ".gfw", ".tifw", ".jpgw", ".pngw", ".wld"}
_SIDE_FILES = {".xml", ".txt", ".json", ".prj", ".hdr", ".aux", ".ovr"} | _WORLD_FILES


def rasters_in(folder: Path) -> dict[str, list[Path]]:
    """The rasters of a folder by their stems, in alphabetical order.

    Of the files of one stem, those with an ending of images are its rasters; where there is none, all that are not
    known for side files, since GDAL reads many more formats than have an ending of their own.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SIDE_FILES and path.is_file():
            files.setdefault(path.stem, []).append(path)
    return {stem: [path for path in paths if path.suffix.lower() in IMAGES] or paths for stem, paths in files.items()}


def data_bands(raster: rasterio.DatasetReader) -> list[int]:
    """Numbers of the bands that are not alpha, from 1 on."""
    return [band for band, kind in zip(raster.indexes, raster.colorinterp, strict=True) if kind != ColorInterp.alpha]


def read_image(path: Path, channels: int, window: Window | None = None) -> tuple[Pixels, Valid]:
    """The first ``channels`` bands in the file's own type, and where they have data, both (channels, H, W).

    Alpha bands are left out, unless there are too few others: GDAL takes the fourth band of any image of 8 bits for
    one, near infrared too. See `read_valid` for what counts as data.

    Raises:
        ValueError: the file cannot be read (DamagedFileError), has fewer bands, or bands that `read_valid` refuses.
    """
    with open_raster(path) as raster:
        if raster.count < channels:
            raise ValueError(f"{path}: expected at least {channels} bands, got {raster.count}")
        bands = data_bands(raster)
        return read_valid(raster, (bands if len(bands) >= channels else raster.indexes)[:channels], window)


def may_miss_data(raster: rasterio.DatasetReader) -> bool:
    """Whether pixels of a raster can be without data."""
    masked = any(MaskFlags.all_valid not in flags for flags in raster.mask_flag_enums)
    return masked or ColorInterp.alpha in raster.colorinterp or any(map(_may_exceed, raster.dtypes))


def read_valid(
    raster: rasterio.DatasetReader, bands: Sequence[int], window: Window | None = None
) -> tuple[Pixels, Valid]:
    """Bands in the raster's own type, 0 where a band has no data, and where each has data, both (C, H, W).

    A band is without data where its nodata value or its mask says so; all are where any alpha band is 0, and where any
    of them is not a number of at most `LARGEST`. A pixel has data where one of its bands has. An alpha band that is
    among these bands is data. Pixels are as they are stored: scale and offset tags do not count.

    Raises:
        ValueError: the file is damaged (DamagedFileError), or these bands are complex or of different types.
    """
    kinds = list(dict.fromkeys(raster.dtypes[band - 1] for band in bands))
    if len(kinds) > 1 or kinds[0].startswith("complex"):
        raise ValueError(f"{raster.name}: expected bands of one real type, got {', '.join(kinds)} in the bands {bands}")
    with _naming_damage(raster.name), warnings.catch_warnings():
        warnings.simplefilter("ignore", NodataShadowWarning)  # an alpha band counts as well
        pixels = raster.read(bands, window=window)
        if not may_miss_data(raster):
            return pixels, np.broadcast_to(True, pixels.shape)
        there = np.ones(pixels.shape, bool)
        valid = np.ones(pixels.shape[1:], bool)
        for k, band in enumerate(bands):
            if not {MaskFlags.all_valid, MaskFlags.alpha} & set(raster.mask_flag_enums[band - 1]):
                there[k] = raster.read_masks(band, window=window) > 0
            if (nodata := raster.nodatavals[band - 1]) is not None:  # GDAL drops it where there is a mask as well
                there[k] &= pixels[k] != nodata
        for band in set(raster.indexes) - set(data_bands(raster)) - set(bands):
            valid &= raster.read(band, window=window) > 0
    if _may_exceed(kinds[0]):
        valid &= ((pixels >= -LARGEST) & (pixels <= LARGEST)).all(axis=0)
    there &= valid
    return np.where(there, pixels, pixels.dtype.type(0)), there


def to_unit(pixels: Pixels, scale: float | None = None) -> npt.NDArray[np.float32]:
    """Pixels as float32, divided by ``scale``.

    Without ``scale``, integers are divided by the largest value of their type and floats stay as they are. Sensors
    that do not use the range of their type need it: 16-bit reflectances of Sentinel-2, say, with 3000.

    Raises:
        ValueError: integers of 64 bits without a scale; nothing uses the range of that type.
    """
    if scale is None:
        if pixels.dtype in (np.int64, np.uint64):
            raise ValueError(
                f"scale: expected the pixel value that becomes 1, since pixels are {pixels.dtype}; got none"
            )
        scale = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1
    wide = np.result_type(pixels.dtype, np.float32)  # float64 for what float32 does not hold
    return (pixels.astype(wide) / wide.type(scale)).astype(np.float32)


def read_mask(path: Path, window: Window | None = None) -> npt.NDArray[np.uint8]:
    """The class ids of a mask as (H, W) uint8; for a palette image, the indices and not the colours.

    Raises:
        ValueError: the file cannot be read (DamagedFileError), has more than one band, or is not 8-bit.
    """
    with open_raster(path) as raster:
        if raster.count != 1 or raster.dtypes[0] != "uint8":
            raise ValueError(
                f"{path}: expected one band of 8-bit class ids, got {raster.count} band(s) of {raster.dtypes[0]}"
            )
        with _naming_damage(raster.name):
            ids: npt.NDArray[np.uint8] = raster.read(1, window=window)
        return ids


def mask_colours(path: Path) -> dict[int, str]:
    """The palette of a mask as id -> "#RRGGBB"; empty when it has none."""
    with open_raster(path) as raster:
        try:
            colours = raster.colormap(1)
        except ValueError:
            return {}
    return {i: "#{:02X}{:02X}{:02X}".format(*colour[:3]) for i, colour in colours.items()}


def _may_exceed(kind: str) -> bool:
    """Whether a type has numbers beyond `LARGEST`."""
    return kind.startswith("float") or kind in ("int64", "uint64")


@contextmanager
def _naming_damage(name: str) -> Iterator[None]:
    try:
        yield
    except GDAL_ERRORS as error:
        raise DamagedFileError(f"{name}: the file is damaged: {first_cause(error)}") from error


def first_cause(error: BaseException) -> BaseException:
    """What GDAL said; rasterio's own error may do no more than refer to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
