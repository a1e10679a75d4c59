"""Requests drawn from the OpenAPI document, many for each operation: does any make the server fail, hang or answer otherwise than
the document says?

    python -m benchmarks.fuzz --minutes 10

Starts a server of its own with a small random model. It goes round all operations, with a seed for each round, until the
time is up, and at least once; then it says what it found, and exits with 1 if there was anything."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import requests

from benchmarks import random_model
from benchmarks.fuzz.campaign import Campaign, Tally
from benchmarks.servers import serving

_FLAGS: Final = (
    "--default-max-tokens",
    "8",
    "--keepalive-interval",
    "3600",
    "--idle-timeout",
    "0",
    "--no-spare-worker",
)
_FAULTS: Final = re.compile(r"Traceback.*|A request failed.*|.*never awaited.*|.*was never retrieved.*")
_EXAMPLES: Final = 20


def fuzz(url: str, model: str, only: str, seconds: float, seed: int) -> Tally:
    document: dict[str, Any] = requests.get(f"{url}/openapi.json", timeout=10).json()
    with contextlib.closing(Campaign(url, model, document)) as campaign:
        labels = [label for label in campaign.labels() if only in label]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for label in labels:
                start = time.monotonic()
                campaign.run(label, _EXAMPLES, seed)
                took = time.monotonic() - start
                print(f"{label:40} seed {seed}: {took:.1f} s", file=sys.stderr, flush=True)
            seed += 1
        return campaign.tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="draws the first round's requests")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help='operations with this in their name, as "/v1/messages"'
    )
    parser.add_argument("--log", type=Path, help="where the server's log goes; else it is thrown away")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, log = folder / "model", given.log or folder / "log"
        random_model.make(model, random_model.SHAPES["micro"], dtype="float32")
        with serving(folder / "cache", log, *_FLAGS) as server:
            tally = fuzz(f"http://127.0.0.1:{server.port}", str(model), given.only, given.minutes * 60, given.seed)
        faults = sorted(set(_FAULTS.findall(log.read_text(errors="replace"))))
    for operation, statuses in tally.statuses.items():
        print(f"{operation}: {', '.join(f'{status} {count}' for status, count in sorted(statuses.items()))}")
    print(f"slowest answer: {tally.slowest:.1f} s")
    for (operation, kind), told in tally.findings.items():
        print(f"\n{operation}: {kind}\n  {told}")
    for fault in faults:
        print(f"\nin the log: {fault}")
    sys.exit(1 if tally.findings or faults else 0)


if __name__ == "__main__":
    main()
