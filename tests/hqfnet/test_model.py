"""Whole networks: shapes, switches, what is frozen, what is saved."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import hqfkernels as hqf
from hqfnet import HQFNet, create_model
from hqfnet.backbone import FrozenBackbone
from hqfnet.fusion import DMCAF
from hqfnet.layers import circuit_layers
from hqfnet.model import ARCHITECTURES
from hqfnet.qmoe import QMoE
from hqfnet.qskip import QSkip


def tiny(**arguments: Any) -> HQFNet:
    torch.manual_seed(0)
    return create_model("hqfnet_tiny", pretrained=False, **arguments)


def count(model: torch.nn.Module, kind: type) -> int:
    return sum(isinstance(m, kind) for m in model.modules())


@pytest.mark.parametrize("name", ["hqfnet_tiny", "hq_unet"])
@pytest.mark.parametrize("size", [(64, 96), (33, 50), (1, 1)])
def test_any_size_goes_in_and_the_same_size_comes_out(name: str, size: tuple[int, int]) -> None:
    model = create_model(name, num_classes=7, pretrained=False).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, *size)).shape == (2, 7, *size)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_numbers_of_channels(in_channels: int) -> None:
    model = tiny(in_channels=in_channels)
    assert model(torch.rand(2, in_channels, 32, 32)).shape == (2, 5, 32, 32)
    with pytest.raises(ValueError, match=rf"images: expected shape \(B, {in_channels}, H, W\), got \(2, 2, 32, 32\)"):
        model(torch.rand(2, 2, 32, 32))


def test_every_part_can_be_switched_off() -> None:
    kinds = {"dmcaf": (DMCAF, 4), "qskip": (QSkip, 3), "qmoe": (QMoE, 1)}
    full = tiny()
    assert all(count(full, kind) == number for kind, number in kinds.values())
    for switch, (kind, _) in kinds.items():
        model = tiny(**{switch: False})
        assert count(model, kind) == 0
        assert all(count(model, other) == number for name, (other, number) in kinds.items() if name != switch)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5, 32, 32)
    assert count(tiny(dmcaf=False), FrozenBackbone) == 0
    assert (count(full, hqf.nn.PatchCircuit2d), count(full, hqf.nn.PatchBank2d)) == (3, 1)
    twin = tiny(quantum=False)
    assert (count(twin, hqf.nn.PatchCircuit2d), count(twin, hqf.nn.PatchBank2d)) == (0, 0)
    assert all(count(twin, kind) == number for kind, number in kinds.values())


def test_all_parts_start_as_identity() -> None:
    """With every gate at 0, the switches make no difference to what the network computes."""
    plain = tiny(dmcaf=False, qskip=False, qmoe=False).eval()
    x = torch.rand(1, 3, 32, 48)
    for switches in ({}, {"quantum": False}, {"dmcaf": False}):
        model = tiny(**switches)
        missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
        assert missing
        torch.testing.assert_close(model.eval()(x), plain(x))


def test_depth_and_top_k_reach_the_circuits() -> None:
    deep, flat = (
        [p.numel() for layer in circuit_layers(tiny(depth=depth)).values() for p in layer.parameters()]
        for depth in (5, 1)
    )
    assert [count // 5 for count in deep] == flat
    assert tiny(top_k=1).bottleneck.top_k == 1  # type: ignore[union-attr]


def test_twin_has_nearly_as_many_weights() -> None:
    sizes = [sum(p.numel() for p in tiny(quantum=q).parameters() if p.requires_grad) for q in (True, False)]
    assert abs(sizes[0] - sizes[1]) < 0.001 * sizes[0]


def test_backbone_stays_frozen() -> None:
    model = tiny().train()
    backbone = model.backbone
    assert backbone is not None
    assert not backbone.training
    assert not any(m.training for m in backbone.modules())
    assert model.training
    assert not any(p.requires_grad for p in backbone.parameters())
    before = {name: p.clone() for name, p in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    maps = backbone(images)
    assert [tuple(level.shape) for level in maps] == [(2, backbone.channels, 2, 2)] * 4
    assert not any(level.requires_grad for level in maps)
    model(images).sum().backward()
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters())


def test_images_are_normalised_by_the_constants_of_the_backbone() -> None:
    model = tiny().eval()
    assert model.stem.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert model.stem.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    seen = []
    assert model.backbone is not None
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(model.stem.mean.expand(1, 3, 32, 32))
    assert seen[0].abs().max() < 1e-6


def test_auxiliary_losses() -> None:
    model = tiny()
    assert model.aux_losses == {}
    model(torch.rand(2, 3, 32, 32))
    assert list(model.aux_losses) == ["load_balance"]
    assert model.aux_losses["load_balance"].requires_grad
    copied = copy.deepcopy(model)
    assert copied.aux_losses == {}
    for without in (tiny(qmoe=False), create_model("hq_unet", pretrained=False)):
        without(torch.rand(2, 3, 32, 32))
        assert without.aux_losses == {}


def test_weights_from_a_file(tmp_path: Path) -> None:
    name = ARCHITECTURES["hqfnet_tiny"].backbone
    assert name is not None
    vit = timm.create_model(name, num_classes=0)
    path = tmp_path / "vit.safetensors"
    save_file(vit.state_dict(), path)
    loaded = create_model("hqfnet_tiny", pretrained=path).backbone
    assert loaded is not None
    assert all(torch.equal(p, vit.state_dict()[key]) for key, p in loaded.vit.state_dict().items())
    with pytest.raises(RuntimeError, match=r"could not be loaded from .*nothing\.safetensors") as error:
        create_model("hqfnet_tiny", pretrained=tmp_path / "nothing.safetensors")
    assert "pretrained=False" in str(error.value)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RuntimeError, match=r"could not be loaded by download: no connection\n.*pretrained=False"):
        create_model("hqfnet_small")


def test_every_backbone_is_known_to_timm() -> None:
    names = [a.backbone for a in ARCHITECTURES.values() if a.backbone]
    assert all(timm.is_model(name) for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "unet"}, "name: unknown model 'unet', expected one of hqfnet_tiny"),
        ({"num_classes": 1}, "num_classes: expected at least 2, got 1"),
        ({"in_channels": 0}, "in_channels: expected at least 1, got 0"),
        ({"depth": 0}, "depth: expected at least 1 layer, got 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)
