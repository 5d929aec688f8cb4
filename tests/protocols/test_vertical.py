"""Vertical learning against training on all features in one place, and the alignment of records."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa.arrays import Arrays
from hansa.distributed import PartyTrained, Records, Worker, align, run, star, vertical
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo
from hansa.protocols.alignment import common, digests, rows_of
from hansa.protocols.models import Model
from hansa.protocols.parts import batches
from hansa.run import derive_rng
from hansa.training.numpy import logistic_regression, mlp
from hansa.training.numpy_parts import logistic_parts, vertical_mlp_parts

SALT = b"sixteen bytes or"
PEOPLE, FEATURES = 60, (3, 2, 4)
RNG = np.random.default_rng(6)
X = RNG.normal(size=(PEOPLE, sum(FEATURES)))
LABELS = (X @ RNG.normal(size=sum(FEATURES)) > 0).astype(np.int64)
NAMES = np.array([f"person-{i}" for i in range(PEOPLE)])
COLUMNS = np.split(np.arange(sum(FEATURES)), np.cumsum(FEATURES)[:-1])
KNOWN = [np.random.default_rng(p).permutation(PEOPLE)[: PEOPLE - 5 * p] for p in range(3)]
"""Whom each party knows, in an order of its own; party 0 knows all."""


def records(client: ClientInfo) -> Records:
    known = KNOWN[client.index]
    return Records(NAMES[known], X[known][:, COLUMNS[client.index]], LABELS[known] if client.index == 0 else None)


def aligned(result: PartyTrained) -> Any:
    """Whom all parties know, in the common order, from party 0's rows."""
    return KNOWN[0][result.rows]


def centralized(model: Any, params: Any, people: Any, *, rate: float, epochs: int, batch: int) -> Any:
    for epoch in range(epochs):
        for rows in batches(len(people), batch, derive_rng(3, "train", epoch + 1, 0)):
            _, gradient = model.loss_and_gradient(params, X[people[rows]], LABELS[people[rows]])
            params = {name: params[name] - rate * gradient[name] for name in params}
    return params


def test_vertical_logistic_regression_is_logistic_regression_on_all_features() -> None:
    parts = logistic_parts(FEATURES, learning_rate=0.3)
    results = run(vertical(parts, records, salt=SALT, epochs=4, batch_size=16), star(3), seed=3).results
    people = aligned(results[0])
    model = logistic_regression(sum(FEATURES), np.float64)
    params = centralized(model, dict(model.init(RNG)), people, rate=0.3, epochs=4, batch=16)
    theta = np.concatenate([result.bottom["weight0"][:, 0] for result in results])
    assert np.allclose(theta, params["weight"], atol=1e-12)
    assert np.allclose(results[0].top["bias"], params["bias"], atol=1e-12)
    assert results[0].losses[-1] < results[0].losses[0]


def test_vertical_networks_are_one_network_with_blocks_of_zeros() -> None:
    hidden, rate = 4, 0.2
    parts = vertical_mlp_parts([(f, hidden) for f in FEATURES], (3 * hidden, 2), learning_rate=rate, dtype=np.float64)
    results = run(vertical(parts, records, salt=SALT, epochs=3, batch_size=16), star(3), seed=3).results
    people = aligned(results[0])
    whole = mlp((sum(FEATURES), 3 * hidden, 2), np.float64)
    bottoms = [parts.bottom(p, derive_rng(3, "init", "bottom", p)).arrays() for p in range(3)]
    top = parts.top(derive_rng(3, "init", "top", 0)).arrays()
    mask = np.zeros((sum(FEATURES), 3 * hidden))
    for p, columns in enumerate(COLUMNS):
        mask[columns, p * hidden : (p + 1) * hidden] = 1
    params = {"weight0": np.zeros_like(mask), "bias0": np.concatenate([b["bias0"] for b in bottoms])}
    for p, columns in enumerate(COLUMNS):
        params["weight0"][columns, p * hidden : (p + 1) * hidden] = bottoms[p]["weight0"]
    params |= {"weight1": top["weight0"], "bias1": top["bias0"]}

    class Masked:
        @staticmethod
        def loss_and_gradient(params: Any, x: Any, y: Any) -> Any:
            loss, gradient = whole.loss_and_gradient(params, x, y)
            return loss, {**gradient, "weight0": gradient["weight0"] * mask}

    params = centralized(Masked, params, people, rate=rate, epochs=3, batch=16)
    for p, columns in enumerate(COLUMNS):
        block = params["weight0"][columns, p * hidden : (p + 1) * hidden]
        assert np.allclose(results[p].bottom["weight0"], block, atol=1e-12)
    assert np.allclose(results[0].top["weight0"], params["weight1"], atol=1e-12)


def test_a_party_with_labels_alone_trains_with_the_others_features() -> None:
    def without(client: ClientInfo) -> Records:
        given = records(client)
        return Records(given.ids, None, given.y) if client.index == 0 else given

    parts = logistic_parts(FEATURES, learning_rate=0.3)
    results = run(vertical(parts, without, salt=SALT, epochs=10), star(3)).results
    assert results[0].bottom == Arrays()
    assert results[0].losses[-1] < results[0].losses[0]


def test_records_are_aligned_to_the_people_that_all_parties_know() -> None:
    async def find(worker: Worker) -> Model:
        known = KNOWN[worker.number]
        return Model(Arrays({"people": known[await align(worker, NAMES[known].tolist(), SALT)]}))

    found = [result.arrays["people"] for result in run(find, star(3)).results]
    assert set(found[0]) == set.intersection(*(set(known) for known in KNOWN))
    assert found[0].tolist() == found[1].tolist() == found[2].tolist()
    assert found[0].tolist() != sorted(found[0].tolist())  # the order is that of the hashes


def test_identifiers_are_compared_as_text_and_hashed_with_the_salt() -> None:
    assert digests([7, "8", "ü"], SALT, "x") == digests(["7", b"8", "ü".encode()], SALT, "x")
    assert digests([7], SALT, "x") != digests([7], SALT + b"!", "x")
    own = digests(["a", "b", "c"], SALT, "x")
    shared = np.frombuffer(b"".join(sorted([own[2], own[0]])), np.uint8).reshape(2, 32)
    assert sorted(rows_of(shared, own)) == [0, 2]
    assert common([shared, shared[:1]]) == [shared[0].tobytes()]


def changed(**changes: Any) -> Callable[[ClientInfo], Records]:
    def give(client: ClientInfo) -> Records:
        given = records(client)
        fields = {"ids": given.ids, "x": given.x, "y": given.y} | {
            name: value for name, (party, value) in changes.items() if party == client.index
        }
        return Records(**fields)

    return give


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (changed(ids=(1, ["twin"] * len(KNOWN[1]))), InputError, "party 1 has the identifier 'twin' twice"),
        (changed(ids=(1, list(range(len(KNOWN[1]))))), InputError, "no record is common to all parties"),
        (changed(y=(0, None)), AppError, "party 0 has no labels"),
        (changed(x=(2, None)), AppError, "party-2 has no features"),
        (lambda _: (X, LABELS), AppError, "the data of party-0 are a tuple"),
        (changed(ids=(1, [None, *NAMES[KNOWN[1]][1:]])), InputError, r"party 1 has no identifier in record 0 \(None\)"),
        (changed(ids=(1, np.array([b"", *NAMES[KNOWN[1]][1:].astype("S")]))), InputError, "no identifier in record 0"),
        (changed(ids=(1, [b"\xff"] * len(KNOWN[1]))), InputError, "twice; keep one record of each"),
        (changed(ids=(2, [np.nan, *range(len(KNOWN[2]) - 1)])), InputError, "party 2 has no identifier in record 0"),
        (changed(ids=(1, [[name] for name in NAMES[KNOWN[1]]])), InputError, "several values as the identifier of"),
        (changed(ids=(1, NAMES[KNOWN[1]][1:])), InputError, "party-1 has 54 identifiers and 55 rows of features"),
        (changed(y=(0, LABELS[1:])), InputError, "party-0 has 60 identifiers and 59 labels"),
        (changed(y=(0, 2 * LABELS - 1)), InputError, "y has targets from -1 to 1; this model has the labels 0 and 1"),
        (changed(x=(1, np.full((len(KNOWN[1]), 2), np.inf))), InputError, "party-1 has inputs that are not finite"),
        (changed(x=(1, np.zeros((len(KNOWN[1]), 3)))), InputError, r"this part takes \(n, 2\)"),
    ],
)
def test_records_that_cannot_be_used_are_refused_by_party(data: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(vertical(logistic_parts(FEATURES, learning_rate=0.1), data, salt=SALT), star(3))


def test_parts_for_another_number_of_parties_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the parts are for 3 parties, and star\(2\) has 2"):
        run(vertical(logistic_parts(FEATURES, learning_rate=0.1), records, salt=SALT), star(2))


def test_a_short_salt_is_refused() -> None:
    with pytest.raises(ConfigError, match="the salt has 4 bytes"):
        run(vertical(logistic_parts(FEATURES, learning_rate=0.1), records, salt=b"salt"), star(3))
