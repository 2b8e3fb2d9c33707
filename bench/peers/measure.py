"""Checks peers against the reference and times them in alternating rounds.

`measure` gives the entry of one case in a result; a name is in `failures` or in the two fields before it.

| field | meaning |
| --- | --- |
| `n`, `layers`, `batch` | the case |
| `microseconds_per_circuit` | name -> a reading per round; reading k of all was taken in round k, one after another |
| `how` | name -> `form`, `batch`, `memory`, `refused` |
| `form` | the fastest of the adapter's forms, the one that was timed |
| `batch` | circuits in a step: fewer than the case's where these would exceed the budget |
| `memory` | bytes at the peak of a step above those after imports (`bench.peers.worker`), or null |
| `refused` | forms that could not be tried -> their messages |
| `failures` | name -> `why`: "refused" or "disagrees", and `message` |
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.cases import Case, Step
from bench.compare import SHORTEST, progress
from bench.peers import environments
from bench.peers.client import Client, PeerError
from bench.peers.registry import Peer
from bench.peers.worker import RESULTS

PROBE = 8
"""Circuits that tell the time per circuit where it does not depend on the batch."""
TRIALS = 3
"""Readings of each of several forms, by the least of which one is chosen."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: readings of each peer.
        threads: of each peer.
        budget: seconds of a step above which a smaller batch is taken.
        patience: seconds to wait for any one answer of a peer.
        environments: folder of the peers' environments.
    """

    rounds: int
    threads: int
    budget: float
    patience: float
    environments: Path


@dataclass
class Ready:
    """A peer that has been built and checked for a case."""

    client: Client
    case: Case
    form: str
    seconds: float
    memory: int | None
    refused: dict[str, str]

    def read(self, patience: float) -> float:
        """Microseconds per circuit."""
        repeats = max(1, round(SHORTEST / self.seconds))
        return self.client.ask("time", patience, form=self.form, repeats=repeats)["seconds"] / self.case.batch * 1e6


@lru_cache(maxsize=1)
def _expected(case: Case) -> Step:
    return Step.of(case)


def _build(start: Callable[[], Client], peer: Peer, case: Case, patience: float) -> Ready:
    """Builds all forms of a peer, checks them and chooses the fastest; after one that ends the worker, in a new one."""
    step = _expected(case)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "inputs.npy", step.inputs.detach().numpy())
        np.save(folder / "weights.npy", step.weights.detach().numpy().reshape(case.layers, case.n, 2))
        files = {what: str(folder / f"{what}.npy") for what in ("inputs", "weights")}

        def begin() -> tuple[Client, list[str]]:
            client = start()
            return client, client.ask("build", patience, adapter=peer.adapter, **files)["forms"]

        client, forms = begin()
        built: list[Ready] = []
        refused = {}
        for form in forms:
            if client.ended:
                client, _ = begin()
            try:
                answer = client.ask("run", patience, form=form, folder=str(folder))
            except PeerError as error:
                refused[form] = str(error)
                continue
            values, input_grads, weight_grads = (torch.from_numpy(np.load(folder / file)) for file in RESULTS)
            step.check_results(f"{peer.name} ({form})", (values, input_grads, weight_grads.flatten()))
            ready = Ready(client, case, form, answer["seconds"], answer["memory"], refused)
            if len(forms) > 1:
                ready.seconds = min(ready.read(patience) for _ in range(TRIALS)) * case.batch / 1e6
            built.append(ready)
        if not built:
            raise PeerError("; ".join(f"{form}: {message}" for form, message in refused.items()))
        if client.ended:
            client, _ = begin()
    best = min(built, key=lambda ready: ready.seconds)
    best.client = client
    return best


def prepare(start: Callable[[], Client], peer: Peer, case: Case, settings: Settings) -> Ready:
    """Builds a peer with the case's batch, or with the part of it, a power of two, that keeps to the budget.

    Another batch is built in a new process, for whose memory the first one's does not count.
    """
    first = case if peer.batched else dataclasses.replace(case, batch=min(PROBE, case.batch))
    ready = _build(start, peer, first, settings.patience)
    circuits = settings.budget / ready.seconds * first.batch
    batch = case.batch if circuits >= case.batch else 2 ** int(np.log2(max(1, circuits)))
    if batch == first.batch:
        return ready
    ready.client.close()
    return _build(start, peer, dataclasses.replace(case, batch=batch), settings.patience)


def measure(case: Case, peers: list[Peer], settings: Settings) -> dict[str, Any]:
    """Times ``peers`` on a case; one that fails is reported and does not stop the others."""
    ready: dict[str, Ready] = {}
    failures: dict[str, dict[str, str]] = {}
    with ExitStack() as running:
        for peer in peers:
            progress(f"{case}: checking {peer.name}")
            python = environments.python(peer.environment, settings.environments)
            try:
                with ExitStack() as clients:

                    def start(python: Path = python, clients: ExitStack = clients) -> Client:
                        return clients.enter_context(Client(python, settings.threads))

                    ready[peer.name] = prepare(start, peer, case, settings)
                    running.push(clients.pop_all())  # those that raise are ended at once
            except PeerError as error:
                failures[peer.name] = {"why": "refused", "message": str(error)}
            except AssertionError as error:
                failures[peer.name] = {"why": "disagrees", "message": str(error)}
        readings: dict[str, list[float]] = {name: [] for name in ready}
        for r in range(settings.rounds):
            progress(f"{case}: round {r + 1} of {settings.rounds}")
            for name in list(readings):
                try:
                    readings[name].append(ready[name].read(settings.patience))
                except PeerError as error:
                    failures[name] = {"why": "refused", "message": str(error)}
                    del readings[name]
                    ready[name].client.close()
    progress("")
    how = {}
    for name in readings:
        used = ready[name]
        how[name] = {"form": used.form, "batch": used.case.batch, "memory": used.memory, "refused": used.refused}
    return dataclasses.asdict(case) | {"microseconds_per_circuit": readings, "how": how, "failures": failures}
