"""How much a client does, and on which examples."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo, Task
from hansa.training.local import LocalWork, count, evaluation_examples, filled, training_examples

X, Y = np.arange(20.0).reshape(10, 2), np.arange(10)


def task(data: Any = None, seed: int = 0, **more: Any) -> Task:
    return Task(ClientInfo("client-7"), 1, np.random.default_rng(seed), data, **more)


def seen(work: LocalWork, num_examples: int, asked: Task) -> list[np.ndarray]:
    return [np.arange(num_examples)[batch] for batch in work.batches(num_examples, asked)]


def test_every_epoch_sees_every_example_once_in_another_order() -> None:
    batches = seen(LocalWork(batch_size=3, epochs=2), 10, task())
    assert [len(batch) for batch in batches] == [3, 3, 3, 1, 3, 3, 3, 1]
    first, second = np.concatenate(batches[:4]), np.concatenate(batches[4:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_steps_go_on_into_the_next_pass() -> None:
    batches = seen(LocalWork(batch_size=4, steps=5), 10, task())
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4]


def test_a_batch_as_large_as_the_data_is_all_of_it_in_its_own_order() -> None:
    assert [list(batch) for batch in seen(LocalWork(batch_size=99), 4, task())] == [[0, 1, 2, 3]]
    assert [list(batch) for batch in seen(LocalWork(epochs=2), 3, task())] == [[0, 1, 2], [0, 1, 2]]


def test_drop_last_leaves_out_the_short_batch_but_never_everything() -> None:
    assert [len(batch) for batch in seen(LocalWork(batch_size=4, epochs=2, drop_last=True), 10, task())] == [4] * 4
    assert [len(batch) for batch in seen(LocalWork(batch_size=4, drop_last=True), 3, task())] == [3]


@given(
    st.builds(LocalWork, st.none() | st.integers(1, 9), st.none(), st.none() | st.integers(1, 9), st.booleans()),
    st.integers(1, 20),
    st.floats(0.01, 1.0),
    st.integers(0, 3),
)
def test_all_batches_at_once_are_those_one_by_one(work: LocalWork, num_examples: int, share: float, more: int) -> None:
    size = work.largest(num_examples) + more
    one_by_one, at_once = task(work=share), task(work=share)
    batches = list(work.batches(num_examples, one_by_one))
    other, third = task(seed=1, work=share), task(seed=2, work=1.0)
    sizes = [num_examples, num_examples, num_examples + 1]
    drawn = work.drawn(sizes, [at_once, other, third], lambda most: work.largest(most) + more)
    for mine, theirs in zip(drawn[0], filled(batches, size), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert max(map(count, batches)) == work.largest(num_examples)
    assert at_once.rng.bit_generator.state == one_by_one.rng.bit_generator.state
    assert len(drawn[2][1]) == work.planned(num_examples + 1)


@pytest.mark.parametrize(
    ("work", "share", "steps"),
    [
        (LocalWork(batch_size=5, epochs=10), 0.5, 10),
        (LocalWork(batch_size=5, epochs=5), 0.7, 7),  # 0.7 · 10 = 7.000000000000001
        (LocalWork(steps=9, batch_size=2), 0.5, 5),
        (LocalWork(steps=9, batch_size=2), 0.001, 1),
        (LocalWork(epochs=20), 0.1, 2),
    ],
)
def test_a_share_of_the_work_is_that_share_of_the_steps_rounded_up(work: LocalWork, share: float, steps: int) -> None:
    assert work.planned(10, share) == steps
    assert len(list(work.batches(10, task(work=share)))) == steps


def test_a_straggler_walks_the_beginning_of_the_same_way() -> None:
    work = LocalWork(batch_size=3, epochs=3)
    whole, half = seen(work, 10, task()), seen(work, 10, task(work=0.5))
    assert len(half) == 6
    assert all(np.array_equal(a, b) for a, b in zip(half, whole, strict=False))


def test_progress_tells_each_step_that_is_done() -> None:
    told: list[tuple[float, float]] = []
    batches = LocalWork(batch_size=4).batches(10, task(progress=lambda done, total: told.append((done, total))))
    next(batches)
    assert told == []
    list(batches)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_count_is_the_length_of_what_a_batch_selects() -> None:
    assert count(slice(3, 8)) == len(Y[3:8])
    assert count(np.array([1, 5])) == 2


@pytest.mark.parametrize("name", ["batch_size", "epochs", "steps"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_work_that_is_no_positive_whole_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        LocalWork(**{name: value})


def test_epochs_and_steps_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="both given"):
        LocalWork(epochs=1, steps=1)


class Parts:
    train = (X, Y)
    test = (X[:2], Y[:2])


def test_data_are_one_pair_or_two_pairs_or_an_object_with_train_and_test() -> None:
    for data in ((X, Y), ((X, Y), (X[:2], Y[:2])), Parts()):
        x, y = training_examples(task(data))
        assert x is X
        assert y is Y
    assert evaluation_examples(task((X, Y)))[0] is X
    assert len(evaluation_examples(task(((X, Y), (X[:2], Y[:2]))))[0]) == 2
    assert len(evaluation_examples(task(Parts()))[0]) == 2


@pytest.mark.parametrize("data", [None, X, [X, Y], (X, Y, Y), ([1.0], [2.0]), ((X, Y), None)])
def test_other_data_are_refused_by_name_of_the_client(data: Any) -> None:
    with pytest.raises(AppError, match=r"client-7 has .*@app.data"):
        evaluation_examples(task(data))


def test_inputs_and_targets_must_be_as_many() -> None:
    with pytest.raises(AppError, match="10 inputs and 9 targets"):
        training_examples(task((X, Y[:9])))


def test_a_client_without_examples_is_told_so() -> None:
    empty = (X[:0], Y[:0])
    with pytest.raises(InputError, match="client-7 has no examples to train on"):
        training_examples(task((empty, (X, Y))))
    with pytest.raises(InputError, match="client-7 has no examples to evaluate on"):
        evaluation_examples(task(((X, Y), empty)))
