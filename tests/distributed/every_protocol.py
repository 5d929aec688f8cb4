"""Every protocol, with few workers and few rounds: prints a digest of all results of each, from rank 0.

`python every_protocol.py` and `mpirun -n 4 python every_protocol.py` print the same.
"""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import structlog
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import hansa
from hansa.distributed import (
    Outcome,
    Records,
    Split,
    aligned_vertical,
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
from hansa.training.numpy import NumpyTrainer, cross_entropy, mlp
from hansa.training.numpy_parts import DenseBottom, DenseTop, mlp_parts, vertical_mlp_parts

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


def side(client: ClientInfo) -> Split:
    return Split(
        *(Y[0], Y[0][:9]) if client.index == 0 else (X[0][:, client.index :][:, :2], X[0][:9, client.index :][:, :2])
    )


class Failing:
    """A learner of whose clients one has no data."""

    trainer = app.trainer

    def load_data(self, client: ClientInfo) -> Any:
        if client.index == 1:
            raise ValueError("no data here")
        return app.load_data(client)


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
    yield "secure averaging without who fails", run(secure_fedavg(Failing(), rounds=2), star(5), seed=1)
    leaves = lambda client, number: {(0, 1): "recovery", (3, 2): "shares"}.get((client, number))  # noqa: E731
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([client]) * 32) for client in range(4)]
    pem = lambda client: keys[client.index].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # noqa: E731
    signers = [f"ed25519:{key.public_key().public_bytes_raw().hex()}" for key in keys]
    light = secure_fedavg(
        app, rounds=2, scheme="lightsecagg", threshold=3, absent=leaves, signers=signers, signing_key=pem
    )
    yield "secure averaging by coded masks", run(light, star(5), seed=1)
    parts = vertical_mlp_parts([(2, 4)] * 3, (12, 3), learning_rate=0.1)
    yield "vertical", run(vertical(parts, records, salt=b"0" * 16, epochs=2, batch_size=8), star(3), seed=1)
    bottom = lambda p, rng: DenseBottom({"weight0": rng.normal(size=(2, p))}, 0.1, rectify_last=True)  # noqa: E731
    top = lambda width, rng: DenseTop({"weight0": rng.normal(size=(width, 3))}, 0.1, cross_entropy)  # noqa: E731
    score = lambda z, y: (cross_entropy(z.copy(), y)[0], float((z.argmax(axis=1) == y).mean()))  # noqa: E731
    program = aligned_vertical(top, side, score=score, bottom=bottom, rounds=2)
    yield "aligned vertical", run(program, star(3), seed=1)


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # of who fails
for name, outcome in runs():
    digest = blake3(b"".join(encode(result) for result in outcome.results)).hexdigest()
    if outcome.rank == 0:
        sys.stdout.write(f"{name} {outcome.messages} {outcome.sent} {digest}\n")
