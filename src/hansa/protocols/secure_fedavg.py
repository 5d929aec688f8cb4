"""Federated averaging by secure aggregation: the server learns each round's mean, and no client's change.

A client's weighted change is the integers that `hansa.aggregators.mean` sums, Σ n_i rint(Δ_i / q) with Σ n_i, and these
are summed by a scheme of `hansa.protocols.secure_sum`. Masks of integers come off exactly, so the model has the bits of
FedAvg.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeVar, get_args

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Partial
from hansa.arrays import Arrays, apply
from hansa.errors import ConfigError, RunFailedError
from hansa.messages import Contribution
from hansa.protocols.learner import Learner, LocalClient, Trained
from hansa.protocols.lightsecagg import LightSecAgg
from hansa.protocols.message import message
from hansa.protocols.models import Model
from hansa.protocols.parts import check_count
from hansa.protocols.secagg import SecAgg
from hansa.protocols.secure_sum import Client, Scheme, Words, check_quorum, least_threshold
from hansa.protocols.worker import Program, Worker

__all__ = [
    "Absent",
    "Keys",
    "Left",
    "Masked",
    "Name",
    "Present",
    "Revealed",
    "Roster",
    "Sealed",
    "Step",
    "secure_fedavg",
]

M = TypeVar("M")

SERVER = 0
_AT_ONCE: Final = 2**26
"""Bytes of what clients tell each other that the server holds, and that are sent in one message."""

Name = Literal["secagg", "lightsecagg"]
"""Of secure aggregation."""
Step = Literal["keys", "shares", "upload", "recovery"]
"""Of a round: a client tells its public keys; tells each other client a share; sends its change; reveals shares."""
Absent = Callable[[int, int], Step | None]
"""(client from 0, round from 1) → the step at which it leaves the round, without doing it; None: it stays."""


@message("secure.keys")
@dataclass(frozen=True, slots=True)
class Keys:
    """A client's public keys in a round."""

    values: np.ndarray
    """uint8."""


@message("secure.roster")
@dataclass(frozen=True, slots=True)
class Roster:
    """Those of all clients that have told theirs."""

    clients: np.ndarray
    """int64, ascending."""
    values: np.ndarray
    """uint8 of shape (clients, bytes)."""


@message("secure.sealed")
@dataclass(frozen=True, slots=True)
class Sealed:
    """What a client tells other clients, or what others have told it; the server cannot read it."""

    clients: np.ndarray
    """int64: the others."""
    values: np.ndarray
    """uint8 of shape (clients, bytes)."""
    last: bool
    """There is no more of it."""


@message("secure.masked")
@dataclass(frozen=True, slots=True)
class Masked:
    """A client's change and weight, masked."""

    values: np.ndarray
    """As the scheme has it."""


@message("secure.left")
@dataclass(frozen=True, slots=True)
class Left:
    """A client takes no further part in this round."""

    round: int


@message("secure.present")
@dataclass(frozen=True, slots=True)
class Present:
    """Who has sent a change."""

    clients: np.ndarray
    """int64, ascending."""


@message("secure.revealed")
@dataclass(frozen=True, slots=True)
class Revealed:
    """What a client reveals, so that the masks of the sum come off."""

    values: np.ndarray
    """uint8."""


def _fresh() -> bytes:
    """32 bytes of this machine's own randomness."""
    return X25519PrivateKey.generate().private_bytes_raw()


def _nobody(_client: int, _round: int) -> None:
    return None


def secure_fedavg(
    learner: Learner,
    *,
    rounds: int,
    scheme: Name = "secagg",
    threshold: int | None = None,
    colluders: int | None = None,
    max_weight: int = 2**24,
    range_bits: int = 6,
    absent: Absent = _nobody,
    seed: Callable[[], bytes] = _fresh,
) -> Program:
    """A program for `star(1 + clients)`: worker 0 is the server, worker i the client i − 1.

    The server ends with a `Model`, the clients with a `Trained`.

    Args:
        learner: what trains, and its data; a `hansa.App` is one.
        rounds: how many.
        scheme: "secagg": pairs of clients mask (Bonawitz et al. 2017); "lightsecagg": masks are coded into shares of
            the others (So et al. 2021), with less work at the server, and more bytes between clients.
        threshold: clients that must be left to take off the masks, more than half; None: two thirds.
        colluders: of lightsecagg, clients that together with the server learn nothing but the mean, fewer than
            `threshold`; None: half. A client sends clients / (threshold − colluders) times the model to the others. Of
            secagg it is always threshold − 1.
        max_weight: as of the aggregator `mean`.
        range_bits: as of the aggregator `mean`.
        absent: who drops out, and when; its change is counted where it has sent it; it goes on in the next round.
        seed: 32 new random bytes whenever a client asks.

    Raises:
        QuorumNotMetError: fewer than `threshold` clients are left; it names the others.
        ConfigError: a setting cannot be used.

    """
    check_count("rounds", rounds)
    mean = WeightedMean(max_weight, range_bits)
    if scheme not in get_args(Name):
        raise ConfigError(f"scheme is {scheme!r}; there is: {', '.join(get_args(Name))}")
    if scheme == "secagg" and colluders is not None:
        raise ConfigError("colluders is a setting of lightsecagg; of secagg it is always threshold − 1")

    async def program(worker: Worker) -> Model | Trained:
        clients = worker.size - 1
        if clients < 3 or worker.topology.senders[SERVER] != tuple(range(1, worker.size)):  # noqa: PLR2004 - see `check_hiding`
            raise ConfigError(f"secure averaging needs a star of a server and 3 clients, not {worker.topology.name}")
        chosen = _scheme(scheme, clients, threshold, colluders)
        if worker.number == SERVER:
            return await _serve(worker, learner.trainer.initial_model(worker.shared_rng("init")), mean, rounds, chosen)
        local = LocalClient(learner, worker, worker.number - 1, clients)
        for number in range(1, rounds + 1):
            model = await _model(worker)
            leaves = _step(absent(worker.number - 1, number), worker.number - 1)
            one = chosen.client(worker.number - 1, _size(mean, model), seed())
            await _take_part(worker, one, partial(_change, mean, local, model, number), leaves, number)
        return local.trained(await _model(worker))

    return program


def _scheme(name: Name, clients: int, threshold: int | None, colluders: int | None) -> Scheme:
    least = min(clients, max(least_threshold(clients), -(-2 * clients // 3))) if threshold is None else threshold
    if name == "secagg":
        return SecAgg(clients, least)
    return LightSecAgg(clients, least, min(clients // 2, least - 1) if colluders is None else colluders)


def _step(leaves: object, client: int) -> Step | None:
    if leaves is not None and leaves not in get_args(Step):
        raise ConfigError(f"absent is {leaves!r} for client {client}; it is None, {', '.join(get_args(Step))}")
    return leaves  # type: ignore[return-value]  # one of them


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _serve(worker: Worker, model: Arrays, mean: WeightedMean, rounds: int, scheme: Scheme) -> Model:
    for _ in range(rounds):
        worker.broadcast(Model(model))
        model = _moved(mean, model, await _summed(worker, scheme, _size(mean, model)))
    worker.broadcast(Model(model))
    return Model(model)


async def _summed(worker: Worker, scheme: Scheme, size: int) -> Words:
    """The sum of a round."""
    told = {client: await _said(worker, client, Keys) for client in range(scheme.clients)}
    keys = {client: said.values for client, said in told.items() if said is not None}
    check_quorum(keys, scheme)
    worker.broadcast(Roster(*_rows(keys)), _workers(keys))
    sharers = await _pass_on(worker, keys)
    check_quorum(sharers, scheme)
    server = scheme.server(size, {client: key.tobytes() for client, key in keys.items()}, sharers)
    present = []
    for client in sharers:
        sent = await _said(worker, client, Masked)
        if sent is not None:
            server.add(client, sent.values)
            present.append(client)
    check_quorum(present, scheme)
    worker.broadcast(Present(np.array(present)), _workers(present))
    shares = {client: await _said(worker, client, Revealed) for client in present}
    return server.unmasked({client: said.values.tobytes() for client, said in shares.items() if said is not None})


async def _said(worker: Worker, client: int, kind: type[M]) -> M | None:
    """What a client says; None: it has left."""
    said = await worker.receive(client + 1, kind, Left)
    return None if isinstance(said, Left) else said


async def _pass_on(worker: Worker, clients: Iterable[int]) -> list[int]:
    """Pass on what each client tells others, as much at once as memory is bounded by; who has told anything."""
    sharers, held = [], 0
    waiting: dict[int, dict[int, np.ndarray]] = {client: {} for client in clients}
    for sender in waiting:
        last = False
        while not last:
            said = await _said(worker, sender, Sealed)
            if said is None:
                break
            for receiver, row in zip(said.clients.tolist(), said.values, strict=True):
                waiting[receiver][sender] = row
            held, last = held + said.values.nbytes, said.last
            if held > _AT_ONCE:
                for receiver, rows in waiting.items():
                    worker.send(receiver + 1, Sealed(*_rows(rows), last=False))
                    rows.clear()
                held = 0
        if last:
            sharers.append(sender)
    for receiver, rows in waiting.items():
        worker.send(receiver + 1, Sealed(*_rows(rows), last=True))
    return sharers


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _model(worker: Worker) -> Arrays:
    """That of the next round; before it comes what the server has sent to one that leaves, and could not know it."""
    while True:
        said = await worker.receive(SERVER, Model, Roster, Sealed, Present)
        if isinstance(said, Model):
            return said.arrays


async def _take_part(
    worker: Worker, client: Client, change: Callable[[], Words], leaves: Step | None, number: int
) -> None:
    """The client's side of a round. change: trains; leaves: the step that it does not do."""

    async def tell_keys() -> None:
        worker.send(SERVER, Keys(np.frombuffer(client.public, np.uint8)))

    async def upload() -> None:
        worker.send(SERVER, Masked(client.masked(change())))

    async def recover() -> None:
        present = (await worker.receive(SERVER, Present)).clients.tolist()
        worker.send(SERVER, Revealed(np.frombuffer(client.revealed(present), np.uint8)))

    steps: Mapping[Step, Callable[[], Awaitable[None]]] = {
        "keys": tell_keys,
        "shares": partial(_share, worker, client),
        "upload": upload,
        "recovery": recover,
    }
    for step, take in steps.items():
        if leaves == step:
            worker.send(SERVER, Left(number))
            return
        await take()


async def _share(worker: Worker, client: Client) -> None:
    roster = await worker.receive(SERVER, Roster)
    everybody = {number: row.tobytes() for number, row in zip(roster.clients.tolist(), roster.values, strict=True)}
    for some, last in _parts(client.sealed(everybody)):
        worker.send(SERVER, Sealed(*_rows(some), last=last))
    last = False
    while not last:
        said = await worker.receive(SERVER, Sealed)
        client.opened({number: row.tobytes() for number, row in zip(said.clients.tolist(), said.values, strict=True)})
        last = said.last


def _parts(told: Mapping[int, bytes]) -> Iterator[tuple[dict[int, bytes], bool]]:
    """As many at once as memory is bounded by, and whether they are the last."""
    each = max(1, _AT_ONCE // max(map(len, told.values())))
    clients = list(told)
    for start in range(0, len(clients), each):
        yield {client: told[client] for client in clients[start : start + each]}, start + each >= len(clients)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _size(mean: WeightedMean, model: Arrays) -> int:
    """Of a client's vector: the numbers of a model, and its weight."""
    return 1 + sum(int(np.prod(tensor.shape)) for tensor in mean.plan(model).tensors.values())


def _change(mean: WeightedMean, local: LocalClient, model: Arrays, number: int) -> Words:
    """A client's sum in the order of the model, and its weight, after it has trained."""
    plan, update = mean.plan(model), local.fit(model, number)
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


def _rows(by_client: Mapping[int, bytes | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Clients, and their bytes, of shape (clients, bytes)."""
    rows = [np.frombuffer(each, np.uint8) for each in by_client.values()]
    return np.array(list(by_client), np.int64), np.stack(rows) if rows else np.zeros((0, 0), np.uint8)


def _workers(clients: Iterable[int]) -> list[int]:
    return [client + 1 for client in clients]
