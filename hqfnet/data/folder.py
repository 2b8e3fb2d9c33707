"""A folder of images and masks."""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from hqfnet.data.classes import ClassList
from hqfnet.data.crops import CropDataset, Decoded
from hqfnet.data.raster import DamagedFileError, Layout, rasters_in, read_image, read_mask


class FolderDataset(CropDataset):
    """Crops from ``root/images`` and ``root/masks``, for the stems that ``root/<split>.txt`` lists.

    An image and its mask have the same stem and size; images come in any format that GDAL reads (JPEG, PNG, GeoTIFF,
    JPEG 2000, ...), masks are 8-bit class ids (palette PNG included). Pixels of an image without data (nodata value,
    mask, alpha, NaN) are 0 and ignored. For samples, the grid of crops and ``augment`` see `CropDataset`.

    Warnings tell of masks that lie elsewhere than their images by their georeferences, and of masks in which no two
    classes are left because the ids of all others are ignored.

    Args:
        root: the folder.
        split: name of the split file without ".txt".
        classes: which ids of the masks are classes, and which become `IGNORE_INDEX`.
        crop: side of a crop in pixels.
        channels: bands to read from each image.
        scale, augment, jitter: see `CropDataset`.
        skip_damaged: leaves out files that cannot be read, with a warning that names them, instead of an error.
        keep_in_memory: decode each file once and keep it, for folders that fit in memory.

    Raises:
        ValueError: naming the culprit, when a folder, the split file, an image or a mask is missing, empty, doubled,
            unreadable or of another size than its partner; on reading, when a mask holds an unknown id.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: ClassList,
        crop: int = 256,
        channels: int = 3,
        scale: float | None = None,
        augment: bool = False,
        jitter: float = 0.0,
        skip_damaged: bool = False,
        keep_in_memory: bool = False,
    ) -> None:
        self.root = Path(root)
        self.pairs: list[tuple[Path, Path]] = []
        sizes: list[tuple[int, int]] = []
        misplaced: list[str] = []
        for image, mask in find_pairs(self.root, split):
            try:
                layout, mask_layout = Layout.of(image), Layout.of(mask)
            except DamagedFileError as error:
                if not skip_damaged:
                    raise
                warnings.warn(f"{error}; it is skipped", stacklevel=2)
                continue
            if layout.size != mask_layout.size:
                raise ValueError(
                    f"{mask}: the mask is {_by(mask_layout.size)}, but its image {image} is {_by(layout.size)}"
                )
            if apart := layout.difference(mask_layout):
                misplaced.append(f"{mask} and {image} differ in {apart}")
            self.pairs.append((image, mask))
            sizes.append(layout.size)
        if misplaced:
            warnings.warn(
                f"{len(misplaced)} mask(s) do not lie where their images lie, first: {misplaced[0]}; pixels are taken "
                f"to match one by one",
                stacklevel=2,
            )
        if not sizes:
            raise ValueError(f"{self.root / split}.txt: none of its images can be read")
        super().__init__(sizes, classes, crop, channels, scale, augment, jitter, skip_damaged)
        self._memory: dict[int, Decoded] | None = {} if keep_in_memory else None
        counted, ignored = self._ids_in_masks()
        if len(counted) < 2 and ignored:
            warnings.warn(
                f"{self.root / split}.txt: its masks hold the ids {sorted(counted | ignored)} alone, and of these "
                f"{sorted(ignored)} do not count, so that nothing is left to tell apart; classes have the ids 0 to "
                f"{len(classes) - 1}",
                stacklevel=2,
            )

    def name(self, index: int) -> str:
        return str(self.pairs[index][1])

    def read(self, index: int, window: Window) -> Decoded:
        if self._memory is None:
            return self._decode(index, window)
        if index not in self._memory:
            self._memory[index] = self._decode(index, None)
        pixels, valid, ids = self._memory[index]
        rows, columns = window.toslices()
        return pixels[:, rows, columns], valid[:, rows, columns], ids[rows, columns]

    def _ids_in_masks(self) -> tuple[set[int], set[int]]:
        """Ids that count and ids that are ignored, of as many masks as it takes to find two that count."""
        found: set[int] = set()
        ignored = set(self.classes.ignore_ids)
        for (_, mask), (height, width) in zip(self.pairs, self.sizes, strict=True):
            for top in range(0, height, 1024):
                if len(found - ignored) > 1:
                    break
                try:
                    found.update(np.unique(read_mask(mask, Window(0, top, width, min(1024, height - top)))).tolist())
                except ValueError:  # said when its crops are read
                    break
        return found - ignored, found & ignored

    def _decode(self, index: int, window: Window | None) -> Decoded:
        image, mask = self.pairs[index]
        return *read_image(image, self.channels, window), read_mask(mask, window)


def find_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, mask) for each stem in ``root/<split>.txt``, in its order.

    Raises:
        ValueError: a folder, the split file, an image or a mask is missing, empty or not unique.
    """
    for folder in (root, root / "images", root / "masks"):
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder")
    listing = root / f"{split}.txt"
    stems = _stems(listing)
    if doubled := [stem for stem, count in Counter(stems).items() if count > 1]:
        warnings.warn(f"{listing}: lists {len(doubled)} image(s) more than once, first '{doubled[0]}'", stacklevel=2)
    images, masks = rasters_in(root / "images"), rasters_in(root / "masks")
    return [(_only(images, stem, "image", listing), _only(masks, stem, "mask", listing)) for stem in stems]


def warn_of_shared_images(root: Path, splits: Sequence[str]) -> None:
    """Warns of images that are in two of these splits, as far as the split files can be read."""
    found: dict[Path, dict[str, None]] = {}
    for listing in (root / f"{split}.txt" for split in splits):
        with suppress(ValueError):  # it is said when the split is used
            found[listing] = dict.fromkeys(_stems(listing))
    for (one, stems), (other, others) in itertools.combinations(found.items(), 2):
        if shared := [stem for stem in stems if stem in others]:
            warnings.warn(
                f"{one} and {other} share {len(shared)} image(s), first '{shared[0]}': scores on images that were "
                f"trained on say nothing about others",
                stacklevel=2,
            )


def _stems(listing: Path) -> list[str]:
    if not listing.is_file():
        raise ValueError(f"{listing}: there is no such split file")
    try:
        stems = [line.strip() for line in listing.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{listing}: the split file is not in UTF-8: {error}") from error
    if not stems:
        raise ValueError(f"{listing}: the split file lists no image")
    return stems


def _only(files: dict[str, list[Path]], stem: str, kind: str, listing: Path) -> Path:
    paths = files.get(stem, [])
    if not paths:
        raise ValueError(f"{listing}: '{stem}' has no {kind} in {listing.parent / kind}s")
    if len(paths) > 1:
        raise ValueError(f"{listing}: '{stem}' has more than one {kind}: {', '.join(map(str, paths))}")
    return paths[0]


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
