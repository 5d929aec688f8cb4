"""Numpy training against gradients and steps computed by hand."""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hansa.arrays import Array, Arrays, subtract
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import ClientInfo, GradientCorrection, Task
from hansa.training.numpy import NumpyModel, NumpyTrainer, logistic_regression, mlp, softmax_regression

RNG = np.random.default_rng(5)
X = RNG.standard_normal((40, 6))
LABELS = RNG.integers(0, 3, 40)


def task(data: Any = None, seed: int = 0, correction: GradientCorrection | None = None, **more: Any) -> Task:
    data = (X, LABELS) if data is None else data
    return Task(ClientInfo("client-0"), 1, np.random.default_rng(seed), data, **more).corrected_by(correction)


def drawn(model: NumpyModel, seed: int = 1) -> dict[str, Array]:
    """Parameters away from zero, where no gradient vanishes by symmetry."""
    rng = np.random.default_rng(seed)
    init = Arrays(model.init(rng))
    return {name: np.asarray(array + 0.3 * rng.standard_normal(array.shape)) for name, array in init.items()}


MODELS = {
    "softmax": (softmax_regression(6, 3, np.float64), LABELS),
    "logistic": (logistic_regression(6, np.float64), LABELS % 2),
    "mlp": (mlp((6, 5, 4, 3), np.float64), LABELS),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_finite_differences_of_the_loss(name: str) -> None:
    model, y = MODELS[name]
    params = drawn(model)
    _, gradient = model.loss_and_gradient(params, X, y)
    for tensor, array in params.items():
        for index in np.ndindex(array.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = {key: value.copy() for key, value in params.items()}
                moved[tensor][index] += step
                sides.append(model.loss_and_gradient(moved, X, y)[0])
            assert gradient[tensor][index] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_and_training_agree_on_the_loss(name: str) -> None:
    model, y = MODELS[name]
    params = drawn(model)
    assert model.evaluate is not None
    assert model.evaluate(params, X, y)["loss"] == pytest.approx(model.loss_and_gradient(params, X, y)[0], rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_goes_down_and_the_accuracy_up(name: str) -> None:
    model, _ = MODELS[name]
    y = (X[:, 0] > 0).astype(int)
    trainer = NumpyTrainer(model, learning_rate=0.3, batch_size=8, epochs=15)
    start = trainer.initial_model(np.random.default_rng(0))
    update = trainer.fit(start, task((X, y)))
    before, after = (trainer.evaluate(arrays, task((X, y))).values for arrays in (start, update.arrays))
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.95
    assert update.num_examples == 40


def test_softmax_regression_of_equal_logits_loses_the_log_of_the_classes() -> None:
    model = softmax_regression(6, 3)
    assert model.loss_and_gradient(Arrays(model.init(RNG)), X, LABELS)[0] == pytest.approx(np.log(3))


def test_large_logits_do_not_overflow() -> None:
    for name in ("softmax", "logistic"):
        model, y = MODELS[name]
        params = {tensor: array * 1e4 for tensor, array in drawn(model).items()}
        loss, gradient = model.loss_and_gradient(params, X, y)
        assert np.isfinite(loss)
        assert all(np.isfinite(array).all() for array in gradient.values())


def test_one_full_batch_step_is_one_gradient_step() -> None:
    trainer = NumpyTrainer(MODELS["mlp"][0], learning_rate=0.1)
    start = Arrays(drawn(MODELS["mlp"][0]))
    gradient = trainer.gradient(start, task())
    after = trainer.fit(start, task()).arrays
    assert gradient.num_examples == 40
    for name in start:
        np.testing.assert_allclose(after[name], start[name] - 0.1 * gradient.arrays[name], rtol=1e-14)


def test_corrected_steps_are_those_by_hand() -> None:
    """Two steps of g + μ(w − w₀) + offset, then weight decay and momentum, on L = ½(w − a)², whose g is w − a."""
    model = NumpyModel(lambda _: {"w": np.zeros(1)}, lambda params, _x, y: (0.0, {"w": params["w"] - y[0]}))
    trainer = NumpyTrainer(model, learning_rate=0.5, steps=2, momentum=0.5, weight_decay=0.25)
    correction = GradientCorrection(proximal=2.0, offset=Arrays({"w": np.array([1.0])}))
    data = (np.zeros((1, 1)), np.array([8.0]))

    # w₀ = 4: d₁ = (4−8) + 2·0 + 1 + ¼·4 = −2; v = −2; w = 5
    # w₁ = 5: d₂ = (5−8) + 2·1 + 1 + ¼·5 = 1.25; v = −1 + 1.25 = 0.25; w = 4.875
    update = trainer.fit(Arrays({"w": np.array([4.0])}), task(data, correction=correction))
    assert update.arrays["w"] == [4.875]


def test_an_anchored_step_is_against_the_gradient_of_its_batch_at_the_start() -> None:
    # L = ½(w − a)²: (w − a) − (w₀ − a) + 1 = w − w₀ + 1: w₀ = 4; −½·1: 3.5; −½·½: 3.25, whatever a is.
    model = NumpyModel(lambda _: {"w": np.zeros(1)}, lambda params, _x, y: (0.0, {"w": params["w"] - y.mean()}))
    trainer = NumpyTrainer(model, learning_rate=0.5, batch_size=1, epochs=1)
    correction = GradientCorrection(offset=Arrays({"w": np.array([1.0])}), anchored=True)
    data = (np.zeros((2, 1)), np.array([8.0, -5.0]))
    assert trainer.fit(Arrays({"w": np.array([4.0])}), task(data, correction=correction)).arrays["w"] == [3.25]


def test_a_term_of_the_loss_that_is_written_in_pytorch_is_refused() -> None:
    trainer = NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1)
    with pytest.raises(AppError, match="adds a term to the loss that is written in PyTorch: use TorchTrainer"):
        trainer.fit(trainer.initial_model(RNG), task(correction=GradientCorrection(penalty=lambda _: 0.0)))


def test_what_is_frozen_stays_and_the_rest_moves_as_before() -> None:
    trainer = NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1, weight_decay=0.1, momentum=0.5)
    start = Arrays({name: array + 1 for name, array in trainer.initial_model(RNG).items()})
    after = trainer.fit(start, task(correction=GradientCorrection(frozen=frozenset({"weight"})))).arrays
    assert after["weight"].tobytes() == start["weight"].tobytes()
    assert after["bias"].tobytes() == trainer.fit(start, task()).arrays["bias"].tobytes()


def test_a_proximal_weight_of_zero_is_none_to_the_bit() -> None:
    trainer = NumpyTrainer(mlp((6, 5, 3)), learning_rate=0.1, batch_size=7, epochs=3, momentum=0.9)
    start = trainer.initial_model(np.random.default_rng(0))
    assert (
        trainer.fit(start, task(correction=GradientCorrection(proximal=0.0))).arrays
        == trainer.fit(start, task()).arrays
    )
    assert (
        trainer.fit(start, task(correction=GradientCorrection(proximal=0.1))).arrays
        != trainer.fit(start, task()).arrays
    )


def test_reading_the_correction_is_noticed() -> None:
    trainer = NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1)
    given = task(correction=GradientCorrection(proximal=1.0))
    trainer.fit(trainer.initial_model(RNG), given)
    assert not given.ignored_correction


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    trainer = NumpyTrainer(mlp((6, 5, 3)), learning_rate=0.1, batch_size=7)
    start = trainer.initial_model(np.random.default_rng(3))
    assert start == trainer.initial_model(np.random.default_rng(3))
    assert trainer.fit(start, task(seed=4)).arrays == trainer.fit(start, task(seed=4)).arrays
    assert trainer.fit(start, task(seed=4)).arrays != trainer.fit(start, task(seed=5)).arrays


def test_half_the_work_is_half_the_epochs() -> None:
    four, two = (NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1, batch_size=7, epochs=e) for e in (4, 2))
    start = four.initial_model(RNG)
    assert four.fit(start, task(work=0.5)).arrays == two.fit(start, task()).arrays


def test_what_was_received_is_left_as_it_was() -> None:
    trainer = NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1)
    start = Arrays({name: array + 1 for name, array in trainer.initial_model(RNG).items()})
    copy = Arrays({name: array.copy() for name, array in start.items()})
    trainer.fit(start, task())
    assert start == copy


def test_the_reported_loss_is_the_mean_over_examples_before_each_step() -> None:
    losses = iter([1.0, 4.0])
    model = NumpyModel(lambda _: {"w": np.zeros(1)}, lambda *_: (next(losses), {"w": np.zeros(1)}))
    trainer = NumpyTrainer(model, learning_rate=1.0, batch_size=2)
    assert trainer.fit(trainer.initial_model(RNG), task((X[:3], LABELS[:3]))).metrics == {"loss": 2.0}  # (2·1 + 1·4)/3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_floating_dtype_keeps_its_dtype(dtype: Any) -> None:
    model = NumpyModel(lambda _: {"w": np.ones(2, dtype)}, lambda params, *_: (0.0, {"w": params["w"]}))
    trainer = NumpyTrainer(model, learning_rate=0.25, momentum=0.5, weight_decay=0.5)
    correction = GradientCorrection(proximal=1.0, offset=Arrays({"w": np.ones(2, np.float32)}))
    after = trainer.fit(trainer.initial_model(RNG), task(correction=correction)).arrays
    assert after["w"].dtype == dtype
    assert after["w"].tolist() == [0.375, 0.375]  # 1 − ¼(1 + 0 + 1 + ½)


def test_counters_in_a_model_are_left_alone() -> None:
    model = NumpyModel(lambda _: {"w": np.ones(1), "seen": np.array(7)}, lambda params, *_: (0.0, {"w": params["w"]}))
    trainer = NumpyTrainer(model, learning_rate=0.5)
    start = trainer.initial_model(RNG)
    assert trainer.fit(start, task()).arrays["seen"] == 7
    gradient = trainer.gradient(start, task()).arrays
    assert {name: array.dtype for name, array in gradient.items()} == {
        name: array.dtype for name, array in subtract(start, start).items()
    }


def test_a_model_without_an_evaluate_function_reports_its_loss() -> None:
    model = NumpyModel(lambda _: {"w": np.ones(1)}, lambda params, *_: (2.5, {"w": params["w"]}))
    trainer = NumpyTrainer(model, learning_rate=0.5)
    metrics = trainer.evaluate(trainer.initial_model(RNG), task())
    assert (metrics.values, metrics.num_examples) == ({"loss": 2.5}, 40)


@pytest.mark.parametrize(
    ("gradient", "said"), [({}, "no gradient for 'w'"), ({"w": np.ones(1)}, r"shape \(1,\); the tensor's is \(3,\)")]
)
def test_a_gradient_that_does_not_fit_is_named(gradient: dict[str, Array], said: str) -> None:
    trainer = NumpyTrainer(NumpyModel(lambda _: {"w": np.ones(3)}, lambda *_: (0.0, gradient)), learning_rate=0.5)
    with pytest.raises(AppError, match=said):
        trainer.fit(trainer.initial_model(RNG), task())


def test_evaluating_on_nothing_is_an_error_not_a_nan() -> None:
    trainer = NumpyTrainer(softmax_regression(6, 3), learning_rate=0.1)
    with pytest.raises(InputError, match="client-0 has no examples to evaluate on"):
        trainer.evaluate(trainer.initial_model(RNG), task(((X, LABELS), (X[:0], LABELS[:0]))))


@pytest.mark.parametrize(
    "settings", [{"learning_rate": 0}, {"learning_rate": 1, "momentum": 1}, {"learning_rate": 1, "weight_decay": -1}]
)
def test_settings_with_which_nothing_is_learnt_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        NumpyTrainer(softmax_regression(6, 3), **settings)
    with pytest.raises(ConfigError, match="sizes"):
        mlp((3,))


@pytest.mark.parametrize(("momentum", "distance"), [(0.0, 0.8), (0.5, 1.400781250)])
def test_step_sum_is_how_far_a_gradient_of_minus_one_moves_the_model(momentum: float, distance: float) -> None:
    # 8 steps of 0.1; with momentum ½ the k-th is 0.1·(2 − 2^(1−k)), together 0.1·(16 − 2 + 2^-7)
    downhill = NumpyModel(lambda _: {"w": np.zeros(2)}, lambda *_: (0.0, {"w": -np.ones(2)}))
    trainer = NumpyTrainer(downhill, 0.1, batch_size=10, epochs=2, momentum=momentum)
    update = trainer.fit(trainer.initial_model(RNG), task())
    assert update.step_sum == pytest.approx(distance)
    assert update.arrays["w"] == pytest.approx(distance)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_step_sum_is_held_back_by_a_proximal_correction(momentum: float) -> None:
    downhill = NumpyModel(lambda _: {"w": np.zeros(2)}, lambda *_: (0.0, {"w": -np.ones(2)}))
    trainer = NumpyTrainer(downhill, 0.1, batch_size=10, epochs=2, momentum=momentum)
    update = trainer.fit(trainer.initial_model(RNG), task().corrected_by(GradientCorrection(proximal=0.7)))
    assert update.arrays["w"] == pytest.approx(update.step_sum)
    if not momentum:  # [1 − (1 − ημ)^τ]/μ
        assert update.step_sum == pytest.approx((1 - (1 - 0.07) ** 8) / 0.7)


@pytest.mark.parametrize("steps", [2, 3, 2000])
def test_the_step_sum_of_steps_that_swing_ever_further_is_unknown(steps: int) -> None:
    # ημ = 3: 0.1, −0.1, 0.3, −0.5 … and beyond every number
    downhill = NumpyModel(lambda _: {"w": np.zeros(2, np.float32)}, lambda *_: (0.0, {"w": -np.ones(2)}))
    trainer = NumpyTrainer(downhill, 0.1, steps=steps)
    with np.errstate(over="ignore", invalid="ignore"):
        update = trainer.fit(trainer.initial_model(RNG), task().corrected_by(GradientCorrection(proximal=30.0)))
    assert update.step_sum == (pytest.approx(0.3) if steps == 3 else 0.0)


@pytest.mark.parametrize("size", [2.5, 0, "4", None, True])
def test_sizes_of_ready_models_are_whole_numbers(size: Any) -> None:
    makers: tuple[Callable[[], NumpyModel], ...] = (
        lambda: softmax_regression(4, size),
        lambda: logistic_regression(size),
        lambda: mlp((4, size, 3)),
    )
    for make in makers:
        with pytest.raises(ConfigError, match="it must be a whole number, at least 1"):
            make()
    with pytest.raises(ConfigError, match="it must be a tuple"):
        mlp(64)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least an input and an output size"):
        mlp((64,))
