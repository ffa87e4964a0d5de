"""Run a target with many inputs.

    python -m fuzz.run TARGET [--count N] [--seed S] [--atheris]     (with tests on PYTHONPATH)

With --atheris, guided by coverage (Python 3.11, `pip install --group fuzz`). What fails is written
beside the corpus of the target, where the tests find it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import mutate, samples
from .targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


def inputs(target: str, count: int, seed: int) -> Iterator[bytes]:
    """The corpus, then changed copies of it and of what is good: the same for the same seed."""
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    yield from kept
    good, _, packed = samples.sample()
    seeds = [packed] if target == "pack" else [good, *kept]
    rng = random.Random(seed)
    for _ in range(count):
        if target != "pack" and rng.random() < 0.7:
            yield mutate.any_manifest(rng)
        else:
            yield mutate.any_bytes(rng.choice(seeds), rng)


def one(target: str, data: bytes) -> bool:
    """Run it, and keep what fails."""
    try:
        return TARGETS[target](data)
    except BaseException:
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(data).hexdigest()[:16]
        (CORPUS / target / name).write_bytes(data)
        print(f"failed with {CORPUS / target / name}", file=sys.stderr)
        raise


def main() -> None:
    words = argparse.ArgumentParser(prog="fuzz.run")
    words.add_argument("target", choices=sorted(TARGETS))
    words.add_argument("--count", type=int, default=10_000)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--atheris", action="store_true")
    asked = words.parse_args()
    begin, taken = time.monotonic(), 0
    if asked.atheris:
        import atheris  # type: ignore[import-not-found]

        atheris.instrument_all()
        folder = str(CORPUS / asked.target)
        options = [sys.argv[0], f"-runs={asked.count}", f"-seed={asked.seed or 1}", folder]
        atheris.Setup(options, lambda data: one(asked.target, data) and None)
        atheris.Fuzz()
        return
    for data in inputs(asked.target, asked.count, asked.seed):
        taken += one(asked.target, data)
    seconds = time.monotonic() - begin
    print(
        f"{asked.target}: {asked.count} inputs of seed {asked.seed} in {seconds:.0f} s, "
        f"{taken} were good, nothing failed"
    )


if __name__ == "__main__":
    main()
