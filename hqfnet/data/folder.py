"""A folder of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.raster import Pixels, raster_size, rasters_in, read_image, read_mask, to_unit

Sample = dict[str, Tensor]
Decoded = tuple[Pixels, npt.NDArray[np.uint8]]  # pixels (channels, H, W) and targets (H, W)


class FolderDataset(Dataset[Sample]):
    """Crops from ``root/images`` and ``root/masks``, for the stems that ``root/<split>.txt`` lists.

    An image and its mask have the same stem and size; images come in any format that GDAL reads (JPEG, PNG, GeoTIFF,
    JPEG 2000, ...), masks are 8-bit class ids (palette PNG included). Sample i is
    ``{"image": (channels, crop, crop) float32 in [0, 1], "mask": (crop, crop) int64}`` with `IGNORE_INDEX` where
    nothing is to be learned.

    The crops of a split form a grid without overlap that covers every image; what hangs over the edge is filled by
    the border of the image and ignored in the mask. With ``augment``, sample i is instead a random crop of the image
    of grid crop i, flipped and turned by multiples of 90 degrees, drawn from torch's global generator.

    Args:
        root: the folder.
        split: name of the split file without ".txt".
        classes: which ids of the masks are classes, and which become `IGNORE_INDEX`.
        crop: side of a crop in pixels.
        channels: bands to read from each image.
        augment: random crops, flips and turns.
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
        augment: bool = False,
        keep_in_memory: bool = False,
    ) -> None:
        if crop < 1:
            raise ValueError(f"crop: expected at least 1 pixel, got {crop}")
        self.root = Path(root)
        self.crop = crop
        self.channels = channels
        self.augment = augment
        self.classes = classes
        self.pairs = find_pairs(self.root, split)
        self.cells: list[tuple[int, int, int]] = []  # (index of the pair, top, left) of each grid crop
        self.sizes: list[tuple[int, int]] = []
        for index, (image, mask) in enumerate(self.pairs):
            size, mask_size = raster_size(image), raster_size(mask)
            if size != mask_size:
                raise ValueError(f"{mask}: the mask is {_by(mask_size)}, but its image {image} is {_by(size)}")
            self.sizes.append(size)
            self.cells += [(index, top, left) for top in range(0, size[0], crop) for left in range(0, size[1], crop)]
        # Mask ids to targets: classes stay, ignored ids become IGNORE_INDEX, everything else is an error (-1).
        self._targets = np.full(256, -1, dtype=np.int16)
        self._targets[: len(classes)] = np.arange(len(classes))
        self._targets[list(classes.ignore_ids)] = IGNORE_INDEX
        self._memory: dict[int, Decoded] | None = {} if keep_in_memory else None

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: int) -> Sample:
        pair, top, left = self.cells[i]
        height, width = self.sizes[pair]
        if self.augment:
            top = int(torch.randint(max(height - self.crop, 0) + 1, ()))
            left = int(torch.randint(max(width - self.crop, 0) + 1, ()))
        image, target = self._read(pair, top, left, min(self.crop, height - top), min(self.crop, width - left))
        missing = ((0, self.crop - target.shape[0]), (0, self.crop - target.shape[1]))
        sample = {
            "image": torch.from_numpy(np.pad(to_unit(image), ((0, 0), *missing), mode="edge")),
            "mask": torch.from_numpy(np.pad(target, missing, constant_values=IGNORE_INDEX)).long(),
        }
        return turn_at_random(sample) if self.augment else sample

    def _read(self, pair: int, top: int, left: int, height: int, width: int) -> Decoded:
        if self._memory is None:
            return self._decode(pair, Window(left, top, width, height))
        if pair not in self._memory:
            self._memory[pair] = self._decode(pair, None)
        image, target = self._memory[pair]
        rows, columns = slice(top, top + height), slice(left, left + width)
        return image[:, rows, columns], target[rows, columns]

    def _decode(self, pair: int, window: Window | None) -> Decoded:
        image_path, mask_path = self.pairs[pair]
        ids = read_mask(mask_path, window)
        target = self._targets[ids]
        if (target < 0).any():
            unknown = sorted(int(i) for i in np.unique(ids[target < 0]))
            raise ValueError(
                f"{mask_path}: class id(s) {unknown} are out of range: expected 0 to {len(self.classes) - 1}, "
                f"or an ignored id"
            )
        return read_image(image_path, self.channels, window), target.astype(np.uint8)


_TURNS = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomChoice([v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]),
    ]
)


def turn_at_random(sample: Sample) -> Sample:
    """Flips and turns a square sample by a multiple of 90 degrees, image and mask alike."""
    turned = _TURNS(tv_tensors.Image(sample["image"]), tv_tensors.Mask(sample["mask"]))
    return {name: tensor.as_subclass(Tensor) for name, tensor in zip(("image", "mask"), turned, strict=True)}


def find_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """(image, mask) for each stem in ``root/<split>.txt``, in its order.

    Raises:
        ValueError: a folder, the split file, an image or a mask is missing, empty or not unique.
    """
    for folder in (root, root / "images", root / "masks"):
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder")
    listing = root / f"{split}.txt"
    if not listing.is_file():
        raise ValueError(f"{listing}: there is no such split file")
    stems = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    if not stems:
        raise ValueError(f"{listing}: the split file lists no image")
    images, masks = _by_stem(root / "images"), _by_stem(root / "masks")
    return [(_only(images, stem, "image", listing), _only(masks, stem, "mask", listing)) for stem in stems]


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in rasters_in(folder):
        found.setdefault(path.stem, []).append(path)
    return found


def _only(files: dict[str, list[Path]], stem: str, kind: str, listing: Path) -> Path:
    paths = files.get(stem, [])
    if not paths:
        raise ValueError(f"{listing}: '{stem}' has no {kind} in {listing.parent / kind}s")
    if len(paths) > 1:
        raise ValueError(f"{listing}: '{stem}' has more than one {kind}: {', '.join(map(str, paths))}")
    return paths[0]


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
