"""The published data sets of the paper, through torchgeo."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from zipfile import BadZipFile

import numpy as np
import torchgeo.datasets
from PIL import Image
from rasterio.errors import RasterioError
from rasterio.windows import Window
from torch import Tensor
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset, SeasoNet

from hqfnet.data.classes import IGNORE_INDEX, ClassList
from hqfnet.data.crops import CropDataset, Decoded
from hqfnet.data.datamodule import SceneData
from hqfnet.data.openearthmap import OpenEarthMap
from hqfnet.data.raster import DamagedFileError, Layout

# Whatever the readers behind torchgeo raise for a damaged file: Pillow OSError and SyntaxError, rasterio its own.
_READ_ERRORS = (OSError, SyntaxError, RasterioError)


class TorchGeoCrops(CropDataset):
    """Crops of a torchgeo data set whose samples are an image and a mask.

    Args:
        source: the data set; its masks hold ids from 0 to 255, or -1 for `IGNORE_INDEX`.
        files: what errors call each of its items.
        sizes: (height, width) of each of its items.
        classes, crop, channels, scale, augment, jitter, skip_damaged: see `CropDataset`.

    Raises:
        ValueError: see `CropDataset`.
    """

    def __init__(
        self,
        source: NonGeoDataset,
        files: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        classes: ClassList,
        crop: int,
        channels: int,
        scale: float | None,
        augment: bool = False,
        jitter: float = 0.0,
        skip_damaged: bool = False,
    ) -> None:
        super().__init__(sizes, classes, crop, channels, scale, augment, jitter, skip_damaged)
        self.source = source
        self.files = files

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int, window: Window) -> Decoded:
        try:
            sample = self.source[index]
        except _READ_ERRORS as error:
            raise DamagedFileError(f"{self.name(index)}: cannot be read: {type(error).__name__}: {error}") from error
        if "mask" not in sample:
            raise ValueError(f"{self.name(index)}: there are no labels of this image")
        image, mask, size = sample["image"], sample["mask"], self.sizes[index]
        if image.shape != (self.channels, *size) or mask.shape != size:
            raise ValueError(
                f"{self.name(index)}: expected an image of {self.channels} bands and a mask of {size[1]} x {size[0]} "
                f"pixels, got shapes {tuple(image.shape)} and {tuple(mask.shape)}"
            )
        rows, columns = window.toslices()
        ids = mask[rows, columns].numpy()
        if ids.min() < -1 or ids.max() > IGNORE_INDEX:
            raise ValueError(f"{self.name(index)}: class ids from {ids.min()} to {ids.max()} are out of range")
        pixels = image[:, rows, columns].numpy()
        # Where nothing is labelled, torchgeo may have -1, which becomes IGNORE_INDEX.
        return pixels, np.broadcast_to(True, pixels.shape), ids.astype(np.uint8)


class TorchGeoData(SceneData):
    """A torchgeo datamodule, which downloads, unpacks and splits, with the crops and augmentations of this package.

    torchgeo's own augmentations are not used: they turn by any angle and label the corners that this lays bare.

    Args:
        module: the torchgeo datamodule.
        classes: names, colours and ignored ids.
        scale: the pixel value that becomes 1.
        crop: side of a crop in pixels.
        channels: bands of an image.
        augment, jitter: random changes in training, see `CropDataset`.
        skip_damaged: see `CropDataset`.
        batch_size, workers: see `SceneData`.
    """

    def __init__(
        self,
        module: NonGeoDataModule,
        classes: ClassList,
        scale: float,
        crop: int,
        channels: int,
        augment: bool,
        jitter: float,
        skip_damaged: bool,
        batch_size: int,
        workers: int,
    ) -> None:
        super().__init__(classes, channels, scale, batch_size, workers)
        self.module = module
        self.crop = crop
        self.augment = augment
        self.jitter = jitter
        self.skip_damaged = skip_damaged

    def items(self, source: Any) -> tuple[Sequence[str], Sequence[tuple[int, int]]]:
        """The name and the size of each item of a split."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Downloads, where that was asked for, and unpacks: in one process, while Lightning lets all others wait."""
        with self._explained():
            self.module.dataset_class(**self.module.kwargs)

    def dataset(self, stage: str) -> TorchGeoCrops:
        with self._explained():
            self.module.setup({"train": "fit", "val": "validate", "test": "test"}[stage])
        source = getattr(self.module, f"{stage}_dataset")
        return TorchGeoCrops(
            source,
            *self.items(source),
            self.classes,
            self.crop,
            self.channels,
            self.scale,
            augment=self.augment and stage == "train",
            jitter=self.jitter,
            skip_damaged=self.skip_damaged,
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what failed, where, and what to do, when torchgeo could not download or unpack."""
        name, root = self.module.dataset_class.__name__, self.module.kwargs["root"]
        try:
            yield
        except (BadZipFile, RuntimeError) as error:  # RuntimeError: the checksum does not hold
            raise ValueError(
                f"{root}: an archive there is damaged or not complete, delete it and fetch it again: {error}"
            ) from error
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            raise ConnectionError(
                f"{name} could not be downloaded to {root}: {type(error).__name__}: {error}\n"
                "Where there is no connection, put the archive there by hand; docs/hqfnet.md says which."
            ) from error


class LandCoverAI(torchgeo.datasets.LandCoverAI):
    """torchgeo's, with the checksums of the masks checked, which Pillow decodes regardless of them."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with Image.open(Path(self.root, "output", f"{self.ids[index].strip()}_m.png")) as mask:
            mask.verify()
        return super().__getitem__(index)


class LandCoverAIData(TorchGeoData):
    """LandCover.ai (arXiv 2005.02264): aerial images of Poland, RGB, 25 and 50 cm a pixel, 5 classes.

    ``root`` holds ``output/<tile>_<k>.jpg`` and ``output/<tile>_<k>_m.png``, chips of 512 x 512 pixels, and
    train.txt, val.txt and test.txt, which list chips without an ending.

    Args:
        root: the folder.
        download: fetches chips and lists from Hugging Face where they are missing.
        checksum: checks the MD5 of what is downloaded.
        crop, augment, jitter, skip_damaged: see `CropDataset`.
        batch_size, workers: see `SceneData`.

    Raises:
        ValueError: ``root`` has the photos of the archive, but no chips of them.
        DatasetNotFoundError: on first use, there is no data set in ``root``.
    """

    def __init__(
        self,
        root: str,
        download: bool = False,
        checksum: bool = False,
        crop: int = 512,
        augment: bool = True,
        jitter: float = 0.1,
        skip_damaged: bool = False,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        if Path(root, "images").is_dir() and not Path(root, "output").is_dir():
            raise ValueError(
                f"{root}: the images are not cut into chips yet; run the archive's split.py in that folder"
            )
        module = NonGeoDataModule(LandCoverAI, batch_size, workers, root=root, download=download, checksum=checksum)
        classes = class_list(LandCoverAI)
        super().__init__(module, classes, 255, crop, 3, augment, jitter, skip_damaged, batch_size, workers)

    def items(self, source: LandCoverAI) -> tuple[list[str], list[tuple[int, int]]]:
        files = [str(Path(source.root) / "output" / f"{chip.strip()}.jpg") for chip in source.ids]
        # All chips have one size; a chip of another is refused when it is read.
        return files, [first_size(files, self.skip_damaged)] * len(files)


class SeasoNetData(TorchGeoData):
    """SeasoNet (IGARSS 2022, doi 10.5281/zenodo.5850306): Sentinel-2 patches of Germany, 12 bands, 33 classes.

    ``root`` holds the archives of the five seasons and of the splits, or what they unpack to, and meta.csv::

        spring/, summer/, fall/, winter/, snow/
            grid<1 or 2>/<patch>/<patch>_10m_RGB.tif, _10m_IR.tif, _20m.tif, _60m.tif, _labels.tif
        splits/train.csv, val.csv, test.csv
        meta.csv

    An image has the chosen files' bands, in the order given, at 120 x 120 pixels of 10 m. Its values are reflectances
    divided by 0.3: 1 is white in the usual true-colour picture; clouds, snow and near infrared go beyond.

    Args:
        root: the folder.
        bands: of "10m_RGB" (3 bands), "10m_IR" (1), "20m" (6) and "60m" (2). A pretrained backbone takes the first
            three bands for red, green and blue.
        seasons: of "Spring", "Summer", "Fall", "Winter" and "Snow".
        grids: of 1 and 2, two tilings shifted by half a patch.
        download: fetches what is missing from Zenodo.
        checksum: checks the MD5 of what is downloaded.
        crop: 120 takes a patch as a whole; larger crops are filled up with pixels that are ignored.
        augment, jitter, skip_damaged: see `CropDataset`.
        batch_size, workers: see `SceneData`.

    Raises:
        ValueError: an unknown band, season or grid.
        DatasetNotFoundError: on first use, there is no data set in ``root``.
    """

    SCALE = 3000  # reflectance 0.3, stored as 10000 times the reflectance

    def __init__(
        self,
        root: str,
        bands: Sequence[str] = SeasoNet.all_bands,
        seasons: Sequence[str] = ("Spring", "Summer", "Fall", "Winter", "Snow"),
        grids: Sequence[int] = (1, 2),
        download: bool = False,
        checksum: bool = False,
        crop: int = 120,
        augment: bool = True,
        jitter: float = 0.0,
        skip_damaged: bool = False,
        batch_size: int = 32,
        workers: int = 2,
    ) -> None:
        known: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {
            "bands": (bands, SeasoNet.all_bands),
            "seasons": (seasons, sorted(SeasoNet.all_seasons)),
            "grids": (grids, (1, 2)),
        }
        for name, (given, expected) in known.items():
            if not given or not set(given) <= set(expected) or len(set(given)) < len(given):
                raise ValueError(f"{name}: expected some of {list(expected)}, each once, got {list(given)}")
        module = NonGeoDataModule(
            SeasoNet,
            batch_size,
            workers,
            root=root,
            bands=tuple(bands),
            seasons=frozenset(seasons),
            grids=tuple(grids),
            download=download,
            checksum=checksum,
        )
        channels = sum(SeasoNet.band_nums[band] for band in bands)
        super().__init__(
            module, class_list(SeasoNet), self.SCALE, crop, channels, augment, jitter, skip_damaged, batch_size,
            workers,
        )  # fmt: skip
        self.bands = list(bands)

    def items(self, source: SeasoNet) -> tuple[list[str], list[tuple[int, int]]]:
        files = [f"{paths[0]}_*.tif" for paths in source.files]
        height, width = source.image_size
        return files, [(height, width)] * len(files)


class OpenEarthMapData(TorchGeoData):
    """OpenEarthMap: aerial and satellite images of the world, RGB, 25 to 50 cm a pixel, 8 classes.

    See `OpenEarthMap` for the files in ``root``.

    Args:
        root: the folder.
        test_split: the split that ``test`` scores, "test" or "val".
        download: fetches the archive from Zenodo where it is missing.
        checksum: checks its MD5.
        crop, augment, jitter, skip_damaged: see `CropDataset`.
        batch_size, workers: see `SceneData`.

    Raises:
        DatasetNotFoundError: on first use, there is no data set in ``root``.
    """

    def __init__(
        self,
        root: str,
        test_split: str = "test",
        download: bool = False,
        checksum: bool = False,
        crop: int = 512,
        augment: bool = True,
        jitter: float = 0.1,
        skip_damaged: bool = False,
        batch_size: int = 8,
        workers: int = 2,
    ) -> None:
        if test_split not in ("test", "val"):
            raise ValueError(f"test_split: expected 'test' or 'val', got '{test_split}'")
        module = NonGeoDataModule(OpenEarthMap, batch_size, workers, root=root, download=download, checksum=checksum)
        classes = class_list(OpenEarthMap)
        super().__init__(module, classes, 255, crop, 3, augment, jitter, skip_damaged, batch_size, workers)
        self.test_split = test_split

    def dataset(self, stage: str) -> TorchGeoCrops:
        return super().dataset(self.test_split if stage == "test" else stage)

    def items(self, source: OpenEarthMap) -> tuple[list[str], list[tuple[int, int]]]:
        readable, sizes = [], []
        for files in source.files:
            try:
                sizes.append(Layout.of(files["image"]).size)
            except DamagedFileError as error:
                if not self.skip_damaged:
                    raise
                warnings.warn(f"{error}; it is skipped", stacklevel=2)
            else:
                readable.append(files)
        if any("mask" not in files for files in readable):
            raise ValueError("test_split: not all test images have labels; test_split='val' scores the val split")
        source.files = readable
        return [str(files["image"]) for files in readable], sizes


def class_list(dataset: type[LandCoverAI | OpenEarthMap | SeasoNet]) -> ClassList:
    """The classes of a torchgeo data set with ``classes`` and ``cmap``."""
    colours = ("#{:02X}{:02X}{:02X}".format(*dataset.cmap[i][:3]) for i in range(len(dataset.classes)))
    return ClassList(tuple(dataset.classes), tuple(colours), (IGNORE_INDEX,))


def first_size(files: Sequence[str], skip_damaged: bool) -> tuple[int, int]:
    """The size of the first file; with ``skip_damaged``, of the first that can be read."""
    for file in files:
        try:
            return Layout.of(Path(file)).size
        except DamagedFileError:
            if not skip_damaged:
                raise
    raise ValueError(f"none of the {len(files)} images of the split can be read")
