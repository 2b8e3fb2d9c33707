"""Crops of labelled rasters: what every data set has in common."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import kornia.augmentation as K
import numpy as np
import numpy.typing as npt
import torch
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.raster import DamagedFileError, Pixels, Valid, to_unit

Sample = dict[str, Tensor]
Decoded = tuple[Pixels, Valid, npt.NDArray[np.uint8]]
"""Pixels as in the file and where there is data, both (channels, H, W), and class ids (H, W) as in the file."""


class CropDataset(Dataset[Sample]):
    """Square crops of labelled images of any size.

    Sample i is ``{"image": (channels, crop, crop) float32, "valid": (channels, crop, crop) bool, "mask": (crop, crop)
    int64}``: where a band has data, 0 elsewhere, and `IGNORE_INDEX` where nothing is to be learned.

    The crops form a grid without overlap that covers every image; what hangs over the edge is filled by the border of
    the image and ignored in the mask, as pixels without data are. With ``augment``, sample i is instead a random crop
    of the image of grid crop i, flipped and turned by multiples of 90 degrees, drawn from torch's global generator.

    A subclass says how an image is read (`read`) and what its files are called (`name`).

    Args:
        sizes: (height, width) of each image in pixels.
        classes: which ids of the masks are classes, and which become `IGNORE_INDEX`.
        crop: side of a crop in pixels.
        channels: bands of an image.
        scale: the pixel value that becomes 1; None for the largest value of an integer type (see `to_unit`).
        augment: random crops, flips and turns.
        jitter: with ``augment``, brightness and contrast of all bands change at random by up to this share.
        skip_damaged: a crop whose file cannot be read becomes an empty sample, zeros that are ignored in the mask,
            with a warning that names the file; otherwise it is an error.

    Raises:
        ValueError: an argument out of range; on reading, naming the file, when it is damaged, has another size or
            number of bands than expected, or a mask holds an unknown id.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        classes: ClassList,
        crop: int,
        channels: int,
        scale: float | None = None,
        augment: bool = False,
        jitter: float = 0.0,
        skip_damaged: bool = False,
    ) -> None:
        if crop < 1:
            raise ValueError(f"crop: expected at least 1 pixel, got {crop}")
        if channels < 1:
            raise ValueError(f"channels: expected at least 1 band, got {channels}")
        if scale is not None and not scale > 0:
            raise ValueError(f"scale: expected a positive pixel value, got {scale}")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter: expected a share in [0, 1), got {jitter}")
        self.sizes = list(sizes)
        self.classes = classes
        self.crop = crop
        self.channels = channels
        self.scale = scale
        self.augment = augment
        self.jitter = jitter
        self.skip_damaged = skip_damaged
        self.cells = [  # (index of the image, top, left) of each grid crop
            (index, top, left)
            for index, (height, width) in enumerate(self.sizes)
            for top in range(0, height, crop)
            for left in range(0, width, crop)
        ]
        if not self.cells:
            raise ValueError("sizes: expected at least one image, got none")
        # Mask ids to targets: classes stay, ignored ids become IGNORE_INDEX, everything else is an error (-1).
        self._targets = np.full(256, -1, dtype=np.int16)
        self._targets[: len(classes)] = np.arange(len(classes))
        self._targets[list(classes.ignore_ids)] = IGNORE_INDEX

    def read(self, index: int, window: Window) -> Decoded:
        """A window of image ``index`` and its mask; DamagedFileError when a file cannot be read."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What errors call image ``index`` and its mask."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, i: int) -> Sample:
        index, top, left = self.cells[i]
        height, width = self.sizes[index]
        if self.augment:
            top = int(torch.randint(max(height - self.crop, 0) + 1, ()))
            left = int(torch.randint(max(width - self.crop, 0) + 1, ()))
        window = Window(left, top, min(self.crop, width - left), min(self.crop, height - top))
        try:
            pixels, valid, ids = self.read(index, window)
        except DamagedFileError as error:
            if not self.skip_damaged:
                raise
            warnings.warn(f"{error}; it is skipped", stacklevel=2)
            return {
                "image": torch.zeros(self.channels, self.crop, self.crop),
                "valid": torch.zeros(self.channels, self.crop, self.crop, dtype=torch.bool),
                "mask": torch.full((self.crop, self.crop), IGNORE_INDEX),
            }
        target = np.where(valid.any(axis=0), self._target(index, ids), np.uint8(IGNORE_INDEX))
        missing = ((0, self.crop - target.shape[0]), (0, self.crop - target.shape[1]))
        sample = {
            "image": torch.from_numpy(np.pad(to_unit(pixels, self.scale), ((0, 0), *missing), mode="edge")),
            "valid": torch.from_numpy(np.pad(valid, ((0, 0), *missing), mode="edge")),
            "mask": torch.from_numpy(np.pad(target, missing, constant_values=IGNORE_INDEX)).long(),
        }
        return jitter_at_random(turn_at_random(sample), self.jitter) if self.augment else sample

    def _target(self, index: int, ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        target = self._targets[ids]
        if (target < 0).any():
            unknown = sorted(int(i) for i in np.unique(ids[target < 0]))
            raise ValueError(
                f"{self.name(index)}: class id(s) {unknown} are out of range: expected 0 to {len(self.classes) - 1}, "
                f"or an ignored id"
            )
        return target.astype(np.uint8)


_TURNS = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomChoice([v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]),
    ]
)


def turn_at_random(sample: Sample) -> Sample:
    """Flips and turns a square sample by a multiple of 90 degrees, all its parts alike."""
    parts = [tv_tensors.Image(sample["image"]), *(tv_tensors.Mask(sample[name]) for name in sample if name != "image")]
    turned = [tensor.as_subclass(Tensor) for tensor in _TURNS(*parts)]
    return dict(zip(["image", *(name for name in sample if name != "image")], turned, strict=True))


def network_inputs(sample: Sample) -> list[Tensor]:
    """What a network is given of a sample or batch: the image and, where that is known, where it has data."""
    return [sample[name] for name in ("image", "valid") if name in sample]


def jitter_at_random(sample: Sample, amount: float) -> Sample:
    """Changes brightness and contrast of an image by up to ``amount``, in all bands alike; nothing is clipped."""
    if not amount:
        return sample
    span = (1 - amount, 1 + amount)
    change = torch.nn.Sequential(
        K.RandomBrightness(span, clip_output=False, p=1.0), K.RandomContrast(span, clip_output=False, p=1.0)
    )
    return {**sample, "image": change(sample["image"][None])[0]}
