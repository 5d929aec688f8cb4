"""What it costs that clients and the server sign: rounds with signatures and without, in turns in one run.

python benchmarks/signatures.py [--turns 3] [--rounds 60] [--clients 10] [--combiners 0]

Without: nothing is signed or checked but who joins, in no process; hansa has no such setting.
"""

import argparse
import asyncio
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import network_round
import structlog

from hansa.messages import Signature
from hansa.network.combiner import signatures
from hansa.wire.node_key import NodeKey, holds

CARELESS = """
from hansa.messages import Signature
from hansa.network.combiner import signatures
from hansa.wire.node_key import NodeKey
NodeKey.sign = lambda self, statement: Signature(self.public, "00" * 64)
signatures.holds = lambda signature, statement: True
"""
"""Put before the code of every node."""


@contextmanager
def careless() -> Iterator[None]:
    """In this process, which is the controller."""
    sign, check = NodeKey.sign, signatures.holds
    NodeKey.sign = lambda self, _: Signature(self.public, "00" * 64)  # type: ignore[method-assign]
    signatures.holds = lambda *_: True
    try:
        yield
    finally:
        NodeKey.sign, signatures.holds = sign, check  # type: ignore[method-assign]


def alone(times: int = 2000) -> tuple[float, float]:
    """Microseconds of a signature, and of its verification, the medians."""
    key, signing, checking = NodeKey.new(), [], []
    for number in range(times):
        statement = number.to_bytes(300, "little")
        begun = time.perf_counter()
        signature = key.sign(statement)
        signed = time.perf_counter()
        holds(signature, statement)
        signing.append(signed - begun)
        checking.append(time.perf_counter() - signed)
    return 1e6 * statistics.median(signing), 1e6 * statistics.median(checking)


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--combiners", type=int, default=0)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    sign, check = alone()
    print(f"python {platform.python_version()}, {os.cpu_count()} cores; to sign {sign:.0f} µs, to check {check:.0f} µs")
    for evaluate in (False, True):
        signed: list[float] = []
        bare: list[float] = []
        for _ in range(given.turns):
            shape = (given.clients, given.combiners, given.rounds)
            signed += asyncio.run(network_round.measure(*shape, evaluate=evaluate))
            with careless():
                bare += asyncio.run(network_round.measure(*shape, evaluate=evaluate, before=CARELESS))
        one, other = statistics.median(signed), statistics.median(bare)
        what = "train + evaluate + commit" if evaluate else "train + commit"
        print(
            f"1 kB, {given.clients} clients, {given.combiners} combiners, {what}, ms a round: "
            f"signed {one:.1f}, not {other:.1f}, ratio {one / other:.2f}"
        )


if __name__ == "__main__":
    main()
