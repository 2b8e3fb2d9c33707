"""The resumable loader: order, seeds, and where it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hqfnet.data import IGNORE_INDEX
from hqfnet.data.loader import BatchDealer, EpochSampler, ResumableLoader, SharedLoader, resumable


class Noisy(Dataset[Any]):
    """Item i is i and a random number."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.stack([torch.tensor(float(i)), torch.rand(())])


def loader(workers: int = 0, seed: int = 5) -> ResumableLoader:
    return ResumableLoader(Noisy(), seed, batch_size=2, num_workers=workers, persistent_workers=workers > 0)


def epoch(source: ResumableLoader, number: int) -> list[torch.Tensor]:
    source.epoch_sampler.set_epoch(number)
    return list(source)


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own() -> None:
    first, second = epoch(loader(), 0), epoch(loader(), 1)
    for batches in (first, second):
        assert sorted(torch.cat(batches)[:, 0].tolist()) == list(range(11))
    assert not same(first, second)
    # A sample is drawn anew in every epoch, and no two samples alike.
    numbers = torch.cat([*first, *second])[:, 1]
    assert len(set(numbers.tolist())) == 22
    assert not same(first, epoch(loader(seed=6), 0))


def test_workers_make_no_difference() -> None:
    assert same(epoch(loader(), 2), epoch(loader(workers=2), 2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("served", [0, 1, 4, 6])
def test_goes_on_where_it_stopped(workers: int, served: int) -> None:
    whole = epoch(loader(), 3)
    stopped = loader(workers)
    stopped.epoch_sampler.set_epoch(3)
    batches = iter(stopped)
    for _ in range(served):
        next(batches)
    fresh = loader(workers, seed=99)
    fresh.load_state_dict(stopped.state_dict())
    assert len(fresh) == 6
    if served == 6:  # the epoch is over
        assert same(epoch(fresh, 4), epoch(loader(), 4))
    else:
        assert same(epoch(fresh, 3), whole[served:])
        assert same(epoch(fresh, 4), epoch(loader(), 4))


def test_an_epoch_may_be_cut_short() -> None:
    fresh = loader()
    fresh.load_state_dict({"served": 4, "seed": fresh.epoch_sampler.seed}, epoch=4)
    assert same(epoch(fresh, 3), epoch(loader(), 3))


def test_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    epoch(loader(), 0)
    assert torch.equal(torch.rand(3), expected)


def test_processes_share_an_epoch_out() -> None:
    parts = [list(EpochSampler(Noisy(), 2, rank, shuffle=True, seed=1)) for rank in range(2)]
    indices = [index for part in parts for index, _ in part]
    assert set(indices) == set(range(11))
    assert len(indices) == 12  # one sample twice, so that all processes make the same number of steps
    alone = dict(EpochSampler(Noisy(), 1, 0, shuffle=True, seed=1))
    assert dict(parts[0] + parts[1]) == alone


def test_takes_over_what_a_loader_says() -> None:
    torch.manual_seed(7)
    plain = DataLoader(Noisy(), batch_size=4, drop_last=True, collate_fn=lambda samples: len(samples))
    made = resumable(plain)
    assert list(made) == [4, 4]
    assert made.state_dict() == {"served": 2, "seed": 7}


@pytest.mark.parametrize("before", [(2, 1), (3, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("after", [(2, 1), (4, 1), (11, 1), (1, 2), (2, 3)])
def test_goes_on_with_other_batches_and_processes(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Each sample that was not served comes once, as it would have, but for what evens the processes out."""
    (size, processes), (other_size, others) = before, after
    stopped = ResumableLoader(Noisy(), 5, batch_size=size)
    stopped.samples_per_batch = size * processes
    stopped._served = 2 * stopped.samples_per_batch
    order = [index for index, _ in EpochSampler(Noisy(), 1, 0, shuffle=True, seed=5)]
    left = order[stopped._served :]
    seen, lengths = [], set()
    for rank in range(others):
        fresh = ResumableLoader(Noisy(), 99, batch_size=other_size)
        fresh.samples_per_batch = other_size * others
        fresh.epoch_sampler.num_replicas, fresh.epoch_sampler.rank = others, rank
        fresh.load_state_dict(stopped.state_dict(), batch=stopped.samples_per_batch)
        batches = list(fresh)
        epoch = -(-11 // fresh.samples_per_batch)
        assert fresh.batches_before(epoch) <= epoch
        lengths.add(len(batches))
        seen += [int(sample[0]) for batch in batches for sample in batch]
    assert len(lengths) == 1
    assert set(seen) == (set(left) if len(left) % others == 0 else set(left) | {*order[: -len(left) % others]})
    assert len(seen) == len(left) + -len(left) % others


class Masks(Dataset[Any]):
    """Sample i has i as image and in its mask."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"image": torch.tensor(float(i)), "mask": torch.tensor([i])}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_scores_see_each_sample_once(size: int, batch: int, processes: int) -> None:
    """The batches of one process, dealt out; every process makes the same number of steps."""
    alone = [masks["mask"][:, 0].tolist() for masks in DataLoader(Masks(size), batch)]
    dealt: dict[int, list[int]] = {}
    for rank in range(processes):
        loader = SharedLoader(Masks(size), batch)
        dealer = BatchDealer(Masks(size), batch, processes, rank)
        loader.own = dealer.own
        served = DataLoader.__iter__(DataLoader(Masks(size), batch, sampler=dealer))
        batches = [sample["mask"][:, 0].tolist() for sample in served]
        assert len(batches) == -(-len(alone) // processes) == -(-len(dealer) // batch)
        dealt |= {rank + processes * k: masks for k, masks in enumerate(batches[: dealer.own])}
    assert [dealt[k] for k in range(len(alone))] == alone
    assert len(dealt) == len(alone)


def test_what_is_repeated_does_not_count() -> None:
    loader = SharedLoader(Masks(4), 2)
    loader.own = 1
    first, second = list(loader)
    assert first["mask"].tolist() == [[0], [1]]
    assert second["mask"].tolist() == [[IGNORE_INDEX], [IGNORE_INDEX]]
    assert second["image"].tolist() == [2, 3]
