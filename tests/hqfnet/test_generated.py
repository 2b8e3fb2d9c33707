"""Generated scenes."""

from __future__ import annotations

import pytest
import torch

from hqfnet.data import SCENE_CLASSES, GeneratedData, GeneratedScenes


def test_scenes_depend_on_seed_and_index_alone() -> None:
    scenes, again, other = (
        GeneratedScenes(4, 96, seed=1),
        GeneratedScenes(9, 96, seed=1),
        GeneratedScenes(4, 96, seed=2),
    )
    again[3]
    for key in ("image", "mask"):
        assert torch.equal(scenes[2][key], again[2][key])
        assert not torch.equal(scenes[2][key], scenes[1][key])
        assert not torch.equal(scenes[2][key], other[2][key])


def test_scenes_show_every_class_in_its_colours() -> None:
    scenes = GeneratedScenes(8, 128)
    samples = [scenes[i] for i in range(8)]
    images = torch.stack([sample["image"] for sample in samples])
    masks = torch.stack([sample["mask"] for sample in samples])
    assert images.shape == (8, 3, 128, 128)
    assert images.min() >= 0
    assert images.max() <= 1
    assert set(masks.unique().tolist()) == set(range(len(SCENE_CLASSES)))
    colours = images.permute(0, 2, 3, 1)
    water, vegetation = colours[masks == 4].mean(0), colours[masks == 3].mean(0)
    assert water.argmax() == 2
    assert vegetation.argmax() == 1


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="count: expected at least 1 scene, got 0"):
        GeneratedScenes(0)
    with pytest.raises(ValueError, match="size: expected at least 32 pixels, got 8"):
        GeneratedScenes(1, 8)
    with pytest.raises(IndexError, match="scene 1 of 1"):
        GeneratedScenes(1, 64)[1]


def test_series_of_the_datamodule_differ() -> None:
    data = GeneratedData(2, 2, 2, size=64, batch_size=2, workers=0)
    series = [data.dataset(stage) for stage in ("train", "val", "test")]
    assert len({scenes.seed for scenes in series}) == 3
    assert next(iter(data.test_dataloader()))["mask"].shape == (2, 64, 64)
