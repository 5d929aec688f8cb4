"""What TLS costs: a round of small models and the way of large updates, with it and without, in turns in one run."""

import argparse
import asyncio
import os
import platform
import statistics

import grpc  # type: ignore[import-untyped]
import network_round
import network_transfer
import structlog


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--megabytes", type=int, default=100)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    print(f"python {platform.python_version()}, grpc {grpc.__version__}, {os.cpu_count()} cores")
    rounds: dict[str, list[float]] = {"on": [], "off": []}
    down: dict[str, list[float]] = {"on": [], "off": []}
    up: dict[str, list[float]] = {"on": [], "off": []}
    for _ in range(given.turns):
        for tls in ("on", "off"):
            rounds[tls] += asyncio.run(network_round.measure(10, 0, given.rounds, evaluate=False, tls=tls))
            moved = asyncio.run(network_transfer.measure(2, given.megabytes, 2, fetch=True, tls=tls))
            down[tls].append(moved.download)
            up[tls].append(moved.upload)
    tell("train + commit, 1 kB, 10 clients, ms a round", rounds)
    tell(f"{given.megabytes} MB, 2 clients, download, GB/s", down)
    tell(f"{given.megabytes} MB, 2 clients, upload and fold, GB/s", up)


def tell(what: str, measured: dict[str, list[float]]) -> None:
    """Medians beside each other."""
    on, off = (statistics.median(measured[tls]) for tls in ("on", "off"))
    print(f"{what}: TLS {on:.3g}, plain {off:.3g}, ratio {on / off:.2f}")


if __name__ == "__main__":
    main()
