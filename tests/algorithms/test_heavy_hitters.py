"""Heavy hitters: a count of the joined items, by prefixes that grow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.heavy_hitters import heavy_hitters
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError, HansaError, InputError
from hansa.testing.federation import play, task_of
from hansa.training.items import ItemsTrainer, hitters

MEAN = WeightedMean()

ITEMS = st.text(alphabet="abé", min_size=1, max_size=3)


def found(shares: Mapping[str, Sequence[Any]], trainer: ItemsTrainer, **options: Any) -> dict[bytes, int]:
    return hitters(list(play(heavy_hitters(MEAN, **options), trainer, shares, rounds=trainer.length))[-1].params)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(shares=st.lists(st.lists(ITEMS, min_size=1, max_size=20), min_size=1, max_size=4), least=st.integers(1, 5))
def test_it_finds_what_a_count_of_the_joined_items_gives(shares: list[list[str]], least: int):
    counted = Counter(item for share in shares for item in share)
    trainer = ItemsTrainer(places=max(1, counted.total() // least), length=6)
    expected = {item.encode(): count for item, count in counted.items() if count >= least}
    assert found({f"c{k}": share for k, share in enumerate(shares)}, trainer, least=least) == expected


def test_the_most_frequent_come_first_and_places_are_for_them():
    shares = {"c0": ["flu"] * 5 + ["cold"] * 3 + ["gout"], "c1": ["cold"] * 3 + ["flu", "fly", "fly"]}
    trainer = ItemsTrainer(places=2, length=4)
    assert list(found(shares, trainer).items()) == [(b"cold", 6), (b"flu", 6)]
    assert found(shares, ItemsTrainer(places=9, length=2)) == {b"co": 6, b"fl": 8}  # what is known after two rounds
    assert found(shares, trainer, per="client") == {b"cold": 2, b"flu": 2}


def test_rounds_beyond_the_length_count_again():
    shares = {"c0": ["ab", "ab"], "c1": ["ab", "b"]}
    states = list(play(heavy_hitters(MEAN), ItemsTrainer(4, 2), shares, rounds=4))
    assert hitters(states[2].params) == hitters(states[4].params) == {b"ab": 3}


def test_nothing_frequent_is_no_error():
    assert found({"c0": ["a"], "c1": ["b"]}, ItemsTrainer(4, 3)) == {}


def test_a_simulation_finds_codes_of_hospitals():
    app = hansa.App(ItemsTrainer(places=20, length=8))

    @app.data
    def codes(client: hansa.ClientInfo) -> list[str]:
        rng = np.random.default_rng(client.index)
        return ["I10", "E11.9", *(f"Z{code}" for code in rng.integers(0, 10_000, 20))]

    result = hansa.simulate(app, clients=6, rounds=8, algorithm="heavy-hitters", algorithm_options={"least": 4})
    assert hitters(result.model) == {b"E11.9": 6, b"I10": 6}


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (None, AppError, "c has a NoneType as its data"),
        ("flu", AppError, "c has a str as its data"),
        ([1], AppError, "c has a int among its items"),
        (["a\0b"], InputError, "must not be empty, and hold no NUL"),
        ([], InputError, "c has no items"),
    ],
)
def test_what_is_no_list_of_items_is_refused(data: Any, kind: type[HansaError], said: str):
    algorithm, trainer = heavy_hitters(MEAN), ItemsTrainer(2, 3)
    asked = algorithm.broadcast(algorithm.init(trainer.initial_model(np.random.default_rng(0))))
    with pytest.raises(kind, match=said):
        algorithm.client_update(trainer, asked, task_of("c", {"c": data}))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="least is 0"):
        heavy_hitters(MEAN, least=0)
    with pytest.raises(ConfigError, match="per is 'row'"):
        heavy_hitters(MEAN, per="row")
    with pytest.raises(ConfigError, match="ItemsTrainer"):
        heavy_hitters(MEAN).init(Arrays({"w": np.zeros(2)}))
    with pytest.raises(AppError, match="algorithm heavy-hitters"):
        ItemsTrainer(2, 3).fit(Arrays({}), task_of("c", {"c": ["a"]}))
