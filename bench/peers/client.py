"""The driver's end of a conversation with a `worker`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class PeerError(RuntimeError):
    """A peer raised, ended or did not answer; the message says which."""


class Client:
    """Starts a worker with ``python``, on ``threads`` threads."""

    def __init__(self, python: Path, threads: int) -> None:
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - its standard error, closed by `close`
        self.process = subprocess.Popen(
            [python, "-m", "bench.peers.worker", str(threads)],
            cwd=ROOT,
            env=os.environ | {name: str(threads) for name in variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,  # a group of its own, so that processes that the peer starts end with it
            text=True,
        )

    def ask(self, do: str, patience: float, **arguments: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            PeerError: it is an error, or it does not come within ``patience`` seconds, which ends the worker.
        """
        assert self.process.stdin
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
            line = self._line(do, patience)
        except BrokenPipeError:
            line = ""
        if not line:
            message = self._ending()
            self.close()
            raise PeerError(message)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _line(self, do: str, patience: float) -> str:
        """The next line of the worker's; "" if it has ended."""
        assert self.process.stdout
        deadline = time.monotonic() + patience
        while not select.select([self.process.stdout], [], [], 0.5)[0]:
            if self.process.poll() is not None:  # a process that it started may still hold the pipe open
                return ""
            if time.monotonic() > deadline:
                self.close()
                raise PeerError(f"no answer to {do!r} in {patience:g} s")
        return self.process.stdout.readline()

    def _ending(self) -> str:
        code = self.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self.log.seek(0)
        last = self.log.read().strip().splitlines()[-1:]
        return f"the process ended with {how}" + "".join(f": {line}" for line in last)

    @property
    def ended(self) -> bool:
        """Whether the worker is gone."""
        assert self.process.stdout
        return self.process.stdout.closed

    def close(self) -> None:
        """Ends the worker and what it has started; a second time it does nothing."""
        if self.ended:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
