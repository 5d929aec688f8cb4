"""What is fuzzed, in a run that ends: seeds, thousands of mutations of them, and every input that found something."""

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.targets import CRASHES, READERS, TARGETS

MUTATIONS = 400
"""Of each seed."""
MEGABYTES = 80
"""Memory that reading one small input may take: an archive may bring 64 MiB."""


def mutated(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(made))
        match rng.randrange(5):
            case 0:
                made[at : at + 1] = rng.randbytes(1)
            case 1:
                made[at:at] = rng.choice(words)
            case 2:
                del made[at : at + rng.randint(1, 16)]
            case 3:
                made[at:at] = made[at : at + rng.randint(1, 64)]
            case _:
                made[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7))
    return bytes(made)


def inputs(name: str) -> Iterator[bytes]:
    rng, target = random.Random(name), TARGETS[name]  # noqa: S311 - the same in every run
    yield b""
    for seed in target.seeds():
        yield seed
        for _ in range(MUTATIONS):
            yield mutated(rng, seed, target.words)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_takes_any_bytes_or_says_what_is_wrong_with_them(name: str) -> None:
    tracemalloc.start()
    try:
        for data in inputs(name):
            TARGETS[name].run(data)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < MEGABYTES << 20


FOUND = sorted(CRASHES.glob("*/*"))


@pytest.mark.parametrize("path", FOUND, ids=[f"{path.parent.name}-{path.name}" for path in FOUND])
def test_what_was_found_once_is_found_no_more(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


def test_seeds_are_what_their_reader_reads() -> None:
    """Else a target would never see more than its first refusal."""
    seeds = list(TARGETS["frames"].seeds())
    assert len(seeds) > 30
    for seed in seeds:
        _, read, _ = READERS[seed[0]]
        assert read(seed[1:]) is not None


def test_every_folder_of_what_was_found_is_a_targets() -> None:
    assert {path.parent.name for path in FOUND} <= TARGETS.keys()
