"""What each scheme of secure aggregation costs: seconds of CPU of one client and of the server, and bytes sent.

In one process, without a network: the keys, shares and masks of one round, of a model of so many numbers. A tenth of
the clients drops out after it has shared, and another tenth after it has sent its change. `OPENBLAS_NUM_THREADS=1`
measures one core, which is what a busy machine has for it.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from hansa.protocols.lightsecagg import LightSecAgg
from hansa.protocols.secagg import SecAgg
from hansa.protocols.secure_sum import Client, Scheme, least_threshold

T = TypeVar("T")


def schemes(n: int) -> Iterator[tuple[str, Scheme]]:
    """By name: each leaves two thirds to take off the masks."""
    threshold = max(least_threshold(n), -(-2 * n // 3))
    yield f"SecAgg, t = {threshold}", SecAgg(n, threshold)
    for colluders in sorted({min(n // 2, threshold - 1), max(1, n // 10)}, reverse=True):
        yield f"LightSecAgg, U = {threshold}, T = {colluders}", LightSecAgg(n, threshold, colluders)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """(seconds of CPU, what came of it)."""
    began = time.process_time()
    done = work()
    return time.process_time() - began, done


def measure(name: str, scheme: Scheme, size: int) -> str:
    """A row of the table; the client that is measured is client 0."""
    n, rng = scheme.clients, np.random.default_rng(0)
    clients: list[Client] = [scheme.client(number, size, rng.bytes(32)) for number in range(n)]
    everybody = {number: client.public for number, client in enumerate(clients)}
    shares, sealed = timed(lambda: clients[0].sealed(everybody))
    bytes_of_shares = sum(map(len, sealed.values()))
    told = [sealed, *(client.sealed(everybody) for client in clients[1:])]
    opening, _ = timed(lambda: clients[0].opened({other: each[0] for other, each in enumerate(told) if other}))
    for number, client in enumerate(clients[1:], 1):
        client.opened({other: each.pop(number) for other, each in enumerate(told) if other != number})
    values = rng.integers(0, 2**32, size).astype(np.uint64)
    present = range(n - n // 10)
    masks, first = timed(lambda: clients[0].masked(values))
    server = scheme.server(size, everybody, range(n))
    work = timed(lambda: server.add(0, first))[0]
    for number in present[1:]:
        masked = clients[number].masked(values)
        work += timed(lambda masked=masked, number=number: server.add(number, masked))[0]  # type: ignore[misc]
    reveal, one = timed(lambda: clients[0].revealed(present))
    revealed = {0: one} | {number: clients[number].revealed(present) for number in present[1 : len(present) - n // 10]}
    last, found = timed(lambda: server.unmasked(revealed))
    if not np.array_equal(found, values * np.uint64(len(present))):
        raise SystemExit("the sum is wrong")
    sent = bytes_of_shares, first.nbytes + len(one)
    seconds = f"{shares + opening:.3f} | {masks + reveal:.3f} | {work + last:.2f}"
    return (
        f"| {name} | {n} | {size:,} | {seconds} | {sent[0] / 1e6:.2f} | {sent[1] / 1e6:.2f} "
        f"| {sum(sent) / (4 * size):.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 1_000_000])
    given, _ = parser.parse_known_args()
    print(
        "| scheme | clients | numbers | client: shares, s | masks, s | server, s "
        "| client sends: shares, MB | masked, MB | of float32 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for n in given.clients:
        for size in given.sizes:
            for name, scheme in schemes(n):
                print(measure(name, scheme, size), flush=True)


if __name__ == "__main__":
    main()
