"""Times hqfkernels against other simulators, each in an environment of its own: ``python -m bench.peers``.

A result is what `bench.compare.stamp` gives, and

| field | meaning |
| --- | --- |
| `budget` | seconds of a step above which a smaller batch was taken |
| `peers` | name -> `versions`: python and packages; or `error`: why it is not installed |
| `cases` | see `bench.peers.measure` |
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench.cases import OURS, Case
from bench.compare import details, progress, result_path, stamp
from bench.peers import environments
from bench.peers.client import ROOT, Client, PeerError
from bench.peers.measure import Settings, measure
from bench.peers.registry import HQFKERNELS, PEERS, Peer
from bench.peers.report import report

CASES = tuple(
    Case(*sizes)
    for sizes in (
        (4, 2, 16384),
        (4, 6, 16384),
        (6, 2, 8192),
        (8, 2, 4096),
        (8, 6, 2048),
        (10, 3, 512),
        (12, 2, 64),
    )
)
QUICK_BATCH = 256


def set_up(peers: list[Peer], settings: Settings) -> dict[str, dict[str, Any]]:
    """Installs what is missing; for each peer its `versions`, or the `error` that keeps it from running."""
    found: dict[str | None, dict[str, Any]] = {}
    for environment in dict.fromkeys(peer.environment for peer in peers):
        progress(f"environment {environment or 'of the project'}")
        try:
            if environment:
                environments.install(environment, settings.environments)
            with Client(environments.python(environment, settings.environments), settings.threads) as client:
                versions = client.ask("versions", settings.patience, packages=environments.packages(environment))
                found[environment] = {"versions": versions}
        except PeerError as error:
            found[environment] = {"error": str(error)}
    progress("")
    return {peer.name: found[peer.environment] for peer in peers}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="default: all")
    parser.add_argument("--cases", nargs="+", type=Case.parse, help="n,L,B; default: seven of n=4 to n=12")
    parser.add_argument("--quick", action="store_true", help=f"batches of at most {QUICK_BATCH}, 3 rounds")
    parser.add_argument("--rounds", type=int, default=11, help="readings of each peer (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each peer (%(default)s)")
    parser.add_argument("--budget", type=float, default=1, help="seconds of a step (%(default)s)")
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for an answer (%(default)s)")
    parser.add_argument(
        "--environments", type=Path, default=ROOT / ".peers", help="folder of the peers' environments (.peers)"
    )
    parser.add_argument("--json", type=Path, help="file for the result; default: a new one under bench/results")
    parser.add_argument("--list", action="store_true", help="print the peers' versions instead of measuring")
    parser.add_argument("--report", type=Path, help="print the tables of an earlier result instead of measuring")
    options = parser.parse_args(arguments)
    for option in ("rounds", "threads", "budget", "patience"):
        if getattr(options, option) <= 0:
            parser.error(f"--{option}: must be positive, got {getattr(options, option)}")
    if options.report:
        print(report(json.loads(options.report.read_text())))
        return
    cases: list[Case] = options.cases or list(CASES)
    if options.quick:
        cases = [dataclasses.replace(case, batch=min(case.batch, QUICK_BATCH)) for case in cases]
    torch.set_num_threads(options.threads)
    settings = Settings(
        3 if options.quick else options.rounds,
        options.threads,
        options.budget,
        options.patience,
        options.environments.absolute(),
    )
    peers = [HQFKERNELS, *(PEERS[key] for key in options.peers)]
    found = set_up(peers, settings)
    if options.list:
        for name, what in found.items():
            print(f"{name}: {what.get('error') or ', '.join(' '.join(item) for item in what['versions'].items())}")
        return
    run = stamp() | {"budget": settings.budget, "peers": found, "cases": []}
    path = result_path(parser, options.json, run, "peers-")
    for case in cases:
        result = measure(case, [peer for peer in peers if "versions" in found[peer.name]], settings)
        if OURS in result["failures"]:
            sys.exit(f"{case}: {OURS}: {result['failures'][OURS]['message']}")
        run["cases"].append(result)
        path.write_text(json.dumps(run, indent=1) + "\n")  # what is there already survives an interruption
        print(f"\n{case}\n\n{details(result['microseconds_per_circuit'])}", flush=True)
    print(f"\n{report(run)}\n\nwritten to {path}")
    if any(f["why"] == "disagrees" for case in run["cases"] for f in case["failures"].values()):
        sys.exit("a peer disagrees with the reference")


if __name__ == "__main__":
    main()
