"""FedNAS: α goes down the validation half's gradient, w is trained on the other half, and both are averaged."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fednas import fednas
from hansa.arrays import Arrays, subtract
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import GradientCorrection, Task, Update
from hansa.testing.federation import task_of
from hansa.testing.linear import LinearTrainer, make_examples

MEAN = WeightedMean()
TRAINER = LinearTrainer(2, learning_rate=0.1)
MODEL = Arrays({"weight": np.array([0.5, -1.0]), "bias": np.array(0.25)})
"""The bias is what is searched here."""


def task(n: int = 6, **changes: Any) -> Task:
    x, y = make_examples(np.random.default_rng(1), (3, n), 2)["client-1"]
    return replace(task_of("client-1", {"client-1": (x, y)}), **changes)


def searched(given: Task, **options: Any) -> Update:
    algorithm = fednas(MEAN, architecture="bias", **options)
    return algorithm.client_update(TRAINER, algorithm.broadcast(algorithm.init(MODEL)), given)


def halves(given: Task) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    x, y = given.data
    return (x[::2], y[::2]), (x[1::2], y[1::2])


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_alpha_takes_the_step_of_the_paper_and_w_is_trained_on_the_other_half(weight: float):
    given = task()
    train, validation = halves(given)
    slope = TRAINER.gradient(MODEL, replace(given, data=validation)).arrays["bias"]
    slope = slope + weight * TRAINER.gradient(MODEL, replace(given, data=train)).arrays["bias"]
    moved = Arrays({**MODEL, "bias": MODEL["bias"] - 0.3 * slope})
    held = replace(given, data=train).corrected_by(GradientCorrection(frozen=frozenset({"bias"})))
    expected = subtract(TRAINER.fit(moved, held).arrays, MODEL)

    found = searched(task(), learning_rate=0.3, train_weight=weight, steps=1)

    assert list(found.arrays) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-12, atol=1e-15)
    assert found.num_examples == 6


def test_without_a_step_of_alpha_it_is_fedavg_of_half_the_examples_with_alpha_held():
    given = task()
    held = replace(given, data=halves(given)[0]).corrected_by(GradientCorrection(frozen=frozenset({"bias"})))
    average = fedavg(MEAN).client_update(TRAINER, MODEL, held)
    found = searched(task(), learning_rate=0.0, steps=1).arrays
    np.testing.assert_allclose(found["weight"], average.arrays["weight"], rtol=1e-12)
    assert found["bias"] == 0


def test_more_steps_than_examples_see_some_again():
    assert np.isfinite(searched(task(2), steps=7).arrays["weight"]).all()


def test_one_example_is_too_few_to_validate():
    with pytest.raises(InputError, match="client-1 has 1 example"):
        searched(task(1))


@pytest.mark.parametrize("patterns", ["alpha", "*"])
def test_a_model_without_alpha_or_with_nothing_else_is_refused(patterns: str):
    algorithm = fednas(MEAN, architecture=patterns)
    with pytest.raises(AppError, match=r"fednas searches the tensors .* (none|all) of this model's"):
        algorithm.client_update(TRAINER, MODEL, task())


def test_wrong_options_are_refused():
    for options, said in (
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"train_weight": -1}, "train_weight is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"architecture": ""}, "architecture is ''"),
    ):
        with pytest.raises(ConfigError, match=said):
            fednas(MEAN, **options)  # type: ignore[arg-type]  # of a test
