"""Federated averaging by secure aggregation: the server learns each round's mean, and no client's change.

A client's weighted change is the integers that `hansa.aggregators.mean` sums, Σ n_i rint(Δ_i / q) with Σ n_i, and these
are summed by a scheme of `hansa.protocols.secure_sum`. Masks of integers come off exactly, so the model has the bits of
FedAvg.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeVar, get_args

import numpy as np

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Partial
from hansa.arrays import Arrays, apply
from hansa.errors import ConfigError, InputError, RunFailedError
from hansa.messages import ClientInfo, Contribution
from hansa.protocols.consistency import Signer, check_signers, present_statement, roster_statement
from hansa.protocols.learner import Learner, LocalClient, Trained
from hansa.protocols.lightsecagg import LightSecAgg
from hansa.protocols.models import Model
from hansa.protocols.parts import check_count
from hansa.protocols.secagg import SecAgg
from hansa.protocols.secure_messages import (
    Keys,
    Left,
    Masked,
    Present,
    Revealed,
    Roster,
    Sealed,
    Signed,
    by_client,
    rows,
)
from hansa.protocols.secure_sum import Client, Scheme, Words, check_quorum, least_threshold
from hansa.protocols.worker import Gone, Program, Worker

__all__ = ["Absent", "Name", "Step", "secure_fedavg"]

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
    signers: Sequence[str] = (),
    signing_key: Callable[[ClientInfo], str] | None = None,
    absent: Absent = _nobody,
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
        signers: the public keys with which clients sign what the server tells them, in the order of clients, as
            `hansa package key` prints them; with them a server that cheats is found out. Empty: nobody signs.
        signing_key: with `signers`, a client → its private key (Ed25519, PEM); asked on that client's machine alone.
        absent: who drops out, and when; its change is counted where it has sent it; it goes on in the next round. On a
            network, who stays away for the session's deadline drops out likewise, without a word. So does, anywhere,
            whose data or training fails in a round, which people are told.

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
    if bool(signers) != (signing_key is not None):
        raise ConfigError("`signers` and `signing_key` go together: all clients sign, or nobody does")

    async def program(worker: Worker) -> Model | Trained:
        clients = worker.size - 1
        if clients < 3 or worker.topology.senders[SERVER] != tuple(range(1, worker.size)):  # noqa: PLR2004 - see `check_hiding`
            raise ConfigError(f"secure averaging needs a star of a server and 3 clients, not {worker.topology.name}")
        chosen = _scheme(scheme, clients, threshold, colluders)
        if signers:
            check_signers(signers, clients)
        if worker.number == SERVER:
            first = learner.trainer.initial_model(worker.shared_rng("init"))
            return await _serve(worker, first, mean, rounds, chosen, signs=bool(signers))
        local = LocalClient(learner, worker, worker.number - 1, clients)
        signer = None if signing_key is None else Signer(worker.number - 1, signing_key(local.info), signers)
        return await _take_part(worker, local, signer, mean, rounds=rounds, scheme=chosen, absent=absent)

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


async def _serve(
    worker: Worker, model: Arrays, mean: WeightedMean, rounds: int, scheme: Scheme, *, signs: bool
) -> Model:
    """signs: clients do."""
    for number in range(1, rounds + 1):
        worker.broadcast(Model(model))
        total = await _summed(worker, scheme, number, _size(mean, model), signs=signs)
        model = _moved(mean, model, total, scheme.clients)
    worker.broadcast(Model(model))
    return Model(model)


async def _summed(worker: Worker, scheme: Scheme, number: int, size: int, *, signs: bool) -> Words:
    """The sum of a round."""
    told = {client: await _keys(worker, client, number) for client in range(scheme.clients)}
    keys = {client: said.values for client, said in told.items() if said is not None}
    check_quorum(keys, scheme)
    worker.broadcast(Roster(*rows(keys)), _workers(keys))
    sharers = await _pass_on(worker, keys, scheme, signs=signs)
    server = scheme.server(size, {client: key.tobytes() for client, key in keys.items()}, sharers)
    present = []
    for client in sharers:
        sent = await _said(worker, client, Masked)
        if sent is not None:
            server.add(client, sent.values)
            present.append(client)
    check_quorum(present, scheme)
    worker.broadcast(Present(np.array(present)), _workers(present))
    revealing = await _countersigned(worker, present, scheme) if signs else present
    shares = {client: await _said(worker, client, Revealed) for client in revealing}
    return server.unmasked({client: said.values.tobytes() for client, said in shares.items() if said is not None})


async def _keys(worker: Worker, client: int, number: int) -> Keys | None:
    """What a client says first in a round; before it comes what it said in others, which went on without it."""
    while True:
        said = await worker.receive(client + 1, Keys, Sealed, Signed, Masked, Revealed, Left, Gone)
        if isinstance(said, Gone) or (isinstance(said, Left) and said.round == number):
            return None
        if isinstance(said, Keys) and said.round == number:
            return said


async def _said(worker: Worker, client: int, kind: type[M]) -> M | None:
    """What a client says; None: it has left, or stays away."""
    said = await worker.receive(client + 1, kind, Left, Gone)
    return None if isinstance(said, (Left, Gone)) else said


async def _signature(worker: Worker, client: int) -> bytes | None:
    """What a client signs with; None: it has left, or stays away."""
    said = await _said(worker, client, Signed)
    return None if said is None else by_client(said).get(client, b"")


async def _countersigned(worker: Worker, clients: Iterable[int], scheme: Scheme) -> list[int]:
    """Pass on to each what all of them have signed; who has."""
    told = {client: await _signature(worker, client) for client in clients}
    signatures = {client: signature for client, signature in told.items() if signature is not None}
    check_quorum(signatures, scheme)
    worker.broadcast(Signed(*rows(signatures)), _workers(signatures))
    return list(signatures)


async def _pass_on(worker: Worker, clients: Iterable[int], scheme: Scheme, *, signs: bool) -> list[int]:
    """Pass on what each client tells others, and signs where it does; who has told all of it."""
    signatures: dict[int, bytes] = {}
    passing = _Passing(worker, {client: {} for client in clients})
    for sender in passing.waiting:
        told = await passing.hear(sender)
        signature = await _signature(worker, sender) if told and signs else b""
        if told and signature is not None:
            signatures[sender] = signature
        else:
            passing.forget(sender)
    check_quorum(signatures, scheme)
    passing.pass_on(last=True)
    if signs:
        worker.broadcast(Signed(*rows(signatures)), _workers(signatures))
    return list(signatures)


@dataclass(slots=True)
class _Passing:
    """What clients tell each other through the server, which holds as much at once as memory is bounded by."""

    worker: Worker
    waiting: dict[int, dict[int, np.ndarray]]
    """Receiver → what others have told it and is not passed on yet."""
    held: int = 0

    async def hear(self, sender: int) -> bool:
        """What one tells; whether it has come to its end."""
        last = False
        while not last:
            said = await _said(self.worker, sender, Sealed)
            if said is None:
                return False
            for receiver, row in zip(said.clients.tolist(), said.values, strict=True):
                if receiver not in self.waiting:
                    raise InputError(f"client {sender} tells something to client {receiver}, who has told no keys")
                self.waiting[receiver][sender] = row
            self.held, last = self.held + said.values.nbytes, said.last
            if self.held > _AT_ONCE:
                self.pass_on(last=False)
        return True

    def forget(self, sender: int) -> None:
        """It takes no part; who has been told something by it already, and is told no signature of it, forgets it."""
        for told in self.waiting.values():
            told.pop(sender, None)

    def pass_on(self, *, last: bool) -> None:
        """Send what is held."""
        for receiver, told in self.waiting.items():
            self.worker.send(receiver + 1, Sealed(*rows(told), last=last))
            told.clear()
        self.held = 0


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _take_part(
    worker: Worker,
    local: LocalClient,
    signer: Signer | None,
    mean: WeightedMean,
    *,
    rounds: int,
    scheme: Scheme,
    absent: Absent,
) -> Trained:
    """signer: where clients sign."""
    client = worker.number - 1
    model = await _model(worker)
    for number in range(1, rounds + 1):
        leaves = _step(absent(client, number), client)
        one = scheme.client(client, _size(mean, model), worker.secret("secure sum", number))
        part = _Part(worker, one, scheme, signer, number, model)
        try:
            await part.take(partial(_change, mean, local, model, number), leaves)
        except _MissedError as missed:
            model = missed.model
        else:
            model = await _model(worker)
    return local.trained(model)


async def _model(worker: Worker) -> Arrays:
    """That of the next round; before it comes what the server has sent to one that leaves, and could not know it."""
    while True:
        said = await worker.receive(SERVER, Model, Roster, Sealed, Present)
        if isinstance(said, Model):
            return said.arrays


class _FailedError(Exception):
    """The code of this client has failed: it leaves the round."""


class _MissedError(Exception):
    """The round went on without this client, as it was silent for too long; the next one has begun."""

    def __init__(self, model: Arrays) -> None:
        """model: of the next round."""
        super().__init__()
        self.model = model


@dataclass(slots=True)
class _Part:
    """A client's part in one round."""

    worker: Worker
    client: Client
    scheme: Scheme
    signer: Signer | None
    number: int
    """Of the round."""
    model: Arrays
    """That it was told."""
    roster: bytes = b""
    """What is signed of it, where clients sign."""

    async def take(self, change: Callable[[], Words], leaves: Step | None) -> None:
        """Each step in turn; raises `_MissedError`. change: trains; leaves: the step that it does not do.

        Where training fails, it leaves in place of the upload.
        """
        steps: Mapping[Step, Callable[[], Awaitable[None]]] = {
            "keys": self._tell_keys,
            "shares": self._share,
            "upload": partial(self._upload, change),
            "recovery": self._recover,
        }
        try:
            for step, do in steps.items():
                if leaves == step:
                    break
                await do()
            else:
                return
        except _FailedError:
            pass
        self.worker.send(SERVER, self._left)

    async def _tell_keys(self) -> None:
        self.worker.send(SERVER, Keys(np.frombuffer(self.client.public, np.uint8), self.number))

    async def _share(self) -> None:
        everybody = by_client(await self._told(Roster))
        for some, last in _parts(self.client.sealed(everybody)):
            self.worker.send(SERVER, Sealed(*rows(some), last=last))
        if self.signer is not None:
            self.roster = roster_statement(self.number, self.model, everybody)
        self._sign(self.roster)
        sharers: list[int] = []
        last = False
        while not last:
            said = await self._told(Sealed)
            told, last = by_client(said), said.last
            self.client.opened(told)
            sharers += told
        signed = await self._check(self.roster, "the keys and the model", sharers)
        self.client.forget(set(sharers) - set(signed))

    async def _upload(self, change: Callable[[], Words]) -> None:
        if self.worker.has_said(SERVER, self._left):  # by an earlier run of this party, in which it failed
            raise _FailedError
        try:
            values = change()
        except (Exception, SystemExit) as error:  # user code may raise anything: the round goes on without it
            self.worker.tell(error, f"it takes no part in round {self.number}")
            raise _FailedError from error
        self.worker.send(SERVER, Masked(self.client.masked(values)))

    @property
    def _left(self) -> Left:
        return Left(self.number)

    async def _recover(self) -> None:
        present = (await self._told(Present)).clients.tolist()
        statement = present_statement(self.roster, present)
        self._sign(statement)
        check_quorum(await self._check(statement, "the list of who is present", present), self.scheme)
        self.worker.send(SERVER, Revealed(np.frombuffer(self.client.revealed(present), np.uint8)))

    async def _told(self, kind: type[M]) -> M:
        said = await self.worker.receive(SERVER, kind, Model)
        if isinstance(said, Model):
            raise _MissedError(said.arrays)
        return said

    def _sign(self, statement: bytes) -> None:
        if self.signer is not None:
            own = {self.worker.number - 1: self.signer.sign(statement)}
            self.worker.send(SERVER, Signed(*rows(own)))

    async def _check(self, statement: bytes, what: str, clients: list[int]) -> list[int]:
        """Who of these clients has signed the same, where clients sign, else all; none has signed anything else."""
        if self.signer is None:
            return clients
        signatures = by_client(await self._told(Signed))
        clients = [client for client in clients if client in signatures]
        self.signer.check(statement, signatures, clients, what)
        return clients


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


def _moved(mean: WeightedMean, model: Arrays, total: Words, clients: int) -> Arrays:
    """The model with the mean of a round."""
    plan, sums, start = mean.plan(model), {}, 0
    values = total.view(np.int64)
    for name, tensor in plan.tensors.items():
        size = int(np.prod(tensor.shape))
        sums[name] = values[start : start + size].reshape(tensor.shape)
        start += size
    weight = int(values[-1])
    if not 1 <= weight <= clients * mean.max_weight:
        raise RunFailedError(
            f"the clients' weights come to {weight}, which is no sum of what clients send: one of them, or the server, "
            "has said something else than the protocol does; with `signers`, it is told whether it was the server"
        )
    if weight > mean.max_weight:
        raise RunFailedError(
            f"the clients' weights come to {weight}, more than max_weight = {mean.max_weight}: raise it"
        )
    return apply(model, mean.report(plan, Partial(sums, weight)).mean)


def _workers(clients: Iterable[int]) -> list[int]:
    return [client + 1 for client in clients]
