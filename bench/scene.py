"""Segments a large synthetic GeoTIFF and measures the peak memory: ``python -m bench.scene``.

The scene is written to a temporary folder window by window, predicted by a network with random weights, and the result
opened and checked. The peak is the high-water mark of the whole process's resident memory, libraries included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window

from bench.compare import result_path, stamp
from bench.resident import reset_peak, resident
from hqfnet.data.generated import draw_scene
from hqfnet.model import ARCHITECTURES
from hqfnet.predict import predict_scene
from hqfnet.task import SegmentationTask

TILE = 512
PLACE: dict[str, Any] = {"crs": "EPSG:32633", "transform": from_origin(400000, 5600000, 0.25, 0.25)}


def write_scene(path: Path, side: int) -> None:
    """A tiled RGB GeoTIFF, side x side pixels, of a few generated scenes again and again; nodata 0 in a corner."""
    rng = np.random.default_rng(0)
    tiles = [(255 * draw_scene(rng, TILE)[0]).astype(np.uint8).transpose(2, 0, 1).clip(1) for _ in range(4)]
    profile: dict[str, Any] = {"driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0, "compress": "deflate"}
    with rasterio.open(
        path, "w", height=side, width=side, tiled=True, blockxsize=TILE, blockysize=TILE, **profile, **PLACE
    ) as file:
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                high, wide = min(TILE, side - top), min(TILE, side - left)
                pixels = tiles[(top // TILE + left // TILE) % len(tiles)][:, :high, :wide]
                if not top and not left:
                    pixels = np.zeros_like(pixels)
                file.write(pixels, window=Window(left, top, wide, high))


def check(path: Path, side: int) -> None:
    """The result has the size, the place, the colours and the nodata of the scene; raises AssertionError."""
    with rasterio.open(path) as file:
        assert (file.height, file.width) == (side, side)
        assert file.crs == rasterio.CRS.from_string(PLACE["crs"])
        assert file.transform == PLACE["transform"]
        assert file.nodata == 255
        assert len(file.colormap(1)) == 256
        assert file.overviews(1)
        corner = min(TILE, side)
        assert (file.read(1, window=Window(0, 0, corner, corner)) == 255).all()
        assert side <= TILE or (file.read(1, window=Window(corner, 0, side - corner, corner)) != 255).all()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scene", description=__doc__)
    parser.add_argument("--model", choices=ARCHITECTURES, default="hqfnet_tiny", help="(%(default)s)")
    parser.add_argument("--side", type=int, default=10_000, help="of the scene in pixels (%(default)s)")
    parser.add_argument("--window", type=int, default=512, help="of the prediction in pixels (%(default)s)")
    parser.add_argument("--overlap", type=float, default=0.125, help="of the windows (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads (%(default)s)")
    parser.add_argument("--probabilities", action="store_true", help="write the probabilities as well")
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run = stamp() | {name: getattr(options, name) for name in ("model", "side", "window", "overlap", "probabilities")}
    path = result_path(parser, options.json, run, "scene-")
    torch.manual_seed(0)
    task = SegmentationTask(options.model, pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "scene.tif", Path(folder) / "classes.tif"
        write_scene(source, options.side)
        reset_peak()
        start = time.perf_counter()
        predict_scene(
            task,
            source,
            target,
            probabilities=Path(folder) / "probabilities.tif" if options.probabilities else None,
            preview=Path(folder) / "preview.png",
            window=options.window,
            overlap=options.overlap,
            progress=True,
        )
        run |= {"seconds": time.perf_counter() - start, "peak": resident("VmHWM")}
        check(target, options.side)
    path.write_text(json.dumps(run, indent=1) + "\n")
    print(
        f"{options.side} x {options.side} pixels: peak {run['peak'] / 2**30:.2f} GiB, {run['seconds']:.0f} s; "
        f"written to {path}"
    )


if __name__ == "__main__":
    main()
