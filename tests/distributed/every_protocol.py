"""Every protocol, with few workers and few rounds: prints a digest of all results of each, from rank 0.

`python every_protocol.py` and `mpirun -n 4 python every_protocol.py` print the same.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from blake3 import blake3

import hansa
from hansa.distributed import (
    Outcome,
    Records,
    dsgd,
    exponential,
    gossip,
    hierarchical,
    hierarchy,
    hubs,
    one_peer_exponential,
    pushsum,
    ring,
    run,
    secure_fedavg,
    split_learning,
    splitfed,
    star,
    torus,
    uniform,
    vertical,
    wheel,
)
from hansa.messages import ClientInfo
from hansa.programs.encoding import encode
from hansa.training.numpy import NumpyTrainer, mlp
from hansa.training.numpy_parts import mlp_parts, vertical_mlp_parts

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 30, 6)).astype(np.float32)
Y = RNG.integers(0, 3, (8, 30))
PARTS = mlp_parts((6, 8, 3), 1, learning_rate=0.1)

app = hansa.App(trainer=NumpyTrainer(mlp((6, 8, 3)), 0.1, batch_size=8))


@app.data
def share(client: ClientInfo) -> tuple[Any, Any]:
    return X[client.index], Y[client.index]


def records(client: ClientInfo) -> Records:
    own = np.random.default_rng(client.index).permutation(30)[:25]
    return Records(own, X[0][own][:, 2 * client.index :][:, :2], Y[0][own] if client.index == 0 else None)


def runs() -> Iterator[tuple[str, Outcome]]:
    yield "gossip", run(gossip(lambda i: {"w": X[i]}, steps=5), torus(2, 4))
    yield "large messages", run(gossip(lambda i: {"w": np.full(300_000, i, np.float32)}, steps=2), ring(5))
    yield "dsgd", run(dsgd(app, rounds=3), ring(6), seed=1)
    yield "dsgd, one peer", run(dsgd(app, rounds=4, mixing=uniform), one_peer_exponential(8), seed=1)
    yield "pushsum", run(pushsum(app, rounds=3), exponential(7), seed=1)
    yield "hierarchical", run(hierarchical(app, rounds=2, inner_rounds=2), hierarchy([2, 3]), seed=1)
    yield "split learning", run(split_learning(PARTS, share, rounds=2, batch_size=8), wheel(4), seed=1)
    yield "splitfed", run(splitfed(PARTS, share, rounds=2, batch_size=8), hubs(2, 5), seed=1)
    yield "secure averaging", run(secure_fedavg(app, rounds=2), star(5), seed=1)
    parts = vertical_mlp_parts([(2, 4)] * 3, (12, 3), learning_rate=0.1)
    yield "vertical", run(vertical(parts, records, salt=b"0" * 16, epochs=2, batch_size=8), star(3), seed=1)


for name, outcome in runs():
    digest = blake3(b"".join(encode(result) for result in outcome.results)).hexdigest()
    if outcome.rank == 0:
        sys.stdout.write(f"{name} {outcome.messages} {outcome.sent} {digest}\n")
