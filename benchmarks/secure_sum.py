"""What secure aggregation costs: seconds of CPU of one client and of the server, and bytes that a client sends.

In one process, without a network: the keys, shares and masks of one round, of a model of so many numbers. A tenth of
the clients drops out after keys are shared, which is what the server works for.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from hansa.protocols.secure_sum import SHARE_BYTES, Client, least_threshold, unmasked

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """(seconds of CPU, what came of it)."""
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def measure(n: int, size: int) -> str:
    """A row of the table."""
    rng = np.random.default_rng(0)
    threshold = max(least_threshold(n), -(-2 * n // 3))
    clients = [Client(number, n, threshold, rng.bytes(32)) for number in range(n)]
    everybody = [client.public for client in clients]
    first, sealed = timed(lambda: clients[0].sealed(everybody))
    told = [sealed, *(client.sealed(everybody) for client in clients[1:])]
    second, _ = timed(lambda: clients[0].opened([each[0] for each in told]))
    for number, client in enumerate(clients[1:], 1):
        client.opened([each[number] for each in told])
    values = rng.integers(0, 2**32, size).astype(np.uint64)
    third, total = timed(lambda: clients[0].masked(values))
    present = [number < n - n // 10 for number in range(n)]
    for client in clients[1 : sum(present)]:
        total += client.masked(values)
    revealed: dict[int, Sequence[bytes]] = {number: clients[number].revealed(present) for number in range(sum(present))}
    server, found = timed(lambda: unmasked(everybody, threshold, total, present, revealed))
    if not np.array_equal(found, values * np.uint64(sum(present))):
        raise SystemExit("the sum is wrong")
    sent = 64 + sum(map(len, sealed)) + 8 * size + n * SHARE_BYTES
    plain = f"{sent / 1e6:.2f} ({sent / (4 * size):.1f})"
    return f"| {n} | {size:,} | {first + second:.3f} | {third:.3f} | {server:.2f} | {plain} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    given, _ = parser.parse_known_args()
    print("| clients | numbers | keys and shares, s | masks, s | server, s | a client sends, MB (of float32) |")
    print("|---|---|---|---|---|---|")
    for n in given.clients:
        for size in given.sizes:
            print(measure(n, size), flush=True)


if __name__ == "__main__":
    main()
