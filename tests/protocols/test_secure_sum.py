"""Secure aggregation: masks cancel to the bit, whoever drops out; too few learn nothing; one vector looks random."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratics import classified

import hansa
from hansa.distributed import ring, run, secure_fedavg, star
from hansa.errors import ConfigError, HansaError, InputError, QuorumNotMetError
from hansa.protocols.secure_sum import Client, PublicKeys, least_threshold, recovered, shared, unmasked

RNG = np.random.default_rng(0)


def seed_of(client: int, turn: int = 0) -> bytes:
    return np.random.default_rng((client, turn)).bytes(32)


def clients_of(n: int, threshold: int, turn: int = 0) -> tuple[list[Client], list[PublicKeys]]:
    """After they have told each other their shares."""
    clients = [Client(u, n, threshold, seed_of(u, turn)) for u in range(n)]
    everybody = [client.public for client in clients]
    sealed = [client.sealed(everybody) for client in clients]
    for u, client in enumerate(clients):
        client.opened([each[u] for each in sealed])
    return clients, everybody


def summed(n: int, threshold: int, vectors: np.ndarray, present: list[bool]) -> np.ndarray:
    clients, everybody = clients_of(n, threshold)
    total = np.zeros(vectors.shape[1], np.uint64)
    for u, there in enumerate(present):
        if there:
            total += clients[u].masked(vectors[u])
    revealed = {u: clients[u].revealed(present) for u, there in enumerate(present) if there}
    return unmasked(everybody, threshold, total, present, revealed)


# ── shares ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.binary(min_size=32, max_size=32), st.integers(1, 7), st.data())
@settings(max_examples=30, deadline=None)
def test_any_threshold_of_the_shares_recover_the_secret(secret: bytes, n: int, data: Any) -> None:
    threshold = data.draw(st.integers(1, n))
    shares = shared(secret, n, threshold, seed_of(n))
    for chosen in combinations(range(n), threshold):
        assert recovered({client: shares[client] for client in chosen}) == secret


def test_fewer_shares_than_the_threshold_fit_every_secret() -> None:
    """With two of three shares and any guess at the secret there is a polynomial: the two tell nothing."""
    prime = 2**521 - 1
    shares = shared(seed_of(9), 5, 3, seed_of(1))
    y1, y2 = (int.from_bytes(shares[client], "big") for client in (0, 1))
    for guess in (0, 1, 2**256 - 1):
        # f(0) = guess, f(1) = y1, f(2) = y2: f(3) = guess − 3·y1 + 3·y2
        third = ((guess - 3 * y1 + 3 * y2) % prime).to_bytes(66, "big")
        assert int.from_bytes(recovered({0: shares[0], 1: shares[1], 2: third}), "big") == guess


def test_shares_of_different_secrets_do_not_fit() -> None:
    one, other = shared(seed_of(1), 4, 3, seed_of(3)), shared(seed_of(2), 4, 3, seed_of(4))
    with pytest.raises(InputError, match="do not fit together"):
        recovered({0: one[0], 1: one[1], 2: other[2]})


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(3, 6), st.data())
@settings(max_examples=25, deadline=None)
def test_the_sum_is_exact_whoever_drops_out(n: int, data: Any) -> None:
    threshold = data.draw(st.integers(least_threshold(n), n))
    present = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda each: sum(each) >= threshold))
    vectors = np.random.default_rng(n).integers(0, 2**64, (n, 5), np.uint64)
    np.testing.assert_array_equal(
        summed(n, threshold, vectors, present), vectors[np.array(present)].sum(0, dtype=np.uint64)
    )


def test_too_few_clients_reveal_nothing() -> None:
    clients, everybody = clients_of(5, 4)
    present = [True, True, True, False, False]
    for client in clients[:3]:
        with pytest.raises(QuorumNotMetError, match="3 clients are left of the 4"):
            client.revealed(present)
    with pytest.raises(QuorumNotMetError):
        unmasked(everybody, 4, np.zeros(2, np.uint64), present, {u: [b""] * 5 for u in range(3)})


def test_a_client_reveals_once_and_only_what_belongs_to_who_is_there() -> None:
    """The server asks again with another list, to have both secrets of client 2; and asks one that has left."""
    clients, _ = clients_of(4, 3)
    first = clients[0].revealed([True, True, True, False])
    with pytest.raises(InputError, match="once in a round"):
        clients[0].revealed([True, True, False, True])
    with pytest.raises(InputError, match="only after it has sent its own"):
        clients[3].revealed([True, True, True, False])
    others = {u: clients[u].revealed([True, True, True, False]) for u in (1, 2)} | {0: first}
    masking = recovered({u: others[u][3] for u in others})
    own = recovered({u: others[u][2] for u in others})
    assert masking == clients[3]._masking.private_bytes_raw()
    assert own == clients[2]._own


def test_what_was_changed_on_its_way_is_refused_and_named() -> None:
    clients = [Client(u, 3, 2, seed_of(u)) for u in range(3)]
    everybody = [client.public for client in clients]
    sealed = [client.sealed(everybody) for client in clients]
    told = [each[0] for each in sealed]
    changed = bytearray(told[2])
    changed[5] ^= 1
    with pytest.raises(InputError, match="what client 2 told client 0 was changed"):
        clients[0].opened([told[0], told[1], bytes(changed)])
    with pytest.raises(InputError, match="what client 1 told client 0 was changed"):
        clients[0].opened([told[0], told[2], told[1]])
    with pytest.raises(InputError, match="was not told its own keys"):
        Client(0, 3, 2, seed_of(0)).sealed([everybody[1], everybody[1], everybody[2]])
    with pytest.raises(InputError, match="two clients have one key"):
        Client(0, 3, 2, seed_of(0)).sealed([everybody[0], everybody[1], everybody[1]])
    with pytest.raises(InputError, match="client 1 has no key that one could agree with"):
        Client(0, 3, 2, seed_of(0)).sealed([everybody[0], PublicKeys(bytes(32), everybody[1].masking), everybody[2]])


@pytest.mark.parametrize(("n", "threshold"), [(2, 2), (4, 2), (5, 6), (5, 0)])
def test_settings_that_hide_nothing_are_refused(n: int, threshold: int) -> None:
    with pytest.raises(ConfigError):
        Client(0, n, threshold, seed_of(0))


# ── what the server sees ─────────────────────────────────────────────────────────────────────────────────────────────


def chi_square(values: np.ndarray) -> float:
    """Of its bytes against the uniform distribution: 255 degrees of freedom, so 255 ± 23."""
    counts = np.bincount(values.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("value", [0, 1, 2**64 - 1])
def test_one_masked_vector_looks_uniform_whatever_it_hides(value: int) -> None:
    clients, everybody = clients_of(4, 3)
    hidden = np.full(100_000, value, np.uint64)
    seen = clients[1].masked(hidden)
    assert 150 < chi_square(seen) < 360
    # With its key revealed, as if it had dropped out, its own mask is left; with that revealed, those of its pairs.
    pairs = clients[1]._pairs(len(hidden))
    assert 150 < chi_square(seen - pairs) < 360
    assert 150 < chi_square(hidden + pairs) < 360
    assert chi_square(hidden) > 1e6
    assert abs(np.corrcoef(seen[:-1].astype(float), seen[1:].astype(float))[0, 1]) < 0.02
    del everybody


def test_two_rounds_have_different_masks() -> None:
    hidden = np.zeros(1000, np.uint64)
    one, other = (clients_of(3, 2, turn)[0][0].masked(hidden) for turn in (0, 1))
    assert (one != other).mean() > 0.99


def test_nothing_that_a_client_sends_has_its_secrets_in_it() -> None:
    clients, everybody = clients_of(4, 3)
    sealed = b"".join(Client(1, 4, 3, seed_of(1)).sealed(everybody))
    for secret in (
        clients[1]._own,
        clients[1]._masking.private_bytes_raw(),
        *clients[1]._held[0],
        *clients[1]._held[1],
    ):
        assert secret not in sealed


# ── federated averaging ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_model_has_the_bits_of_fedavg() -> None:
    app, _, _ = classified(5, batch_size=7)
    plain = hansa.simulate(app, clients=5, rounds=3, seed=2)
    outcome = run(secure_fedavg(app, rounds=3), star(1 + 5), seed=2)
    assert outcome.results[0].arrays == plain.model
    assert all(client.model == plain.model for client in outcome.results[1:])


def test_it_does_not_depend_on_the_secrets() -> None:
    app, _, _ = classified(4, batch_size=7)
    one, other = (run(secure_fedavg(app, rounds=2), star(5), seed=2).results[0] for _ in range(2))
    assert one == other


def test_who_drops_out_is_not_counted_and_comes_back_in_the_next_round() -> None:
    app, _, _ = classified(5, batch_size=7)

    def absent(client: int, number: int) -> bool:
        return (client, number) in {(1, 1), (4, 1), (0, 2)}

    outcome = run(secure_fedavg(app, rounds=3, threshold=3, absent=absent), star(1 + 5), seed=2)
    assert [len(client.losses) for client in outcome.results[1:]] == [2, 2, 3, 3, 2]

    def trained(model: Any, task: Any) -> Any:
        if absent(task.client.index, task.round):
            raise RuntimeError("it is not there")
        return app.trainer.fit(model, task)

    other = hansa.App()
    other.model(lambda _: app.trainer.initial_model(np.random.default_rng(0)))
    other.data(app.load_data)
    other.train(trained)
    plain = hansa.simulate(
        other, clients=5, rounds=3, seed=2, tolerate_failures=True,
        initial_model=app.trainer.initial_model(_init(2)),
    )  # fmt: skip
    assert outcome.results[0].arrays == plain.model


def _init(seed: int) -> np.random.Generator:
    from hansa.run import derive_rng  # noqa: PLC0415 - of this one test

    return derive_rng(seed, "init")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threshold": 4, "absent": lambda client, _: client < 2}, "QuorumNotMetError", "3 clients are left of the 4"),
        ({"threshold": 2}, "ConfigError", "it must be 3 to 5"),
        ({"max_weight": 2}, "UpdateRejectedError", "max_weight"),
    ],
)
def test_what_cannot_be_is_refused_clearly(change: dict[str, Any], error: str, words: str) -> None:
    app, _, _ = classified(5, batch_size=7)
    with pytest.raises(HansaError, match=words) as caught:
        run(secure_fedavg(app, rounds=1, **change), star(1 + 5))
    assert error in f"{type(caught.value).__name__} {caught.value}"


def test_other_topologies_are_refused() -> None:
    app, _, _ = classified(3, batch_size=7)
    for topology in (ring(4), star(3)):
        with pytest.raises(ConfigError, match="needs a star of a server and 3 clients"):
            run(secure_fedavg(app, rounds=1), topology)
