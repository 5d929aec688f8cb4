"""scikit-learn estimators that go on from a given model."""

import warnings
from typing import Any

import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithms.fedavg import fedavg
from hansa.arrays import Arrays
from hansa.errors import AppError, ArraysMismatchError, InputError
from hansa.messages import ClientInfo, Contribution, GradientCorrection, Task

pytest.importorskip("sklearn")
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor

from hansa.training.sklearn import SklearnTrainer, arrays_of_estimator

RNG = np.random.default_rng(5)
X = RNG.standard_normal((90, 6))
LABELS = X[:, :3].argmax(axis=1)


def classifier(estimator: Any, **more: Any) -> SklearnTrainer:
    return SklearnTrainer(estimator, num_features=6, classes=range(3), **more)


CLASSIFIERS = {
    "sgd": classifier(SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1), epochs=10),
    "perceptron": classifier(Perceptron(), epochs=10),
    "logistic": classifier(LogisticRegression(max_iter=10)),
    "network": classifier(MLPClassifier((16,), learning_rate_init=0.01), batch_size=10, epochs=20),
}


def task(data: Any = None, seed: int = 0, correction: GradientCorrection | None = None, **more: Any) -> Task:
    data = (X, LABELS) if data is None else data
    return Task(ClientInfo("client-0"), 1, np.random.default_rng(seed), data, **more).corrected_by(correction)


def start(trainer: SklearnTrainer, seed: int = 1) -> Arrays:
    return trainer.initial_model(np.random.default_rng(seed))


@pytest.mark.parametrize("trainer", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_the_accuracy_goes_up_and_the_loss_down(trainer: SklearnTrainer) -> None:
    model = start(trainer)
    update = trainer.fit(model, task())
    before, after = trainer.evaluate(model, task()).values, trainer.evaluate(update.arrays, task()).values
    assert after["accuracy"] > before["accuracy"] + 0.4
    assert update.num_examples == 90
    assert update.metrics == after
    if "loss" in before:
        assert after["loss"] < 0.6 * before["loss"]


def test_a_column_of_targets_is_learnt_and_measured_as_a_row_and_several_targets_are_refused() -> None:
    trainer, numbers = SklearnTrainer(SGDRegressor(), num_features=6), X[:, 0] + 1
    row, column = (trainer.fit(start(trainer), task((X, y))) for y in (numbers, numbers[:, None]))
    assert column == row
    model, labels = start(CLASSIFIERS["sgd"]), LABELS[:, None]
    assert CLASSIFIERS["sgd"].evaluate(model, task((X, labels))) == CLASSIFIERS["sgd"].evaluate(model, task())
    with pytest.raises(AppError, match=r"y has the shape \(90, 2\); this trainer takes \(n,\)"):
        trainer.fit(start(trainer), task((X, X[:, :2])))


@pytest.mark.parametrize("trainer", CLASSIFIERS.values(), ids=CLASSIFIERS)
@pytest.mark.parametrize("classes", [(0, 1), (2,)])
def test_a_client_with_some_of_the_classes_keeps_room_for_all(
    trainer: SklearnTrainer, classes: tuple[int, ...]
) -> None:
    model = start(trainer)
    some = np.isin(LABELS, classes)
    after = trainer.fit(model, task((X[some], LABELS[some]))).arrays
    assert {name: (array.shape, array.dtype) for name, array in after.items()} == {
        name: (array.shape, array.dtype) for name, array in model.items()
    }
    assert after != model
    assert trainer.evaluate(after, task((X[some], LABELS[some]))).num_examples == some.sum()


@pytest.mark.parametrize("trainer", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_the_same_seed_gives_the_same_bits(trainer: SklearnTrainer) -> None:
    model = start(trainer)
    assert start(trainer) == model
    assert trainer.fit(model, task(seed=3)).arrays == trainer.fit(model, task(seed=3)).arrays


@pytest.mark.parametrize("name", ["sgd", "perceptron", "network"])
def test_another_seed_is_another_order(name: str) -> None:
    trainer = CLASSIFIERS[name]
    model = start(trainer)
    assert trainer.fit(model, task(seed=3)).arrays != trainer.fit(model, task(seed=4)).arrays


@pytest.mark.parametrize("trainer", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_data_of_less_precision_are_the_same_data(trainer: SklearnTrainer) -> None:
    model = start(trainer)
    halves = np.round(X * 2) / 2
    expected = trainer.fit(model, task((halves, LABELS))).arrays
    assert trainer.fit(model, task((halves.astype(np.float32), LABELS.astype(np.uint8)))).arrays == expected


def test_a_linear_model_starts_from_zeros_with_nothing_seen() -> None:
    model = start(CLASSIFIERS["sgd"])
    assert list(model) == ["coef_", "intercept_", "t_"]
    assert not model["coef_"].any()
    assert (model["t_"], model["t_"].dtype) == (1, np.int64)


def test_training_goes_on_from_the_model_that_was_received() -> None:
    """Two rounds of one epoch without shuffling, on a constant step, are one round of two epochs."""
    pattern = SGDClassifier(shuffle=False, learning_rate="constant", eta0=0.01)
    once, twice = classifier(pattern), classifier(pattern, epochs=2)
    first = once.fit(start(once), task()).arrays
    assert once.fit(first, task()).arrays == twice.fit(start(twice), task()).arrays


def test_the_step_size_goes_on_falling_over_rounds() -> None:
    trainer = classifier(SGDClassifier(learning_rate="invscaling", eta0=0.1))
    first = trainer.fit(start(trainer), task()).arrays
    assert first["t_"] == 91
    assert trainer.fit(first, task()).arrays["t_"] == 181


def test_a_count_of_examples_far_beyond_the_weights_is_averaged_exactly() -> None:
    trainer = classifier(SGDClassifier(learning_rate="constant", eta0=0.001), epochs=50)
    algorithm = fedavg(WeightedMean())
    state = algorithm.init(start(trainer))
    plan = algorithm.aggregator.plan(state.params)
    partial = algorithm.aggregator.zero(plan)
    for client, size in (("a", 30), ("b", 90)):
        update = algorithm.client_update(trainer, state.params, task((X[:size], LABELS[:size])))
        algorithm.aggregator.accumulate(plan, partial, update, Contribution(client, size))
    after = algorithm.server_update(state, algorithm.aggregator.report(plan, partial)).params
    assert after["t_"] == 1 + (30 * 1500 + 90 * 4500) // 120


def test_half_the_work_is_half_the_epochs_or_iterations() -> None:
    for four, two in (
        (classifier(SGDClassifier(), epochs=4), classifier(SGDClassifier(), epochs=2)),
        (classifier(LogisticRegression(max_iter=4)), classifier(LogisticRegression(max_iter=2))),
    ):
        assert four.fit(start(four), task(work=0.5)).arrays == two.fit(start(two), task()).arrays


@pytest.mark.parametrize(
    "estimator",
    [SGDRegressor(), MLPRegressor(hidden_layer_sizes=(8,), learning_rate_init=0.01)],
    ids=["sgd", "network"],
)
def test_a_regressor_needs_no_classes(estimator: Any) -> None:
    trainer = SklearnTrainer(estimator, num_features=6, batch_size=10, epochs=30)
    data = (X, X @ np.arange(6.0))
    after = trainer.fit(start(trainer), task(data)).arrays
    assert trainer.evaluate(after, task(data)).values["r2"] > 0.9
    assert set(trainer.evaluate(after, task((X, np.ones(90)))).values) == {"loss"}


def test_string_classes_are_classes() -> None:
    names = np.array(["ash", "elm", "oak"])
    trainer = SklearnTrainer(LogisticRegression(max_iter=20), num_features=6, classes=names)
    some = LABELS < 2
    after = trainer.fit(start(trainer), task((X[some], names[LABELS][some]))).arrays
    assert trainer.evaluate(after, task((X[some], names[LABELS][some]))).values["accuracy"] > 0.9


def test_algorithms_that_work_on_gradients_are_refused() -> None:
    trainer = CLASSIFIERS["sgd"]
    model = start(trainer)
    with pytest.raises(AppError, match="gradients"):
        trainer.gradient(model, task())
    for correction in (GradientCorrection(proximal=0.1), GradientCorrection(anchored=True)):
        with pytest.raises(AppError, match="gradients"):
            trainer.fit(model, task(correction=correction))
    nothing = task(correction=GradientCorrection(proximal=0.0))
    assert trainer.fit(model, nothing).arrays == trainer.fit(model, task()).arrays
    assert not nothing.ignored_correction


@pytest.mark.parametrize(
    ("estimator", "settings", "said"),
    [
        (LinearRegression(), {}, "neither partial_fit nor warm_start"),
        (SGDClassifier(), {}, r"classes=range\(10\)"),
        (SGDRegressor(), {"classes": [0, 1]}, "no classifier"),
        (SGDRegressor(average=True), {}, "average"),
        (LogisticRegression(), {"classes": [0, 1], "epochs": 2}, "max_iter"),
    ],
)
def test_an_estimator_that_cannot_be_federated_is_refused_at_once(estimator: Any, settings: Any, said: str) -> None:
    with pytest.raises(AppError, match=said):
        SklearnTrainer(estimator, num_features=6, **settings)


def test_an_estimator_without_coefficients_is_refused() -> None:
    with pytest.raises(AppError, match="GaussianNB keeps neither"):
        start(classifier(GaussianNB()))
    with pytest.raises(AppError, match="fit it first"):
        arrays_of_estimator(SGDClassifier())


def test_another_models_arrays_are_refused() -> None:
    with pytest.raises(ArraysMismatchError, match="'coef_'"):
        classifier(SGDClassifier()).evaluate(
            start(SklearnTrainer(SGDClassifier(), num_features=7, classes=range(3))), task()
        )


def test_evaluating_on_nothing_is_an_error_not_a_nan() -> None:
    trainer = CLASSIFIERS["sgd"]
    with pytest.raises(InputError, match="client-0 has no examples to evaluate on"):
        trainer.evaluate(start(trainer), task(((X, LABELS), (X[:0], LABELS[:0]))))


def test_a_round_that_does_not_converge_warns_nobody() -> None:
    trainer = classifier(LogisticRegression(max_iter=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(start(trainer), task())
    assert not caught
