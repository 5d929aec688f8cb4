"""Secure aggregation by any scheme: sums are exact, whoever drops out; too few learn nothing; a vector looks random."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratics import classified
from rounds_of_sums import chi_square, clients_of, seed_of, summed, values_of

import hansa
from hansa.distributed import ring, run, secure_fedavg, star
from hansa.errors import ConfigError, HansaError, InputError, QuorumNotMetError
from hansa.programs import crew
from hansa.programs.encoding import encode
from hansa.protocols import secure_fedavg as program
from hansa.protocols.lightsecagg import LightSecAgg
from hansa.protocols.secagg import SecAgg
from hansa.protocols.secure_messages import Sealed
from hansa.protocols.secure_sum import Scheme, least_threshold
from hansa.protocols.worker import Worker

SCHEMES: dict[str, Callable[[int, int], Scheme]] = {
    "secagg": SecAgg,
    "lightsecagg": lambda n, threshold: LightSecAgg(n, threshold, threshold // 2),
}
of_every_scheme = pytest.mark.parametrize("name", SCHEMES)


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@of_every_scheme
@given(st.integers(3, 6), st.data())
@settings(max_examples=25, deadline=None)
def test_the_sum_is_exact_whoever_drops_out_at_whichever_step(name: str, n: int, data: Any) -> None:
    threshold = data.draw(st.integers(least_threshold(n), n))
    left = list(range(n))
    steps = []
    for _ in range(4):
        left = sorted(data.draw(st.sets(st.sampled_from(left), min_size=threshold)))
        steps.append(left)
    told, sharers, present, revealing = steps
    vectors = values_of(n, 5, n)
    found = summed(SCHEMES[name](n, threshold), vectors, present, told=told, sharers=sharers, revealing=revealing)
    np.testing.assert_array_equal(found, vectors[present].sum(0, dtype=np.uint64))


@of_every_scheme
@pytest.mark.parametrize(("n", "threshold"), [(3, 2), (4, 3), (5, 3)])
def test_every_set_of_survivors_that_is_large_enough_takes_off_the_masks_and_no_smaller_one(
    name: str, n: int, threshold: int
) -> None:
    scheme, vectors = SCHEMES[name](n, threshold), values_of(n, 3)
    clients, everybody = clients_of(scheme, 3, range(n), range(n))
    server = scheme.server(3, everybody, range(n))
    for u, client in clients.items():
        server.add(u, client.masked(vectors[u]))
    revealed = {u: client.revealed(range(n)) for u, client in clients.items()}
    for size in range(n + 1):
        for some in combinations(range(n), size):
            if size >= threshold:
                found = server.unmasked({u: revealed[u] for u in some})
                np.testing.assert_array_equal(found, vectors.sum(0, dtype=np.uint64))
            else:
                with pytest.raises(QuorumNotMetError):
                    server.unmasked({u: revealed[u] for u in some})


@of_every_scheme
def test_too_few_clients_reveal_nothing(name: str) -> None:
    scheme = SCHEMES[name](5, 4)
    clients, everybody = clients_of(scheme, 2, range(5), range(5))
    for u in range(3):
        with pytest.raises(QuorumNotMetError, match=r"3 clients are left of the 4 .* missing: clients 3, 4"):
            clients[u].revealed([0, 1, 2])
    with pytest.raises(QuorumNotMetError):
        scheme.server(2, everybody, range(5)).unmasked(dict.fromkeys(range(3), b""))
    few, _ = clients_of(scheme, 2, range(5), range(3))
    with pytest.raises(QuorumNotMetError, match="missing: clients 3, 4"):
        few[0].masked(np.zeros(2, np.uint64))


@of_every_scheme
def test_a_client_reveals_once_and_only_after_it_has_sent_its_own(name: str) -> None:
    """The server asks again with another list, to have both secrets of client 2; and asks one that has left."""
    clients, _ = clients_of(SCHEMES[name](5, 3), 1, range(5), range(4))
    clients[0].revealed([0, 1, 2])
    with pytest.raises(InputError, match="once in a round"):
        clients[0].revealed([0, 1, 3])
    with pytest.raises(InputError, match="only after it has sent its own"):
        clients[3].revealed([0, 1, 2])
    with pytest.raises(InputError, match="of those who have shared theirs"):
        clients[1].revealed([0, 1, 2, 4])


@of_every_scheme
def test_what_was_changed_on_its_way_is_refused_and_named(name: str) -> None:
    scheme = SCHEMES[name](3, 2)
    clients = [scheme.client(u, 4, seed_of(u)) for u in range(3)]
    everybody = {u: client.public for u, client in enumerate(clients)}
    sealed = [client.sealed(everybody) for client in clients]
    changed = bytearray(sealed[2][0])
    changed[5] ^= 1
    with pytest.raises(InputError, match="what client 2 told client 0 was changed"):
        clients[0].opened({1: sealed[1][0], 2: bytes(changed)})
    with pytest.raises(InputError, match="what client 1 told client 0 was changed"):
        clients[0].opened({1: sealed[2][0]})
    with pytest.raises(InputError, match="told something by client 7, whom it has not met"):
        clients[0].opened({7: sealed[2][0]})

    def meets(**keys: bytes) -> None:
        scheme.client(0, 4, seed_of(0)).sealed(everybody | {int(u[1:]): key for u, key in keys.items()})

    with pytest.raises(InputError, match="was not told its own keys"):
        meets(u0=everybody[1])
    with pytest.raises(InputError, match="two clients have one key"):
        meets(u2=everybody[1])
    with pytest.raises(InputError, match="one has no key"):
        meets(u2=everybody[2][:-1])
    with pytest.raises(InputError, match="client 1 has no key that one could agree with"):
        meets(u1=bytes(32) + everybody[1][32:])


@of_every_scheme
def test_a_share_of_another_size_is_refused_and_named(name: str) -> None:
    """Client 1 has another model, so that it codes another vector; of SecAgg shares have one size, so it is cut."""
    scheme = SCHEMES[name](3, 2)
    clients = [scheme.client(u, 4 + 4 * (u == 1), seed_of(u)) for u in range(3)]
    everybody = {u: client.public for u, client in enumerate(clients)}
    sealed = [client.sealed(everybody) for client in clients]
    if name == "secagg":
        clients[1]._sealing.meet(clients[1].public, everybody)
        sealed[1][0] = clients[1]._sealing.seal(0, bytes(131))
    with pytest.raises(InputError, match=r"client 1 told client 0 \d+ bytes, not \d+"):
        clients[0].opened({1: sealed[1][0]})


@of_every_scheme
@pytest.mark.parametrize(("n", "threshold"), [(2, 2), (4, 2), (5, 6), (5, 0)])
def test_settings_that_hide_nothing_are_refused(name: str, n: int, threshold: int) -> None:
    with pytest.raises(ConfigError):
        SCHEMES[name](n, threshold)


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="the seed has 3 bytes; it must have 32"):
        SecAgg(3, 2).client(0, 1, b"abc")


# ── what the server sees ─────────────────────────────────────────────────────────────────────────────────────────────


@of_every_scheme
@pytest.mark.parametrize("value", [0, 1, 2**64 - 1])
def test_one_masked_vector_looks_uniform_whatever_it_hides(name: str, value: int) -> None:
    hidden = np.full(100_000, value, np.uint64)
    clients, _ = clients_of(SCHEMES[name](4, 3), len(hidden), range(4), range(4))
    seen = clients[1].masked(hidden)
    assert 150 < chi_square(seen) < 360
    assert chi_square(hidden) > 1e6
    flat = seen.reshape(-1).astype(float)
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 0.02


@of_every_scheme
def test_two_rounds_have_different_masks(name: str) -> None:
    hidden = np.zeros(1000, np.uint64)
    one, other = (
        clients_of(SCHEMES[name](3, 2), 1000, range(3), range(3), turn)[0][0].masked(hidden) for turn in (0, 1)
    )
    assert (one != other).mean() > 0.99


# ── federated averaging ──────────────────────────────────────────────────────────────────────────────────────────────


@of_every_scheme
def test_the_model_has_the_bits_of_fedavg(name: Any) -> None:
    app, _, _ = classified(5, batch_size=7)
    plain = hansa.simulate(app, clients=5, rounds=3, seed=2)
    outcome = run(secure_fedavg(app, rounds=3, scheme=name), star(1 + 5), seed=2)
    assert outcome.results[0].arrays == plain.model
    assert all(client.model == plain.model for client in outcome.results[1:])


@of_every_scheme
def test_it_does_not_depend_on_how_much_is_passed_on_at_once(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app, _, _ = classified(4, batch_size=7)
    one = run(secure_fedavg(app, rounds=2, scheme=name), star(5), seed=2)
    monkeypatch.setattr(program, "_AT_ONCE", 1)
    other = run(secure_fedavg(app, rounds=2, scheme=name), star(5), seed=2)
    assert one.results[0] == other.results[0]
    assert other.messages > one.messages


LEAVES = {(1, 1): "keys", (4, 1): "upload", (0, 2): "shares", (2, 2): "recovery", (3, 3): "recovery", (4, 3): "shares"}


@of_every_scheme
def test_who_drops_out_is_counted_where_it_has_sent_its_change_and_comes_back_in_the_next_round(name: Any) -> None:
    app, _, _ = classified(5, batch_size=7)

    def absent(client: int, number: int) -> Any:
        return LEAVES.get((client, number))

    outcome = run(secure_fedavg(app, rounds=4, scheme=name, threshold=3, absent=absent), star(1 + 5), seed=2)
    assert [len(client.losses) for client in outcome.results[1:]] == [3, 3, 4, 4, 2]

    def trained(model: Any, task: Any) -> Any:
        if absent(task.client.index, task.round) in {"keys", "shares", "upload"}:
            raise RuntimeError("it is not there")
        return app.trainer.fit(model, task)

    other = hansa.App()
    other.model(lambda _: app.trainer.initial_model(np.random.default_rng(0)))
    other.data(app.load_data)
    other.train(trained)
    plain = hansa.simulate(
        other, clients=5, rounds=4, seed=2, tolerate_failures=True,
        initial_model=app.trainer.initial_model(_init(2)),
    )  # fmt: skip
    assert outcome.results[0].arrays == plain.model


@of_every_scheme
@pytest.mark.parametrize("what", ["data", "training"])
def test_whose_code_fails_leaves_the_round_and_is_told_with_its_traceback(
    name: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _, _ = classified(5, batch_size=7)
    absent = lambda client, number: "upload" if (client, number) == (1, 1) else None  # noqa: E731 - as long as its name
    expected = run(secure_fedavg(app, rounds=3, scheme=name, absent=absent), star(1 + 5), seed=2)
    failed = []

    class Failing:
        """A learner whose client 1 fails once."""

        trainer = SimpleNamespace(
            initial_model=app.trainer.initial_model,
            fit=lambda model, task: app.trainer.fit(model, fails("training", task.client, task)),
        )

        def load_data(self, client: Any) -> Any:
            return app.load_data(fails("data", client, client))

    def fails(step: str, client: Any, given: Any) -> Any:
        if step == what and client.index == 1 and not failed:
            failed.append(step)
            raise ValueError("none today")
        return given

    told: list[dict[str, Any]] = []
    monkeypatch.setattr(crew._log, "warning", lambda event, **words: told.append({"event": event, **words}))
    outcome = run(secure_fedavg(Failing(), rounds=3, scheme=name), star(1 + 5), seed=2)
    assert [encode(each) for each in outcome.results] == [encode(each) for each in expected.results]
    (only,) = told
    assert (only["worker"], only["error"]) == (2, "ValueError: none today (it takes no part in round 1)")
    assert 'raise ValueError("none today")' in only["exception"]


@of_every_scheme
def test_too_few_whose_code_does_not_fail_end_the_run_with_the_first_traceback(name: Any) -> None:
    app, _, _ = classified(5, batch_size=7)

    class Failing:
        trainer = app.trainer

        def load_data(self, client: Any) -> Any:
            if client.index < 3:
                raise ValueError(f"no data at {client.name}")
            return app.load_data(client)

    with pytest.raises(QuorumNotMetError, match=r"2 clients are left .* missing: clients 0, 1, 2") as raised:
        run(secure_fedavg(Failing(), rounds=1, scheme=name), star(1 + 5))
    assert "worker 1 said: ValueError: no data at client-0" in "\n".join(raised.value.__notes__)


def _init(seed: int) -> np.random.Generator:
    from hansa.run import derive_rng  # noqa: PLC0415 - of this one test

    return derive_rng(seed, "init")


@of_every_scheme
@pytest.mark.parametrize("step", ["keys", "shares", "upload", "recovery"])
def test_too_few_that_are_left_after_any_step_end_the_run_and_name_who_is_missing(name: Any, step: Any) -> None:
    app, _, _ = classified(5, batch_size=7)
    leaving = secure_fedavg(
        app, rounds=1, scheme=name, threshold=4, absent=lambda client, _: step if client < 2 else None
    )
    with pytest.raises(HansaError, match=r"3 clients are left of the 4 .* missing: clients 0, 1"):
        run(leaving, star(1 + 5))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"threshold": 2}, "ConfigError", "it must be 3 to 5"),
        ({"max_weight": 2}, "QuorumNotMetError", "max_weight"),
        ({"absent": lambda *_: True}, "ConfigError", "absent is True for client 0; it is None, keys, shares, upload"),
        ({"scheme": "lightsecagg", "threshold": 4, "colluders": 4}, "ConfigError", "it must be 1 to 3"),
    ],
)
def test_what_cannot_be_is_refused_clearly(change: dict[str, Any], error: str, words: str) -> None:
    app, _, _ = classified(5, batch_size=7)
    with pytest.raises(HansaError, match=words) as caught:
        run(secure_fedavg(app, rounds=1, **change), star(1 + 5))
    assert error in f"{type(caught.value).__name__} {caught.value}"


@pytest.mark.parametrize("of_one", [{"scheme": "secagg"}, {"scheme": "lightsecagg", "colluders": 1}])
def test_parties_that_run_it_with_other_settings_are_named(of_one: dict[str, Any]) -> None:
    app, _, _ = classified(4, batch_size=7)
    most, one = secure_fedavg(app, rounds=1, scheme="lightsecagg"), secure_fedavg(app, rounds=1, **of_one)

    async def mixed(worker: Worker) -> Any:
        return await (one if worker.number == 2 else most)(worker)

    with pytest.raises(HansaError, match=r"what client 1 told has another size .* must run the same program"):
        run(mixed, star(1 + 4))


def test_who_tells_something_to_nobody_is_named() -> None:
    app, _, _ = classified(3, batch_size=7)

    async def strays(worker: Worker) -> Any:
        def post(receivers: Any, message: Any) -> None:
            stray = isinstance(message, Sealed) and worker.number == 1
            worker._post(receivers, replace(message, clients=message.clients + 5) if stray else message)

        changed = Worker(worker.number, worker.topology, post, worker._draw, secret=worker._secret, tell=worker.tell)
        return await secure_fedavg(app, rounds=1)(changed)

    with pytest.raises(HansaError, match="client 0 tells something to client 6, who has told no keys"):
        run(strays, star(1 + 3))


def test_settings_of_no_scheme_or_of_another_are_refused_before_anything_runs() -> None:
    app, _, _ = classified(3, batch_size=7)
    with pytest.raises(ConfigError, match="scheme is 'turbo'; there is: secagg, lightsecagg"):
        secure_fedavg(app, rounds=1, scheme="turbo")  # type: ignore[arg-type]  # which is refused
    with pytest.raises(ConfigError, match="colluders is a setting of lightsecagg"):
        secure_fedavg(app, rounds=1, colluders=1)


def test_other_topologies_are_refused() -> None:
    app, _, _ = classified(3, batch_size=7)
    for topology in (ring(4), star(3)):
        with pytest.raises(ConfigError, match="needs a star of a server and 3 clients"):
            run(secure_fedavg(app, rounds=1), topology)
