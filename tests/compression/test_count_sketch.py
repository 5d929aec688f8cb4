"""Count sketches: linear to the bit, what is large is read out of the sum, and what is left out waits at the server."""

from dataclasses import replace

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm, Bound, State
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import Arrays, norm
from hansa.compression.count_sketch import TABLE, Sketch, count_sketch
from hansa.errors import ConfigError
from hansa.messages import Contribution, RunSpec, Update
from hansa.run import resolve

SIZE = 1000
MODEL = Arrays({"w": np.zeros((20, 50), np.float32), "b": np.zeros(5, np.float32), "n": np.zeros((), np.int64)})


def spiky(**values: float) -> np.ndarray:
    """Zeros but for these: v7=3.0 is a 3 at the place 7."""
    flat = np.zeros(SIZE, np.float32)
    for place, value in values.items():
        flat[int(place[1:])] = value
    return flat


def update_of(flat: np.ndarray) -> Update:
    return Update({"w": flat.reshape(20, 50), "b": np.ones(5, np.float32), "n": np.array(2)}, 1)


def played(options: dict[str, float], rounds: list[list[np.ndarray]]) -> tuple[list[np.ndarray], State]:
    """(the change of w in each round, the last state) of FedAvg with these changes of the clients."""
    transform = count_sketch(Bound(), **options)  # type: ignore[arg-type]  # of a test
    algorithm = _wrapped(transform.wrap)
    state, moved = algorithm.init(MODEL), []
    for changes in rounds:
        aggregator = algorithm.aggregator
        plan = aggregator.plan(transform.structure(algorithm.broadcast(state)))
        total = aggregator.zero(plan)
        for k, change in enumerate(changes):
            sent = transform.apply(update_of(change), np.random.default_rng(0))
            total = aggregator.accumulate(plan, total, sent, Contribution(str(k), 1))
        after = algorithm.server_update(state, aggregator.report(plan, total))
        moved.append((after.params["w"] - state.params["w"]).reshape(-1))
        state = after
    return moved, state


def _wrapped(wrap: object) -> Algorithm:
    assert callable(wrap)
    made = wrap(fedavg(WeightedMean()))
    assert isinstance(made, Algorithm)
    return made


def test_columns_and_signs_are_those_of_blake3():
    """So that a client in another language makes the same table: that of 1 … 64 in 8 cells, written down."""
    table = Sketch(0.125, 1).of({"w": np.arange(1.0, 65.0)})
    assert table.tolist() == [[73.0, 60.0, -1.0, -170.0, 99.0, 23.0, 65.0, -185.0]]


def test_the_sum_of_tables_is_the_table_of_the_sum():
    rng, sketch = np.random.default_rng(1), Sketch(0.2, 3)
    one, other = rng.integers(-99, 100, (2, SIZE)).astype(float)
    assert np.array_equal(sketch.of({"w": one}) + sketch.of({"w": other}), sketch.of({"w": one + other}))


def test_a_reading_is_as_far_off_as_its_columns_say():
    """E (x̂_j − x_j)² = ‖x_{≠j}‖² / columns with one row."""
    x = np.random.default_rng(2).normal(size=20_000)
    sketch = Sketch(0.05, 1)
    read = sketch.read(sketch.of({"w": x}), {"w": x})["w"]
    assert np.mean((read - x) ** 2) == pytest.approx(np.sum(x**2) / 1000, rel=0.1)


def test_what_is_large_in_the_sum_is_found_though_no_client_knows():
    """Each client's largest value is its own, and they cancel; place 500 is small at each, and common."""
    changes = [spiky(v1=8, v500=3), spiky(v1=-8, v500=3), spiky(v2=8, v500=3), spiky(v2=-8, v500=3)]
    (moved,), state = played({"share": 0.3, "rows": 3, "keep": 0.01}, [changes])
    assert np.flatnonzero(moved).tolist() == [500]
    assert moved[500] == pytest.approx(3, abs=1e-6)
    assert state.params["b"].tolist() == [1] * 5, "few values travel as they are"
    assert state.params["n"] == 2, "and so do whole numbers"


def test_what_is_left_out_waits_at_the_server_and_comes_once():
    first = [spiky(v3=5, v400=2)]
    nothing = [spiky()]
    moved, state = played({"share": 0.3, "rows": 3, "keep": 0.001}, [first, nothing, nothing])
    assert [np.flatnonzero(each).tolist() for each in moved] == [[3], [400], []]
    assert [moved[0][3], moved[1][400]] == pytest.approx([5, 2], abs=1e-6)
    assert not state.slots[TABLE]["error"].any()


def test_momentum_is_of_the_tables():
    moved, _ = played({"share": 0.3, "rows": 3, "keep": 0.001, "momentum": 0.5}, [[spiky(v3=4)], [spiky()], [spiky()]])
    assert [each[3] for each in moved] == pytest.approx([4, 2, 1], abs=1e-5)


def test_quanta_follow_the_model():
    model = replace(State(MODEL), params=Arrays({**MODEL, "w": np.full((20, 50), -300, np.float32)})).params
    template = count_sketch(Bound(), share=0.5, rows=5).structure(model)
    assert list(template) == ["b", "n", TABLE]
    assert template[TABLE].shape == (5, 100)
    assert template[TABLE].max() == 300


def test_a_model_of_few_values_is_left_alone():
    small = Arrays({"b": np.zeros(63, np.float32)})
    transform = count_sketch(Bound())
    assert transform.structure(small) is small
    change = Update({"b": np.ones(63, np.float32)}, 1)
    assert transform.apply(change, np.random.default_rng(0)) is change
    assert not _wrapped(transform.wrap).init(small).slots


def test_a_bound_on_absolute_values_is_kept_times_the_rows():
    transform = count_sketch(Bound(2.0, 1), rows=5)
    assert transform.bound.norm == pytest.approx(10)
    assert transform.bound.order == 1
    flat = np.random.default_rng(3).normal(size=SIZE).astype(np.float32)
    flat *= 2 / np.abs(flat).sum()
    change = Update({"w": flat}, 1)
    assert norm(transform.apply(change, np.random.default_rng(0)).arrays, 1) <= transform.bound.norm
    assert count_sketch(Bound(2.0, 2)).bound == Bound()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 2}, "rows is 2; it must be an odd number from 1 to 31"),
        ({"share": 0}, "share is 0; it must be a number above 0"),
        ({"keep": 1.5}, "keep is 1.5; it must be a number above 0 and at most 1"),
        ({"momentum": 1}, "momentum is 1; it must be a number of at least 0 and below 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], said: str):
    with pytest.raises(ConfigError, match=said):
        count_sketch(Bound(), **options)  # type: ignore[arg-type]  # of a test


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (RunSpec(aggregator="median", transforms=("count-sketch",)), "compares single updates"),  # type: ignore[arg-type]  # as a user writes them
        (RunSpec(algorithm="fedbuff", transforms=("count-sketch",)), "by their staleness"),  # type: ignore[arg-type]  # the same
    ],
)
def test_what_cannot_use_a_table_is_refused(spec: RunSpec, said: str):
    with pytest.raises(ConfigError, match=said):
        resolve(spec)


def test_a_model_that_has_the_name_of_the_table_is_refused():
    with pytest.raises(ConfigError, match="give it another name"):
        count_sketch(Bound()).structure(Arrays({TABLE: np.zeros(100)}))
