"""Loaders that several processes share: one for training that goes on where a checkpoint left it, one for scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from hqfnet.data.classes import IGNORE_INDEX
from hqfnet.data.crops import Sample

Draw = tuple[int, int]
"""The index of a sample, and the seed of everything that is random about it."""


def processes_and_rank() -> tuple[int, int]:
    """How many processes a distributed run has, and which of them this is; (1, 0) where there is none."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1, 0
    return distributed.get_world_size(), distributed.get_rank()


class SeededDataset(Dataset[Any]):
    """Sample (i, seed) of ``dataset``: its item i, drawn with torch's CPU generator seeded, and put back afterwards."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, draw: Draw) -> Any:
        index, seed = draw
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
        try:
            return self.dataset[index]
        finally:
            torch.set_rng_state(before)


class EpochSampler(DistributedSampler[Any]):
    """A shuffled epoch, shared out between the processes, each index with a seed of its own.

    Order and seeds depend on the seed and the epoch alone; where the samples do not come out even, the first ones are
    repeated, so that all processes make the same number of steps. ``start`` samples, counted over all processes, are
    left out of the next pass over it.
    """

    start = 0

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(
            len(self.dataset),  # type: ignore[arg-type]
            generator=torch.Generator().manual_seed(self.seed + self.epoch),
        ).tolist()
        start, self.start = self.start, 0
        left = order[start:]
        left += list(islice(cycle(order), -len(left) % self.num_replicas))
        for index in left[self.rank :: self.num_replicas]:
            yield (
                index,
                int(np.random.SeedSequence((self.seed, self.epoch, index)).generate_state(1, np.uint64)[0] >> 1),
            )


class ResumableLoader(DataLoader[Any]):
    """A DataLoader whose ``state_dict`` says how far the epoch has come; `SegmentationTask` keeps it in checkpoints.

    Loaded into a new loader, the epoch goes on with the next batch, and random crops and turns come out as they
    would have, whatever the number of workers: see `EpochSampler`. The data set must draw from torch's CPU
    generator alone.

    Args:
        dataset: of fixed length.
        seed: of order and augmentation; the same in every process of a distributed run.
        arguments: as of DataLoader.

    Attributes:
        samples_per_batch: of all processes together.
        skipped: samples that the next epoch leaves out.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, **arguments: Any) -> None:
        processes, rank = processes_and_rank()
        self.epoch_sampler = EpochSampler(dataset, processes, rank, shuffle=True, seed=seed)
        self._served = self.skipped = 0
        # The generator gives seeds to worker processes; without one they would come from torch's global generator.
        super().__init__(
            SeededDataset(dataset), sampler=self.epoch_sampler, generator=torch.Generator().manual_seed(0), **arguments
        )
        self.samples_per_batch = (self.batch_size or 1) * processes

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator function: nothing happens before the first batch is asked for, when the epoch is known.
        self._served, self.skipped = self.skipped, 0
        self.epoch_sampler.start = self._served
        for batch in super().__iter__():
            self._served += self.samples_per_batch
            yield batch

    def state_dict(self) -> dict[str, float]:
        """Batches served of the current epoch, in batches of this loader, and the seed."""
        return {"served": self._served / self.samples_per_batch, "seed": self.epoch_sampler.seed}

    def load_state_dict(self, state: dict[str, Any], epoch: int | None = None, batch: int | None = None) -> None:
        """Takes the seed over, and starts the next epoch after the samples that were served.

        Args:
            state: of another loader's ``state_dict``.
            epoch: number of batches after which an epoch was over; by default, when there were no more.
            batch: ``samples_per_batch`` of the other loader; by default that of this one.
        """
        batch = batch or self.samples_per_batch
        self.epoch_sampler.seed = state["seed"]
        self.skipped = round(state["served"] % (epoch or self._batches(self._size, batch)) * batch)

    def batches_before(self, epoch: int) -> int:
        """What is skipped, as a number of this loader's batches, when ``epoch`` of them are an epoch.

        As many are left as it takes for the samples that are not skipped.
        """
        left = min(self._size, epoch * self.samples_per_batch) - self.skipped
        return epoch - self._batches(max(left, 0), self.samples_per_batch)

    @property
    def _size(self) -> int:
        return len(self.epoch_sampler.dataset)  # type: ignore[arg-type]

    def _batches(self, samples: int, batch: int) -> int:
        return samples // batch if self.drop_last else math.ceil(samples / batch)


class SharedLoader(DataLoader[Sample]):
    """A DataLoader for scores in several processes: its batches are those of one process, dealt out in turn.

    Every process makes the same number of steps. A process that is left over in the last round repeats a batch, in
    which nothing counts: all of its mask is `IGNORE_INDEX`.

    Args:
        dataset: of fixed length.
        batch_size: samples per batch.
        arguments: as of DataLoader.
    """

    def __init__(self, dataset: Dataset[Sample], batch_size: int, **arguments: Any) -> None:
        sampler = BatchDealer(dataset, batch_size, *processes_and_rank())
        super().__init__(dataset, batch_size, sampler=sampler, **arguments)
        self.own = sampler.own

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        for number, batch in enumerate(super().__iter__()):
            if number >= self.own:
                batch = {**batch, "mask": torch.full_like(batch["mask"], IGNORE_INDEX)}
            yield batch


class BatchDealer(DistributedSampler[Sample]):
    """The samples of this process for `SharedLoader`, in the order of the data set.

    It is a DistributedSampler because Lightning puts one of its own in the place of any other.

    Args:
        dataset, batch_size: see `SharedLoader`.
        processes: how many there are.
        rank: which of them this is.

    Attributes:
        own: batches of this process that are no repetition.
    """

    def __init__(self, dataset: Dataset[Sample], batch_size: int, processes: int, rank: int) -> None:
        super().__init__(dataset, processes, rank, shuffle=False)
        every = range(len(dataset))  # type: ignore[arg-type]
        batches = [every[first : first + batch_size] for first in every[::batch_size]]
        own = batches[rank::processes]
        self.own = len(own)
        repeated = batches[:1] * (math.ceil(len(batches) / processes) - len(own))
        self.indices = [index for batch in own + repeated for index in batch]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def resumable(loader: DataLoader[Any]) -> ResumableLoader:
    """The same batches' worth of the same data set, shuffled and resumable; seeded with torch's initial seed."""
    return ResumableLoader(
        loader.dataset,
        seed=torch.initial_seed() % 2**32,
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        num_workers=loader.num_workers,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )
