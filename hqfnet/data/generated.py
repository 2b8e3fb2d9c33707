"""Generated aerial scenes: labelled images without a download."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch.utils.data import Dataset

from hqfnet.data.classes import ClassList
from hqfnet.data.crops import Sample, turn_at_random

Map = npt.NDArray[np.float32]
Point = tuple[float, float]

SCENE_CLASSES = ClassList(
    names=("field", "building", "road", "vegetation", "water"),
    colours=("#C9B26B", "#B5453C", "#5B5B66", "#2F7D3B", "#3776AB"),
)
_FIELD, _BUILDING, _ROAD, _VEGETATION, _WATER = range(5)
_SOILS = ((168, 148, 104), (196, 178, 128), (146, 152, 88), (120, 140, 74), (182, 166, 120), (136, 118, 88))
_ROOFS = ((166, 84, 66), (140, 70, 58), (150, 150, 154), (202, 198, 190), (112, 108, 112), (178, 128, 96))


class GeneratedScenes(Dataset[Sample]):
    """Procedural scenes of fields, buildings, roads, vegetation and water (`SCENE_CLASSES`).

    Scene i depends on ``seed`` and i alone. Sample i is ``{"image": (3, size, size) float32 in [0, 1],
    "mask": (size, size) int64}``. With ``augment`` it is flipped and turned, drawn from torch's global generator.

    Args:
        count: number of scenes.
        size: side of a scene in pixels.
        seed: of the series; series with different seeds share no scene.
        augment: flips and turns.
    """

    def __init__(self, count: int, size: int = 256, seed: int = 0, augment: bool = False) -> None:
        if count < 1:
            raise ValueError(f"count: expected at least 1 scene, got {count}")
        if size < 32:
            raise ValueError(f"size: expected at least 32 pixels, got {size}")
        self.count = count
        self.size = size
        self.seed = seed
        self.augment = augment

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Sample:
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        image, mask = draw_scene(np.random.default_rng((self.seed, i)), self.size)
        sample = {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "mask": torch.from_numpy(mask).long(),
        }
        return turn_at_random(sample) if self.augment else sample


def draw_scene(rng: np.random.Generator, size: int) -> tuple[Map, npt.NDArray[np.uint8]]:
    """One scene: image (size, size, 3) float32 in [0, 1] and class ids (size, size) uint8."""
    scene = _Scene(rng, size)
    scene.fields()
    scene.vegetation()
    if rng.random() < 0.65:
        scene.water()
    scene.roads_and_buildings()
    return scene.finish()


class _Scene:
    """A canvas in grey values 0..255 with its class ids, painted from the ground up."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng = rng
        self.size = size
        self.image: Map = np.zeros((size, size, 3), np.float32)
        self.ids = np.full((size, size), _FIELD, np.uint8)
        self.shadow: Map = np.zeros((size, size), np.float32)
        self.y, self.x = (axis.astype(np.float32) for axis in np.mgrid[:size, :size])
        sun = rng.uniform(0, 2 * math.pi)
        self.sun: Point = (math.cos(sun), math.sin(sun))
        self.grain = self.noise(2.5)

    def fields(self) -> None:
        """Parcels between two families of bent, nearly perpendicular boundaries, each with its crop rows."""
        rng = self.rng
        angle = rng.uniform(0, math.pi)
        bend = 10 * self.noise(self.size / 2)
        along = self.x * math.cos(angle) + self.y * math.sin(angle) + bend
        across = self.y * math.cos(angle) - self.x * math.sin(angle) + bend
        strip = np.floor(across / rng.uniform(55, 95)).astype(int)
        lengths = rng.uniform(50, 130, size=256)
        shifts = rng.uniform(0, 100, size=256)
        parcel = np.floor((along + shifts[strip % 256]) / lengths[strip % 256]).astype(int) * 61 + strip * 17
        edge = (parcel != np.roll(parcel, 2, 0)) | (parcel != np.roll(parcel, 2, 1))
        for number in np.unique(parcel):
            inside = parcel == number
            soil = np.array(_SOILS[rng.integers(len(_SOILS))]) + rng.normal(0, 8, 3)
            rows = np.sin((across if rng.random() < 0.5 else along) * 2 * math.pi / rng.uniform(3.5, 7))
            tone = rng.uniform(0, 9) * rows + 9 * self.noise(40) + 4 * self.noise(6)
            self.image[inside] = soil + tone[inside, None]
        self.image[edge] = self.image[edge] * 0.75 + np.array((40, 46, 20))

    def vegetation(self) -> None:
        """Woods where smooth noise is high, single trees elsewhere: crowns lit from the sun's side."""
        rng = self.rng
        height = self.noise(self.size / 3.5) + 0.35 * self.noise(14)
        woods = height > np.quantile(height, 1 - rng.uniform(0.08, 0.3))
        crowns = self.noise(5) + 0.6 * self.grain
        light = crowns - self.moved(crowns, 2)
        green = np.array((52, 82, 42)) + rng.normal(0, 6, 3)
        self.image[woods] = green + (16 * crowns + 14 * light)[woods, None] * np.array((0.8, 1.0, 0.7))
        self.ids[woods] = _VEGETATION
        self.shadow = np.maximum(self.shadow, 0.5 * (self.moved(woods.astype(np.float32), 4) > 0))
        self.shadow[woods] = 0
        for _ in range(int(rng.integers(4, 26))):
            self.tree(rng.uniform(0, self.size), rng.uniform(0, self.size))

    def tree(self, x: float, y: float) -> None:
        """One crown with its shadow."""
        radius = self.rng.uniform(2.5, 5.5)
        edge = radius + 0.8 * self.grain
        crown = np.hypot(self.x - x, self.y - y) < edge
        shade = np.hypot(self.x - x + radius * self.sun[0], self.y - y + radius * self.sun[1]) < edge
        side = ((self.x - x) * self.sun[0] + (self.y - y) * self.sun[1]) / radius
        self.shadow[shade & ~crown] = 0.5
        self.shadow[crown] = 0
        self.image[crown] = np.array((58, 88, 44)) + (16 * side + 10 * self.grain)[crown, None]
        self.ids[crown] = _VEGETATION

    def water(self) -> None:
        """A winding river or a lake, with a pale shore."""
        rng = self.rng
        if rng.random() < 0.5:
            angle = rng.uniform(0, math.pi)
            across = (self.y - self.size / 2) * math.cos(angle) - (self.x - self.size / 2) * math.sin(angle)
            bends = 28 * self.noise(self.size / 2) + rng.uniform(-0.3, 0.3) * self.size
            depth = rng.uniform(8, 22) - np.abs(across + bends)
        else:
            cx, cy = rng.uniform(0.15, 0.85, 2) * self.size
            reach = rng.uniform(0.14, 0.28) * self.size
            depth = reach - np.hypot(self.x - cx, self.y - cy) + 14 * self.noise(self.size / 5) + 2 * self.noise(10)
        shore, wet = depth > -3, depth > 0
        self.image[shore] = np.array((176, 164, 132)) + 6 * self.noise(4)[shore, None]
        self.ids[shore & ~wet] = _FIELD
        deep = np.clip(depth / 14, 0, 1)[..., None]
        colour = np.array((96, 122, 112)) * (1 - deep) + (np.array((38, 68, 88)) + rng.normal(0, 6, 3)) * deep
        self.image[wet] = (colour + 2.5 * self.grain[..., None])[wet]
        self.ids[wet] = _WATER
        self.shadow[shore] = 0

    def roads_and_buildings(self) -> None:
        """Roads across the scene, and a village or single farms along them."""
        rng = self.rng
        dense = rng.random() < 0.65
        for _ in range(int(rng.integers(1, 3))):
            self.street(rng.uniform(0.2, 0.8, 2) * self.size, rng.uniform(0, math.pi), 1.0, rng.uniform(6, 11), dense)

    def street(self, centre: npt.NDArray[np.float64], angle: float, reach: float, width: float, dense: bool) -> None:
        """A slightly bent road through ``centre``, side streets if the place is ``dense``, houses on both sides."""
        rng = self.rng
        length = 1.5 * self.size * reach
        heading = angle + np.cumsum(rng.normal(0, 0.08, 16))
        steps = length / 16 * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        path = np.cumsum(steps, axis=0)
        path += centre - path[8]
        for start, heading_here in zip(path[2:14:2], heading[2:14:2], strict=True):
            if dense and reach == 1.0 and rng.random() < 0.55:
                self.street(start, heading_here + math.pi / 2, rng.uniform(0.25, 0.5), 5.0, dense)
        self.road([(float(x), float(y)) for x, y in path], width, bridge=reach == 1.0)
        gap = 17.0 if dense else 70.0
        for k in range(15):
            for offset in np.arange(0, length / 16, gap):
                for side in (-1, 1):
                    if rng.random() < 0.72:
                        ahead = np.array((math.cos(heading[k]), math.sin(heading[k])))
                        aside = side * np.array((-ahead[1], ahead[0]))
                        place = path[k] + ahead * offset + aside * (width / 2 + rng.uniform(9, 14))
                        self.building(place, heading[k], large=not dense)

    def road(self, path: list[Point], width: float, bridge: bool) -> None:
        """Asphalt with a lane marking on wide roads; it crosses water or leaves it out."""
        verge, asphalt = self.line(path, width + 3), self.line(path, width)
        if not bridge:
            verge, asphalt = verge & (self.ids != _WATER), asphalt & (self.ids != _WATER)
        self.image[verge] = self.image[verge] * 0.5 + np.array((74, 72, 56))
        tone = self.rng.uniform(96, 134)
        self.image[asphalt] = tone + np.array((0, 0, 4)) + 5 * self.grain[asphalt, None]
        if width > 7:
            self.image[self.line(path, 1)] = tone + 55
        self.ids[verge & (self.ids != _WATER)] = _FIELD
        self.ids[asphalt] = _ROAD
        self.shadow[verge] = 0

    def building(self, centre: npt.NDArray[np.float64], angle: float, large: bool) -> None:
        """A gabled or flat roof and its shadow; nothing where it would stand on water, a road or a house."""
        if not all(-20 < place < self.size + 20 for place in centre):
            return
        rng = self.rng
        half = rng.uniform(5, 8.5, 2) * (rng.uniform(1.2, 2.0) if large else 1.0)
        along = (self.x - centre[0]) * math.cos(angle) + (self.y - centre[1]) * math.sin(angle)
        across = (self.y - centre[1]) * math.cos(angle) - (self.x - centre[0]) * math.sin(angle)
        roof = (np.abs(along) < half[0]) & (np.abs(across) < half[1])
        if not roof.any() or np.isin(self.ids[roof], (_WATER, _ROAD, _BUILDING)).any():
            return
        colour = np.array(_ROOFS[rng.integers(len(_ROOFS))]) + rng.normal(0, 8, 3)
        lit = math.copysign(1.0, -self.sun[0] * math.sin(angle) + self.sun[1] * math.cos(angle))
        slope = 14 * lit * np.sign(across) if rng.random() < 0.7 else np.zeros_like(across)
        tiles = 3 * np.sin(across * 2 * math.pi / 3) + 3 * self.grain
        shade = self.moved(roof.astype(np.float32), rng.uniform(3, 6)) > 0
        self.shadow[shade & (self.ids != _BUILDING)] = 0.55
        self.shadow[roof] = 0
        self.image[roof] = colour + (slope + tiles)[roof, None]
        self.ids[roof] = _BUILDING

    def finish(self) -> tuple[Map, npt.NDArray[np.uint8]]:
        """Shadows, haze, the camera's blur and noise."""
        rng = self.rng
        image = self.image * (1 - self.shadow[..., None]) + self.shadow[..., None] * self.image * (0.42, 0.44, 0.52)
        image = image * rng.uniform(0.88, 1.12) + rng.normal(0, 4, 3) + 4 * self.noise(self.size / 2)[..., None]
        picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
        soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6)), np.float32)
        noisy = np.clip(soft + rng.normal(0, 3.5, image.shape), 0, 255) / 255
        return noisy.astype(np.float32), self.ids

    def noise(self, scale: float) -> Map:
        """Smooth noise of about unit variance whose features are ``scale`` pixels wide."""
        cells = max(int(self.size / scale), 1) + 3
        grid = Image.fromarray(self.rng.standard_normal((cells, cells)).astype(np.float32))
        side = math.ceil(cells * max(scale, 1))
        large = np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))
        top, left = self.rng.integers(0, max(side - self.size, 0) + 1, 2)
        return large[top : top + self.size, left : left + self.size]

    def moved(self, values: Map, distance: float) -> Map:
        """The map moved by ``distance`` pixels away from the sun."""
        dx, dy = round(-distance * self.sun[0]), round(-distance * self.sun[1])
        return np.roll(values, (dy, dx), axis=(0, 1))

    def line(self, path: list[Point], width: float) -> npt.NDArray[np.bool_]:
        """The pixels within ``width`` of a path."""
        canvas = Image.new("1", (self.size, self.size))
        ImageDraw.Draw(canvas).line(path, fill=1, width=max(round(width), 1), joint="curve")
        return np.asarray(canvas)
