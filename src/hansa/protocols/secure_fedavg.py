"""Federated averaging by secure aggregation: the server learns each round's mean, and no client's change.

A client's weighted change is the integers that `hansa.aggregators.mean` sums, Σ n_i rint(Δ_i / q) with Σ n_i, and these
are summed by `hansa.protocols.secure_sum`. Masks of integers cancel exactly, so the model has the bits of FedAvg.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Partial
from hansa.arrays import Arrays, apply
from hansa.errors import ConfigError, RunFailedError
from hansa.messages import Contribution, Update
from hansa.protocols.learner import Learner, LocalClient, Trained
from hansa.protocols.message import message
from hansa.protocols.models import Model
from hansa.protocols.parts import check_count
from hansa.protocols.secure_sum import SHARE_BYTES, Client, PublicKeys, Words, check_quorum, least_threshold, unmasked
from hansa.protocols.worker import Program, Worker

__all__ = ["Absent", "Keys", "Left", "Masked", "Present", "Revealed", "Roster", "Sealed", "secure_fedavg"]

SERVER = 0
_SEALED_BYTES = 2 * SHARE_BYTES + 16

Absent = Callable[[int, int], bool]
"""(client from 0, round from 1) → whether it leaves the round after it has shared its keys."""


@message("secure.keys")
@dataclass(frozen=True, slots=True)
class Keys:
    """A client's public keys in a round."""

    values: np.ndarray
    """uint8 of shape (2, 32): for encryption, for masks."""


@message("secure.roster")
@dataclass(frozen=True, slots=True)
class Roster:
    """Those of all clients."""

    values: np.ndarray
    """uint8 of shape (clients, 2, 32)."""


@message("secure.sealed")
@dataclass(frozen=True, slots=True)
class Sealed:
    """What a client tells each other client, or what each has told it; the server cannot read it."""

    values: np.ndarray
    """uint8 of shape (clients, bytes); zeros for the client itself."""


@message("secure.masked")
@dataclass(frozen=True, slots=True)
class Masked:
    """A client's change and weight, masked."""

    values: np.ndarray
    """uint64."""


@message("secure.left")
@dataclass(frozen=True, slots=True)
class Left:
    """A client has nothing to send in this round."""

    round: int


@message("secure.present")
@dataclass(frozen=True, slots=True)
class Present:
    """Who has sent a change."""

    values: np.ndarray
    """bool of shape (clients,)."""


@message("secure.revealed")
@dataclass(frozen=True, slots=True)
class Revealed:
    """A client's shares: of the own mask of who has sent a change, of the key of who has not."""

    values: np.ndarray
    """uint8 of shape (clients, bytes)."""


def _fresh() -> bytes:
    """32 bytes of this machine's own randomness."""
    return X25519PrivateKey.generate().private_bytes_raw()


def _nobody(_client: int, _round: int) -> bool:
    return False


def secure_fedavg(
    learner: Learner,
    *,
    rounds: int,
    threshold: int | None = None,
    max_weight: int = 2**24,
    range_bits: int = 6,
    absent: Absent = _nobody,
    seed: Callable[[], bytes] = _fresh,
) -> Program:
    """A program for `star(1 + clients)`: worker 0 is the server, worker i the client i − 1.

    The server ends with a `Model`, the clients with a `Trained`. threshold: clients that must be left to take off the
    masks, more than half; None: two thirds. max_weight, range_bits: as of the aggregator `mean`. absent: who drops out;
    its change is not counted, and it goes on in the next round. seed: 32 new random bytes whenever a client asks.

    Raises `QuorumNotMetError` where fewer than `threshold` clients are left.
    """
    check_count("rounds", rounds)
    mean = WeightedMean(max_weight, range_bits)

    async def program(worker: Worker) -> Model | Trained:
        clients = worker.size - 1
        if clients < 3 or worker.topology.senders[SERVER] != tuple(range(1, worker.size)):  # noqa: PLR2004 - see `Client`
            raise ConfigError(f"secure averaging needs a star of a server and 3 clients, not {worker.topology.name}")
        least = min(clients, max(least_threshold(clients), -(-2 * clients // 3))) if threshold is None else threshold
        if worker.number == SERVER:
            return await _serve(worker, learner.trainer.initial_model(worker.shared_rng("init")), mean, rounds, least)
        local = LocalClient(learner, worker, worker.number - 1, clients)
        for number in range(1, rounds + 1):
            model = (await worker.receive(SERVER, Model)).arrays
            one = Client(worker.number - 1, clients, least, seed())
            leaves = absent(worker.number - 1, number)
            await _take_part(worker, one, None if leaves else _vector(mean, model, local.fit(model, number)), number)
        return local.trained((await worker.receive(SERVER, Model)).arrays)

    return program


async def _serve(worker: Worker, model: Arrays, mean: WeightedMean, rounds: int, threshold: int) -> Model:
    for _ in range(rounds):
        worker.broadcast(Model(model))
        roster = np.stack([each.values for each in (await worker.gather(Keys)).values()])
        worker.broadcast(Roster(roster))
        sealed = np.stack([each.values for each in (await worker.gather(Sealed)).values()])
        for client in worker.receivers:
            worker.send(client, Sealed(sealed[:, client - 1]))
        total, present = np.zeros(1, np.uint64), np.zeros(len(roster), np.bool_)
        for client in worker.senders:
            said = await worker.receive(client, Masked, Left)
            if isinstance(said, Masked):
                total, present[client - 1] = total + said.values, True
        check_quorum(int(present.sum()), threshold)
        survivors = [client for client in worker.senders if present[client - 1]]
        worker.broadcast(Present(present), survivors)
        shares = {each: await worker.receive(each, Revealed) for each in survivors}
        revealed = {each - 1: [row.tobytes() for row in rows.values] for each, rows in shares.items()}
        everybody = [PublicKeys(*(key.tobytes() for key in keys)) for keys in roster]
        model = _moved(mean, model, unmasked(everybody, threshold, total, list(present), revealed))
    worker.broadcast(Model(model))
    return Model(model)


async def _take_part(worker: Worker, client: Client, values: Words | None, number: int) -> None:
    """The client's side of a round; values: None where it drops out after it has shared its keys."""
    keys = client.public
    worker.send(SERVER, Keys(_bytes([keys.encryption, keys.masking])))
    roster = (await worker.receive(SERVER, Roster)).values
    sealed = client.sealed([PublicKeys(*(key.tobytes() for key in keys)) for keys in roster])
    worker.send(SERVER, Sealed(_bytes([each or bytes(_SEALED_BYTES) for each in sealed])))
    client.opened([row.tobytes() for row in (await worker.receive(SERVER, Sealed)).values])
    if values is None:
        worker.send(SERVER, Left(number))
        return
    worker.send(SERVER, Masked(client.masked(values)))
    present = (await worker.receive(SERVER, Present)).values
    worker.send(SERVER, Revealed(_bytes(client.revealed([bool(each) for each in present]))))


def _vector(mean: WeightedMean, model: Arrays, update: Update) -> Words:
    """A client's sum in the order of the model, and its weight."""
    plan = mean.plan(model)
    alone = mean.accumulate(plan, mean.zero(plan), update, Contribution("", update.num_examples))
    parts = [*(sums.reshape(-1) for sums in alone.sums.values()), np.array([alone.weight])]
    return np.concatenate(parts).astype(np.int64).view(np.uint64)


def _moved(mean: WeightedMean, model: Arrays, total: Words) -> Arrays:
    """The model with the mean of a round."""
    plan, sums, start = mean.plan(model), {}, 0
    values = total.view(np.int64)
    for name, tensor in plan.tensors.items():
        size = int(np.prod(tensor.shape))
        sums[name] = values[start : start + size].reshape(tensor.shape)
        start += size
    weight = int(values[-1])
    if not 1 <= weight <= mean.max_weight:
        raise RunFailedError(
            f"the clients' weights come to {weight}, not to 1 to max_weight = {mean.max_weight}: raise it"
        )
    return apply(model, mean.report(plan, Partial(sums, weight)).mean)


def _bytes(rows: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
