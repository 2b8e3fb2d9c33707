"""The frozen backbone: its weights, its precision, and its features on disk."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from hqfnet import backbone as module
from hqfnet import create_model, feature_cache
from hqfnet.backbone import FrozenBackbone
from hqfnet.feature_cache import FeatureCache

NAME = "vit_tiny_patch16_dinov3_qkvb"

pytestmark = pytest.mark.usefixtures("threads")


def tiny() -> FrozenBackbone:
    torch.manual_seed(0)
    return FrozenBackbone(NAME, pretrained=False)


class Counting(FrozenBackbone):
    """Counts the images that really go through the transformer."""

    computed = 0

    def _maps(self, images: Tensor) -> list[Tensor]:
        self.computed += len(images)
        return super()._maps(images)


def counting(folder: Path) -> Counting:
    torch.manual_seed(0)
    backbone = Counting(NAME, pretrained=False)
    backbone.cache = FeatureCache(folder)
    return backbone


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_weights_from_a_file(tmp_path: Path) -> None:
    vit = timm.create_model(NAME, num_classes=0)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    for file in ("vit.safetensors", "vit.pth"):
        loaded = FrozenBackbone(NAME, tmp_path / file).vit.state_dict()
        assert all(torch.equal(weight, vit.state_dict()[key]) for key, weight in loaded.items())


class Trap:
    """A pickle of this runs code when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


def test_weight_files_run_no_code(tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": Trap(tmp_path / "sprung")}, tmp_path / "evil.pth")
    with pytest.raises(RuntimeError, match=r"could not be loaded from .*evil\.pth: (.|\n)*pretrained='FILE'"):
        FrozenBackbone(NAME, tmp_path / "evil.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "torn.safetensors", "other.safetensors", "torn.pth"])
def test_bad_weight_files_are_named(tmp_path: Path, name: str) -> None:
    if name == "other.safetensors":
        save_file({"weight": torch.zeros(2)}, tmp_path / name)
    elif name != "missing.safetensors":
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(RuntimeError, match=rf"backbone '{NAME}' could not be loaded from .*{name}"):
        FrozenBackbone(NAME, tmp_path / name)


def test_half_precision_is_used_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, images = tiny(), torch.randn(2, 3, 32, 32)
    exact = backbone(images)
    seen = []
    backbone.vit.get_submodule("blocks.0.mlp.fc1").register_forward_hook(
        lambda layer, args, output: seen.append(output.dtype)
    )
    monkeypatch.setattr(module, "half_precision", lambda device: torch.bfloat16)
    rough = backbone(images)
    assert seen == [torch.bfloat16]
    for level, expected in zip(rough, exact, strict=True):
        assert level.dtype == torch.float32
        # Largest seen: 0.07, of values with a standard deviation of 1.
        torch.testing.assert_close(level, expected, atol=0.3, rtol=0)
        assert not torch.equal(level, expected)


def test_mixed_precision_around_it_makes_no_difference() -> None:
    """Features on disk serve trainings of any precision."""
    backbone, images = tiny(), torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = backbone(images)
    assert all(map(torch.equal, mixed, backbone(images)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_maps_are_close_to_those_of_the_cpu() -> None:
    backbone, images = tiny(), torch.randn(2, 3, 64, 64)
    exact = backbone(images)
    for level, expected in zip(backbone.cuda()(images.cuda()), exact, strict=True):
        torch.testing.assert_close(level.cpu(), expected, atol=0.3, rtol=0)


def test_features_are_computed_once(tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 48)
    expected = tiny()(images)
    backbone = counting(tmp_path)
    first, again = backbone(images), backbone(images)
    assert backbone.computed == 3
    assert len(entries(tmp_path)) == 3
    for level, cached, plain in zip(first, again, expected, strict=True):
        torch.testing.assert_close(level, plain)
        assert torch.equal(cached, level)
    # Another order, one new image, another process.
    later = counting(tmp_path)
    mixed = later(torch.cat([images[2:], torch.ones(1, 3, 32, 48), images[:1]]))
    assert later.computed == 1
    assert torch.equal(mixed[3][0], first[3][2])
    assert torch.equal(mixed[0][2], first[0][0])


def test_other_weights_or_shapes_do_not_share_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(1, 3, 32, 64)
    backbone = counting(tmp_path)
    backbone(images)
    backbone(images.view(1, 3, 64, 32))
    assert backbone.computed == 2
    other = {key: weight + 0.01 for key, weight in backbone.state_dict().items()}
    backbone.load_state_dict(other)
    maps = backbone(images)
    assert backbone.computed == 3
    backbone.cache = None
    assert torch.equal(backbone(images)[0], maps[0])
    backbone.cache = FeatureCache(tmp_path)
    monkeypatch.setattr(module, "half_precision", lambda device: torch.bfloat16)
    backbone(images)
    assert backbone.computed == 5


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_damaged_entries_are_computed_again(tmp_path: Path, harm: str) -> None:
    images = torch.randn(1, 3, 32, 32)
    backbone = counting(tmp_path)
    expected = backbone(images)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    entry.write_bytes({"cut": whole[:-100], "flip": flipped, "empty": b""}[harm])
    with pytest.warns(UserWarning, match="damaged and removed"):
        again = backbone(images)
    assert backbone.computed == 2
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))
    assert entries(tmp_path) == [entry]
    assert entry.read_bytes() == whole


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        FeatureCache(tmp_path).store("ab" * 32, [torch.zeros(2)])
    assert entries(tmp_path) == []


def test_entries_appear_when_they_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, key = FeatureCache(tmp_path), "ab" * 32

    def slowly(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert cache.load(key) is None
        path.write_bytes(whole)

    monkeypatch.setattr(feature_cache, "save_file", slowly)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store(key, [torch.zeros(8)])
    assert cache.load(key) is not None


def write_until_killed(folder: Path) -> None:
    """Stores entries; in the fourth, half of the file is there when the process ends."""
    torch.set_num_threads(1)  # a forked process has no other

    def killed_in_the_fourth(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        if len(entries(folder)) == 4:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    vars(feature_cache)["save_file"] = killed_in_the_fourth
    for i in range(5):
        FeatureCache(folder).store(f"{i:064d}", [torch.full((64, 64), float(i)) for _ in range(4)])


def test_a_killed_writer_leaves_only_whole_entries(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=write_until_killed, args=(tmp_path,))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    assert len(entries(tmp_path)) == 4
    cache, complete = FeatureCache(tmp_path), [path for path in entries(tmp_path) if path.suffix == ".safetensors"]
    assert len(complete) == 3
    for path in complete:
        loaded = cache.load(path.stem)
        assert loaded is not None
        assert all(torch.equal(level, torch.full((64, 64), float(path.stem))) for level in loaded)


def test_bfloat16_features(tmp_path: Path) -> None:
    cache, levels = FeatureCache(tmp_path), [torch.randn(3, 4).bfloat16(), torch.randn(2)]
    cache.store("cd" * 32, levels)
    loaded = cache.load("cd" * 32)
    assert loaded is not None
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(loaded, levels, strict=True))
    assert cache.load("ef" * 32) is None


def test_networks_take_a_cache(tmp_path: Path) -> None:
    model = create_model("hqfnet_tiny", pretrained=False, feature_cache=tmp_path).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(images))
    assert len(entries(tmp_path)) == 2
    assert create_model("hq_unet", pretrained=False, feature_cache=tmp_path).backbone is None
    assert model.backbone is not None
    for other in (copy.deepcopy(model.backbone), pickle.loads(pickle.dumps(model.backbone))):
        assert other.fingerprint() == model.backbone.fingerprint()
