"""Runs an adapter in its peer's environment, and times it: ``python -m bench.peers.worker THREADS``.

Reads a request in each line of standard input and answers each with a line on standard output, both JSON objects.
Arrays travel as .npy files. Needs numpy, the peer, and nothing else of this project.

| request | | answer |
| --- | --- | --- |
| `versions` | `packages`: names of distributions | `python`, and the version of each package |
| `build` | `adapter`: "module:function"; `inputs`, `weights`: files | `forms`: their names |
| `run` | `form`, `folder` for `RESULTS` | `seconds` of a step; `memory`: bytes at its peak above those after imports |
| `time` | `form`, `repeats` | `seconds`: mean over the steps |

Shapes are those of `bench.peers.adapters`. `run` takes the second step, the first being the one in which things are
compiled; `time` begins with a step that does not count. Where an adapter raises, the answer is `error`, with the
exception's type and message, and the worker lives on. `memory` is null where the system does not tell, or where
processes of the peer's own do the work; what compiling left behind counts.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.adapters import Adapter, Step
from bench.resident import reset_peak, resident

RESULTS = ("values.npy", "input_gradients.npy", "weight_gradients.npy")


class Worker:
    """The requests, one method each."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.imported = 0

    def versions(self, packages: list[str]) -> dict[str, Any]:
        return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}

    def build(self, adapter: str, inputs: str, weights: str) -> dict[str, Any]:
        module, function = adapter.split(":")
        build: Adapter = getattr(importlib.import_module(module), function)
        self.imported = resident("VmRSS") if MEASURES_MEMORY else 0
        self.steps = build(np.load(inputs), np.load(weights))
        return {"forms": list(self.steps)}

    def run(self, form: str, folder: str) -> dict[str, Any]:
        step = self.steps[form]
        step()
        if MEASURES_MEMORY:
            reset_peak()
        start = time.perf_counter()
        results = step()
        seconds = time.perf_counter() - start
        alone = MEASURES_MEMORY and not multiprocessing.active_children()
        memory = resident("VmHWM") - self.imported if alone else None
        for name, array in zip(RESULTS, results, strict=True):
            np.save(Path(folder, name), np.asarray(array))
        return {"seconds": seconds, "memory": memory}

    def time(self, form: str, repeats: int) -> dict[str, Any]:
        step = self.steps[form]
        step()
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        return {"seconds": (time.perf_counter() - start) / repeats}


MEASURES_MEMORY = Path("/proc/self/clear_refs").exists()


def main(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # for those that start a thread for each core that they see
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # what does not fit is refused, the machine goes on
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not get between the answers
        worker = Worker()
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = getattr(worker, request.pop("do"))(**request)
            except Exception as error:  # whatever a peer raises is its answer
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
