"""A training loader that goes on where a checkpoint left it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

Draw = tuple[int, int]
"""The index of a sample, and the seed of everything that is random about it."""


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

    Order and seeds depend on the seed, the epoch and the number of processes alone. ``start`` samples are left out of
    the next pass over it.
    """

    start = 0

    def __iter__(self) -> Iterator[Any]:
        indices = list(super().__iter__())
        start, self.start = self.start, 0
        for index in indices[start:]:
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
    """

    def __init__(self, dataset: Dataset[Any], seed: int, **arguments: Any) -> None:
        distributed_run = distributed.is_available() and distributed.is_initialized()
        processes = distributed.get_world_size() if distributed_run else 1
        rank = distributed.get_rank() if distributed_run else 0
        self.epoch_sampler = EpochSampler(dataset, processes, rank, shuffle=True, seed=seed)
        self._served = self._skipped = 0
        # The generator gives seeds to worker processes; without one they would come from torch's global generator.
        super().__init__(
            SeededDataset(dataset), sampler=self.epoch_sampler, generator=torch.Generator().manual_seed(0), **arguments
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator function: nothing happens before the first batch is asked for, when the epoch is known.
        self._served, self._skipped = self._skipped, 0
        self.epoch_sampler.start = self._served * (self.batch_size or 1)
        for batch in super().__iter__():
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Batches served of the current epoch, and the seed."""
        return {"served": self._served, "seed": self.epoch_sampler.seed}

    def load_state_dict(self, state: dict[str, int], epoch: int | None = None) -> None:
        """Takes the seed over, and starts the next epoch after the batches that were served.

        Args:
            state: of another loader's ``state_dict``.
            epoch: number of batches after which an epoch is over; by default, when there are no more.
        """
        self.epoch_sampler.seed = state["seed"]
        self._skipped = state["served"] % (epoch or len(self))


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
