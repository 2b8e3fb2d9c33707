"""The OpenEarthMap data set, in the manner of torchgeo."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, NonGeoDataset
from torchgeo.datasets.utils import check_integrity, download_url, extract_archive

from hqfnet.data.raster import open_raster


class OpenEarthMap(NonGeoDataset):
    """OpenEarthMap (Xia et al., WACV 2023, arXiv 2210.10732): land cover of 97 regions in 44 countries.

    Format: 8-bit GeoTIFFs of mostly 1024 x 1024 pixels, 0.25 to 0.5 m a pixel; RGB images and masks of one band. The
    archive unpacks to::

        OpenEarthMap_wo_xBD/
            train.txt, val.txt, test.txt         3000, 500 and 1500 names such as aachen_1.tif
            xbd_files.csv                        which image of xBD belongs to which name
            <region>/images/<region>_<n>.tif
            <region>/labels/<region>_<n>.tif     0 is unlabelled, 1 to 8 are the classes

    Images that come from xBD are not in the archive. Whoever has xBD can put them in place by the authors' script
    (compile_xbd.py in github.com/bao18/open_earth_map); without that, names that xbd_files.csv lists and that have
    no image are left out.

    Classes: bareland, rangeland, developed space, road, tree, water, agriculture land, building. A sample's mask has
    them as 0 to 7, and 255 where the image is unlabelled.

    Args:
        root: folder with the archive or with what it unpacks to.
        split: "train", "val" or "test". Where a test image has no labels, its sample has no mask.
        transforms: applied to each sample.
        download: fetches the archive (9.1 GB) where it is missing.
        checksum: checks the archive's MD5 before it is unpacked.

    Raises:
        ValueError: an unknown split, or files that the split lists are missing.
        DatasetNotFoundError: there is no data set in ``root`` and ``download`` is False.
        RuntimeError: the archive's checksum does not hold.
    """

    url = "https://zenodo.org/records/7223446/files/OpenEarthMap.zip"
    filename = "OpenEarthMap.zip"
    md5 = "64155d1dc9d3b68536063f79878e1a67"
    directory = "OpenEarthMap_wo_xBD"
    splits = ("train", "val", "test")
    classes = ("Bareland", "Rangeland", "Developed space", "Road", "Tree", "Water", "Agriculture land", "Building")
    cmap: ClassVar[dict[int, tuple[int, int, int, int]]] = {
        0: (128, 0, 0, 255),
        1: (0, 255, 36, 255),
        2: (148, 148, 148, 255),
        3: (255, 255, 255, 255),
        4: (34, 97, 38, 255),
        5: (0, 69, 255, 255),
        6: (75, 181, 73, 255),
        7: (222, 31, 7, 255),
    }
    unlabelled = 255

    def __init__(
        self,
        root: str | Path = "data",
        split: str = "train",
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        download: bool = False,
        checksum: bool = False,
    ) -> None:
        if split not in self.splits:
            raise ValueError(f"split: expected one of {', '.join(self.splits)}, got '{split}'")
        self.root = Path(root)
        self.split = split
        self.transforms = transforms
        self.download = download
        self.checksum = checksum
        self._verify()
        self.files = self._find_files()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, H, W) float32 in 0..255 and, where there are labels, ``mask`` (H, W) int64."""
        files = self.files[index]
        sample: dict[str, Any] = {"image": self._load_image(files["image"])}
        if "mask" in files:
            sample["mask"] = self._load_mask(files["mask"])
        return self.transforms(sample) if self.transforms else sample

    def plot(self, sample: dict[str, Tensor], show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Image, mask and ``prediction``, as far as the sample has them, side by side."""
        colours = ListedColormap(np.array([self.cmap[i] for i in range(len(self.classes))]) / 255)
        titles = {"image": "Image", "mask": "Mask", "prediction": "Prediction"}
        panels = [name for name in titles if name in sample]
        figure, axes = plt.subplots(ncols=len(panels), figsize=(4 * len(panels), 4), squeeze=False)
        for axis, name in zip(axes[0], panels, strict=True):
            if name == "image":
                axis.imshow(sample[name].permute(1, 2, 0).numpy().astype(np.uint8))
            else:
                ids = np.ma.masked_equal(sample[name].numpy(), self.unlabelled)
                axis.imshow(ids, cmap=colours, vmin=0, vmax=len(self.classes) - 1, interpolation="none")
            axis.axis("off")
            if show_titles:
                axis.set_title(titles[name])
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure

    def _verify(self) -> None:
        """Finds the unpacked files; failing that unpacks the archive; failing that downloads it, if asked to."""
        if (self.root / self.directory / f"{self.split}.txt").is_file():
            return
        archive = self.root / self.filename
        if not archive.is_file():
            if not self.download:
                raise DatasetNotFoundError(self)
            download_url(self.url, self.root, filename=self.filename, md5=self.md5 if self.checksum else None)
        elif self.checksum and not check_integrity(archive, self.md5):
            raise RuntimeError(f"{archive}: the checksum is not that of the published archive; it is damaged")
        extract_archive(archive)

    def _find_files(self) -> list[dict[str, Path]]:
        folder = self.root / self.directory
        names = (folder / f"{self.split}.txt").read_text().split()
        listing = folder / "xbd_files.csv"
        from_xbd = {row[-1].strip() for row in csv.reader(listing.open(newline=""))} if listing.is_file() else set()
        files: list[dict[str, Path]] = []
        missing: list[Path] = []
        for name in names:
            region = folder / name.rpartition("_")[0]
            image, mask = region / "images" / name, region / "labels" / name
            if image.is_file() and mask.is_file():
                files.append({"image": image, "mask": mask})
            elif image.is_file() and self.split == "test":
                files.append({"image": image})
            elif image.is_file() or name not in from_xbd:
                missing.append(mask if image.is_file() else image)
        if missing:
            raise ValueError(
                f"{folder}: {len(missing)} files of the split '{self.split}' are missing, first {missing[0]}"
            )
        if not files:
            raise ValueError(f"{folder}: there is no image of the split '{self.split}'")
        return files

    def _load_image(self, path: Path) -> Tensor:
        with open_raster(path) as raster:
            if raster.count < 3:
                raise ValueError(f"{path}: expected an image of 3 bands, got {raster.count}")
            return torch.from_numpy(raster.read((1, 2, 3), out_dtype="float32"))

    def _load_mask(self, path: Path) -> Tensor:
        with open_raster(path) as raster:
            ids = raster.read(1).astype(np.int64)
        return torch.from_numpy(np.where(ids == 0, self.unlabelled, ids - 1))
