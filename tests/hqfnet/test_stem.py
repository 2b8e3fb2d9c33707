"""The stem: RGB, other bands, and what the backbone sees of them."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from hqfnet import HQFNet, create_model
from hqfnet.stem import BandNorm, BandStem

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.4)

pytestmark = pytest.mark.usefixtures("threads")


def tiny(in_channels: int) -> HQFNet:
    torch.manual_seed(0)
    return create_model("hqfnet_tiny", pretrained=False, in_channels=in_channels)


def test_rgb_is_normalised_by_constants() -> None:
    images = torch.rand(2, 3, 4, 4)
    stem = BandStem(3, MEAN, STD)
    bands, rgb = stem(images)
    assert bands is rgb
    torch.testing.assert_close(rgb[:, 2], (images[:, 2] - 0.6) / 0.4)
    assert not list(stem.parameters())


def test_other_bands_are_normalised_by_their_statistics() -> None:
    torch.manual_seed(0)
    scale = torch.tensor([1.0, 2, 3, 300, 0.001]).view(-1, 1, 1)  # reflectances, a temperature, a ratio
    stem = BandStem(5, MEAN, STD)
    for _ in range(10):
        bands, rgb = stem(scale * (1 + 0.1 * torch.randn(8, 5, 16, 16)))
    torch.testing.assert_close(bands.std(dim=(0, 2, 3)), torch.ones(5), atol=1e-2, rtol=0)
    stem.eval()
    images = scale * (1 + 0.1 * torch.randn(8, 5, 16, 16))
    bands, rgb = stem(images)
    torch.testing.assert_close(bands.mean(dim=(0, 2, 3)), torch.zeros(5), atol=0.1, rtol=0)
    torch.testing.assert_close(bands.std(dim=(0, 2, 3)), torch.ones(5), atol=0.1, rtol=0)
    expected = (images[:, :3].clamp(0, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(rgb, expected)


@pytest.mark.parametrize(("in_channels", "sources"), [(1, [0, 0, 0]), (2, [0, 1, 0])])
def test_one_or_two_bands_take_turns(in_channels: int, sources: list[int]) -> None:
    images = torch.rand(1, in_channels, 2, 2)
    _, rgb = BandStem(in_channels, (0, 0, 0), (1, 1, 1))(images)
    torch.testing.assert_close(rgb, images[:, sources])


def test_the_backbone_sees_rgb_and_the_unet_every_band() -> None:
    model = tiny(12).eval()
    seen = []
    assert model.backbone is not None
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.rand(1, 12, 32, 32)
    more = images.clone()
    more[:, 11] += 1
    with torch.no_grad():
        assert not torch.equal(model(images), model(more))
    assert seen[0].shape == (1, 3, 32, 32)
    assert torch.equal(seen[0], seen[1])
    backbone = tiny(3).backbone
    assert backbone is not None
    assert {k: v.shape for k, v in model.backbone.state_dict().items()} == {
        k: v.shape for k, v in backbone.state_dict().items()
    }


def test_other_numbers_of_bands_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images: expected shape \(B, 12, H, W\), got \(1, 3, 32, 32\)"):
        tiny(12)(torch.rand(1, 3, 32, 32))


def test_bands_are_normalised_as_batch_normalisation_does() -> None:
    torch.manual_seed(0)
    norm, torchs = BandNorm(4), nn.BatchNorm2d(4, eps=1e-10, momentum=None, affine=False)
    for _ in range(3):
        images = 5 + torch.randn(2, 4, 8, 8)
        torch.testing.assert_close(norm(images), torchs(images))
    torch.testing.assert_close(norm.running_mean, torchs.running_mean)
    torch.testing.assert_close(norm.running_var, torchs.running_var)
    torch.testing.assert_close(norm.eval()(images), torchs.eval()(images))
    assert norm.pixels.tolist() == [3 * 2 * 8 * 8] * 4


def test_statistics_are_of_the_pixels_that_are_data() -> None:
    """Each band's own, whatever share of a batch is missing, all of it included; what is missing becomes the mean."""
    torch.manual_seed(0)
    norm, kept = BandNorm(4), []
    for share in (0.25, 1.0, 0.0, 0.01):
        valid = torch.rand(2, 4, 32, 32) < share
        valid[:, 3] = share > 0.5
        images = torch.where(valid, 0.8 + 0.1 * torch.randn(valid.shape), 0)
        normalised = norm(images, valid)
        assert (normalised[~valid] == 0).all()
        kept += [[images[:, band][valid[:, band]] for band in range(4)]]
    bands = [torch.cat(parts) for parts in zip(*kept, strict=True)]
    torch.testing.assert_close(norm.running_mean, torch.stack([band.mean() for band in bands]), rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_var, torch.stack([band.var() for band in bands]), rtol=0.02, atol=0)
    assert norm.pixels.tolist() == [len(band) for band in bands]
    norm.eval()
    assert (norm(images, valid)[~valid] == 0).all()
    everywhere = norm(images)
    torch.testing.assert_close(
        everywhere, (images - norm.running_mean.view(4, 1, 1)) / norm.running_var.view(4, 1, 1).sqrt()
    )


def test_statistics_of_large_numbers_are_finite() -> None:
    norm = BandNorm(4)
    images = 1e18 * torch.randn(4, 4, 64, 64).clamp(-1, 1)
    assert norm(images).isfinite().all()
    assert norm.running_var.isfinite().all()
    assert norm(torch.ones(1, 4, 1, 1)).isfinite().all()


def test_older_checkpoints_are_read() -> None:
    old = nn.BatchNorm2d(4, eps=1e-10, momentum=None, affine=False)
    old(5 + torch.randn(2, 4, 8, 8))
    norm = BandNorm(4)
    norm.load_state_dict(old.state_dict())
    images = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(norm.eval()(images), old.eval()(images))
    again = BandNorm(4)
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again.pixels, norm.pixels)


def test_where_there_is_data_has_the_shape_of_the_images() -> None:
    with pytest.raises(ValueError, match=r"valid: expected the shape of images, \(1, 4, 32, 32\), got \(1, 32, 32\)"):
        tiny(4)(torch.rand(1, 4, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool))


def test_processes_share_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with other shares of data have those of all pixels, as one process has."""
    torch.manual_seed(0)
    images, valid = torch.randn(4, 4, 8, 8), torch.rand(4, 4, 8, 8) < 0.6
    alone = BandNorm(4)
    expected = alone(images, valid)
    halves = [slice(0, 1), slice(1, 4)]
    # Each sum is awaited from both before either goes on.
    sums: list[list[torch.Tensor]] = [[], []]
    barrier = threading.Barrier(2)
    ranks: dict[int, int] = {}

    def all_reduce(values: torch.Tensor) -> None:
        sums[ranks[threading.get_ident()]].append(values.clone())
        barrier.wait(10)
        values.copy_(sums[0][-1] + sums[1][-1])
        barrier.wait(10)

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    norms = [BandNorm(4), BandNorm(4)]
    found: dict[int, torch.Tensor] = {}

    def process(rank: int) -> None:
        ranks[threading.get_ident()] = rank
        found[rank] = norms[rank](images[halves[rank]], valid[halves[rank]])

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    torch.testing.assert_close(torch.cat([found[0], found[1]]), expected)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, alone.running_mean)
        torch.testing.assert_close(norm.running_var, alone.running_var)
        assert torch.equal(norm.pixels, alone.pixels)
