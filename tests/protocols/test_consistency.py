"""Signed rounds of secure aggregation: a server that tells clients different things is found out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from quadratics import classified
from rounds_of_sums import seed_of, values_of

import hansa
from hansa.arrays import Arrays
from hansa.distributed import run, secure_fedavg, star
from hansa.errors import ConfigError, HansaError
from hansa.messages import ClientInfo
from hansa.protocols import secure_fedavg as secure
from hansa.protocols.consistency import Signer, present_statement, roster_statement
from hansa.protocols.models import Model
from hansa.protocols.secagg import SecAgg
from hansa.protocols.secure_messages import Left, Present, Roster, Sealed, Signed, by_client, rows
from hansa.protocols.worker import Program, Worker


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


KEYS = [Ed25519PrivateKey.from_private_bytes(seed_of(client)) for client in range(5)]
SIGNERS = [f"ed25519:{key.public_key().public_bytes_raw().hex()}" for key in KEYS]


def signing_key(client: ClientInfo) -> str:
    return pem(KEYS[client.index])


def signed(app: hansa.App, **options: Any) -> Program:
    given = {"rounds": 2, "threshold": 4, "signers": SIGNERS, "signing_key": signing_key} | options
    return secure_fedavg(app, **given)


def cheating(program: Program, kind: type[Any], change: Callable[[Any], Any]) -> Program:
    """The same, with a server that changes what it tells client 1."""

    async def cheats(worker: Worker) -> Any:
        def post(receivers: Any, message: Any) -> None:
            for receiver in receivers:
                worker._post((receiver,), change(message) if isinstance(message, kind) and receiver == 2 else message)

        if worker.number == 0:
            return await program(
                Worker(0, worker.topology, post, worker._draw, secret=worker._secret, tell=worker.tell)
            )
        return await program(worker)

    return cheats


def another_model(message: Model) -> Model:
    return Model(Arrays({name: array + 1 for name, array in message.arrays.items()}))


def a_key_of_its_own_for_masks(message: Roster) -> Roster:
    values = message.values.copy()
    values[3, 32:64] = np.frombuffer(X25519PrivateKey.generate().public_key().public_bytes_raw(), np.uint8)
    return replace(message, values=values)


def without_the_last(message: Present) -> Present:
    return Present(message.clients[:-1])


def no_signature(message: Signed) -> Signed:
    return replace(message, values=np.zeros_like(message.values))


CHEATS = [
    (Model, another_model, "client . has not signed the keys and the model that client . was told"),
    (Roster, a_key_of_its_own_for_masks, "client . has not signed the keys and the model that client . was told"),
    (Present, without_the_last, "client . has not signed the list of who is present that client . was told"),
    (Signed, no_signature, "client 0 has not signed the keys and the model that client 1 was told"),
]


@pytest.mark.parametrize("scheme", ["secagg", "lightsecagg"])
def test_signed_rounds_have_the_bits_of_fedavg_whoever_drops_out(scheme: str) -> None:
    app, _, _ = classified(5, batch_size=7)
    leaves = {(4, 1): "recovery"}
    outcome = run(signed(app, scheme=scheme, absent=lambda c, r: leaves.get((c, r))), star(6), seed=2)
    assert outcome.results[0].arrays == hansa.simulate(app, clients=5, rounds=2, seed=2).model
    leaves = {(0, 1): "keys", (1, 2): "shares"}
    one, other = (
        run(made, star(6), seed=2).results[0].arrays
        for made in (
            signed(app, scheme=scheme, absent=lambda c, r: leaves.get((c, r))),
            secure_fedavg(app, rounds=2, threshold=4, absent=lambda c, r: leaves.get((c, r))),  # type: ignore[arg-type,return-value]
        )
    )
    assert one == other


@pytest.mark.parametrize(("kind", "change", "words"), CHEATS)
def test_a_server_that_tells_a_client_something_else_is_found_out(kind: Any, change: Any, words: str) -> None:
    app, _, _ = classified(5, batch_size=7)
    with pytest.raises(HansaError, match=words):
        run(cheating(signed(app), kind, change), star(6), seed=2)


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        (Model, another_model, ""),
        (Roster, a_key_of_its_own_for_masks, "which is no sum of what clients send"),
        (Present, without_the_last, "the shares of a secret of client 4 do not come to it"),
    ],
)
def test_without_signatures_clients_take_part_to_the_end(kind: Any, change: Any, words: str) -> None:
    """The server finds its own sum wrong, if anything: by then it has from clients what it wanted."""
    app, _, _ = classified(5, batch_size=7)
    cheats = cheating(secure_fedavg(app, rounds=1, threshold=4), kind, change)
    if not words:
        assert len(run(cheats, star(6), seed=2).results) == 6
        return
    with pytest.raises(HansaError, match=f"(?s){words}.*in worker 0 of 6"):
        run(cheats, star(6), seed=2)


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.zeros((0, 64), np.uint8), "bytes came as those of 1 clients"), (np.zeros((1, 3), np.uint8), "what client 2 ")],
)
def test_a_client_that_signs_nothing_is_told(values: Any, words: str) -> None:
    app, _, _ = classified(5, batch_size=7)

    async def silent(worker: Worker) -> Any:
        def post(receivers: Any, message: Any) -> None:
            nothing = isinstance(message, Signed) and worker.number == 3
            worker._post(receivers, replace(message, values=values) if nothing else message)

        changed = Worker(worker.number, worker.topology, post, worker._draw, secret=worker._secret, tell=worker.tell)
        return await signed(app)(changed)

    with pytest.raises(HansaError, match=words):
        run(silent, star(6), seed=2)


@pytest.mark.parametrize("scheme", ["secagg", "lightsecagg"])
def test_whose_signature_is_missing_once_its_shares_were_passed_on_is_left_out(
    scheme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large model, shares are passed on before all have come."""
    app, _, _ = classified(5, batch_size=7)
    share = secure._Part._share

    async def no_more_than_shares(part: secure._Part) -> None:
        if (part.worker.number, part.number) != (2, 1):
            return await share(part)
        for some, last in secure._parts(part.client.sealed(by_client(await part._told(Roster)))):
            part.worker.send(0, Sealed(*rows(some), last=last))
        part.worker.send(0, Left(1))
        raise secure._MissedError(await secure._model(part.worker))

    leaving = run(
        signed(app, scheme=scheme, absent=lambda c, r: "shares" if (c, r) == (1, 1) else None), star(6), seed=2
    )
    monkeypatch.setattr(secure, "_AT_ONCE", 1)
    monkeypatch.setattr(secure._Part, "_share", no_more_than_shares)
    assert run(signed(app, scheme=scheme), star(6), seed=2).results[0] == leaving.results[0]


def test_who_poses_as_all_others_learns_what_one_client_sends_unless_they_sign() -> None:
    """Client 0 is alone among clients that the server made up."""
    scheme, vectors = SecAgg(5, 4), values_of(5, 3)
    clients = [scheme.client(u, 3, seed_of(u)) for u in range(5)]
    everybody = {u: client.public for u, client in enumerate(clients)}
    sealed = [client.sealed(everybody) for client in clients]
    for u, client in enumerate(clients):
        client.opened({v: each[u] for v, each in enumerate(sealed) if v != u})
    server = scheme.server(3, everybody, range(5))
    for u, client in enumerate(clients):
        server.add(u, client.masked(vectors[u]))
    found = server.unmasked({u: client.revealed(range(5)) for u, client in enumerate(clients)})
    np.testing.assert_array_equal(found - vectors[1:].sum(0, dtype=np.uint64), vectors[0])
    statement = roster_statement(1, Arrays({"w": np.zeros(3)}), everybody)
    made_up = {u: Ed25519PrivateKey.generate().sign(statement) for u in range(1, 5)}
    with pytest.raises(HansaError, match="client 1 has not signed"):
        Signer(0, pem(KEYS[0]), SIGNERS).check(statement, made_up, range(1, 5), "the keys")


def test_statements_differ_wherever_what_they_say_does() -> None:
    model, keys = Arrays({"w": np.zeros(2), "v": np.zeros(2)}), {0: b"a" * 32, 1: b"b" * 32}
    rosters = [
        roster_statement(1, model, keys),
        roster_statement(2, model, keys),
        roster_statement(1, model, {0: b"a" * 32}),
        roster_statement(1, model, {0: b"a" * 32, 2: b"b" * 32}),
        roster_statement(1, model, {0: b"a" * 32, 1: b"c" * 32}),
        roster_statement(1, Arrays({"w": np.zeros(2), "v": np.ones(2)}), keys),
        roster_statement(1, Arrays({"w": np.zeros((2, 1)), "v": np.zeros(2)}), keys),
        roster_statement(1, Arrays({"w": np.zeros(2), "v": np.zeros(2, np.int64)}), keys),
        roster_statement(1, Arrays({"w": np.zeros(2), "u": np.zeros(2)}), keys),
    ]
    lists = [present_statement(roster, present) for roster in rosters[:2] for present in ((0,), (1,), (0, 1))]
    assert len({*rosters, *lists}) == len(rosters) + len(lists)
    assert roster_statement(1, model, dict(reversed(keys.items()))) == rosters[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"signers": SIGNERS[:4]}, "has 4 keys; it must have one for each of 5 clients"),
        (
            {"signers": [*SIGNERS[:4], "rsa:12"]},
            "the key of client 4 in `signers` is 'rsa:12'; it must be",
        ),
        ({"signers": [*SIGNERS[:4], SIGNERS[0]]}, "two clients have one key in `signers`"),
        ({"signers": SIGNERS[::-1]}, "client 0 signs with the key ed25519:.*, and `signers` says ed25519:"),
        ({"signing_key": lambda _: "no key"}, "the signing key of client 0 is no private key in PEM"),
        ({"signing_key": lambda _: pem(X25519PrivateKey.generate())}, "is a _?X25519PrivateKey, not one of Ed25519"),
    ],
)
def test_keys_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    app, _, _ = classified(5, batch_size=7)
    with pytest.raises(HansaError, match=words):
        run(signed(app, **options), star(6))


def test_signers_without_a_key_are_refused_before_anything_runs() -> None:
    app, _, _ = classified(3, batch_size=7)
    with pytest.raises(ConfigError, match="go together"):
        secure_fedavg(app, rounds=1, signers=SIGNERS[:3])
    with pytest.raises(ConfigError, match="go together"):
        secure_fedavg(app, rounds=1, signing_key=signing_key)
