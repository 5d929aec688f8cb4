"""PyTorch training against steps computed by hand, and the way of tensors to arrays and back."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from hansa.aggregators.mean import WeightedMean
from hansa.algorithm import Algorithm
from hansa.algorithms.fedavg import fedavg
from hansa.algorithms.fedbn import fedbn
from hansa.algorithms.mime import mime
from hansa.algorithms.scaffold import scaffold
from hansa.arrays import Arrays, is_floating, subtract
from hansa.errors import AppError, ArraysMismatchError, InputError
from hansa.messages import ClientInfo, Contrast, Contribution, GradientCorrection, Task
from hansa.testing.federation import play, task_of
from hansa.training.numpy import NumpyTrainer, softmax_regression

torch = pytest.importorskip("torch")
from hansa.training.torch import (  # noqa: E402 - needs torch
    LocalBatch,
    TorchTrainer,
    accuracy,
    arrays_of_module,
    load_into_module,
)

nn = torch.nn
RNG = np.random.default_rng(5)
X = RNG.standard_normal((40, 6)).astype(np.float32)
LABELS = RNG.integers(0, 3, 40)


def sgd(lr: float = 0.1, **more: Any) -> Any:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **more)


def linear() -> Any:
    return nn.Linear(6, 3)


def with_everything() -> Any:
    """Parameters of several ranks, dropout, and buffers: running statistics and a counter."""
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def trainer(module: Any = linear, optimizer: Any = None, **more: Any) -> TorchTrainer:
    return TorchTrainer(module, more.pop("loss", nn.CrossEntropyLoss()), optimizer or sgd(), **more)


def task(data: Any = None, seed: int = 0, correction: GradientCorrection | None = None, **more: Any) -> Task:
    data = (X, LABELS) if data is None else data
    return Task(ClientInfo("client-0"), 1, np.random.default_rng(seed), data, **more).corrected_by(correction)


def start(of: TorchTrainer, seed: int = 1) -> Arrays:
    return of.initial_model(np.random.default_rng(seed))


# ── modules and arrays ───────────────────────────────────────────────────────────────────────────────────────────────


def test_arrays_are_the_state_dict_in_its_order() -> None:
    module = with_everything()
    arrays = arrays_of_module(module)
    assert list(arrays) == list(module.state_dict())
    assert arrays["1.num_batches_tracked"].dtype == np.int64
    assert arrays["1.num_batches_tracked"].shape == ()
    assert arrays["0.weight"].tolist() == module[0].weight.tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_module_of_any_floating_dtype_round_trips(dtype: str) -> None:
    module = with_everything().to(getattr(torch, dtype))
    module[1].num_batches_tracked.fill_(2**40)
    arrays = arrays_of_module(module)
    assert arrays["0.weight"].dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    other = with_everything().to(getattr(torch, dtype))
    load_into_module(other, arrays)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_arrays_keep_nothing_of_the_module() -> None:
    module = linear()
    arrays = arrays_of_module(module)
    before = arrays["weight"].copy()
    with torch.no_grad():
        module.weight.add_(1)
    assert np.array_equal(arrays["weight"], before)


def test_bfloat16_rounds_products_and_neither_weights_nor_steps() -> None:
    """A product of (1 + 2⁻¹⁰)·1 is 1 in bfloat16; the step of 2⁻¹⁰ is in the weights, and in the next product."""

    def one_weight() -> nn.Module:
        module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(module.weight)
        return module

    def mean(outputs: torch.Tensor, _targets: torch.Tensor) -> torch.Tensor:
        return outputs.mean()

    x, y = np.full((4, 1), 1 + 2**-10, np.float32), np.zeros((4, 1), np.float32)
    narrow, wide = (
        TorchTrainer(one_weight, mean, sgd(lr=2**-10), steps=16, bfloat16=chosen) for chosen in (True, False)
    )
    model = narrow.initial_model(np.random.default_rng(0))
    assert narrow.evaluate(model, task((x, y))).values["loss"] == 1
    assert wide.evaluate(model, task((x, y))).values["loss"] == 1 + 2**-10
    trained = narrow.fit(model, task((x, y))).arrays["weight"]
    assert trained.dtype == np.float32
    assert trained.item() == 1 - 16 * 2**-10  # each step is 2⁻¹⁰ · 1
    assert narrow.gradient(model, task((x, y))).arrays["weight"].item() == 1
    assert narrow.vectorized(model, task((x, y))) == (
        "its products are in bfloat16, which brings nothing where many small models share them"
    )


@pytest.mark.parametrize("algorithm", [fedavg, mime])
def test_bfloat16_learns_what_float32_does(algorithm: Callable[..., Algorithm]) -> None:
    losses = []
    for chosen in (True, False):
        of = trainer(optimizer=sgd(lr=0.1), batch_size=10, epochs=3, bfloat16=chosen)
        *_, last = play(algorithm(WeightedMean()), of, {"ada": (X, LABELS)}, rounds=4)
        losses.append(of.evaluate(last.params, task()).values["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_channels_last_weights_travel_in_ordinary_order() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 5)
    arrays = arrays_of_module(plain)
    last = nn.Conv2d(3, 4, 5).to(memory_format=torch.channels_last)
    load_into_module(last, arrays)
    assert torch.equal(plain.weight, last.weight)
    assert arrays_of_module(last) == arrays


def test_another_models_arrays_are_refused_by_name() -> None:
    arrays = arrays_of_module(linear())
    with pytest.raises(ArraysMismatchError, match="lacks"):
        load_into_module(with_everything(), arrays)
    with pytest.raises(ArraysMismatchError, match="'weight'"):
        load_into_module(nn.Linear(7, 3), arrays)


def test_a_state_that_is_no_tensor_cannot_travel() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "a string"

    with pytest.raises(AppError, match=r"'_extra_state'.*str"):
        arrays_of_module(Odd(2, 2))


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_goes_down_and_the_accuracy_up() -> None:
    given = trainer(with_everything, sgd(0.2), batch_size=8, epochs=20)
    data = (X, (X[:, 0] > 0).astype(int))
    model = start(given)
    update = given.fit(model, task(data))
    before, after = given.evaluate(model, task(data)).values, given.evaluate(update.arrays, task(data)).values
    assert after["loss"] < 0.5 * before["loss"]
    assert after["accuracy"] > 0.9
    assert update.num_examples == 40


def test_the_initial_model_depends_on_the_seed_alone() -> None:
    given = trainer(with_everything)
    torch.manual_seed(1)
    first = start(given)
    torch.manual_seed(2)
    assert start(given) == first
    assert start(given, seed=2) != first


def test_corrected_steps_are_those_by_hand() -> None:
    """Two steps of g + μ(w − w₀) + offset, then weight decay and momentum, on L = ½(w − 8)², whose g is w − 8."""

    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x: Any) -> Any:
            return self.w - x

    given = TorchTrainer(
        Scalar, lambda out, _: 0.5 * out.square().sum(), sgd(0.5, momentum=0.5, weight_decay=0.25), steps=2
    )
    correction = GradientCorrection(proximal=2.0, offset=Arrays({"w": np.array([1.0], np.float32)}))
    data = (np.full((1, 1), 8.0), np.zeros(1))

    # w₀ = 4: d₁ = (4−8) + 2·0 + 1 + ¼·4 = −2; v = −2; w = 5
    # w₁ = 5: d₂ = (5−8) + 2·1 + 1 + ¼·5 = 1.25; v = −1 + 1.25 = 0.25; w = 4.875
    update = given.fit(Arrays({"w": np.array([4.0], np.float32)}), task(data, correction=correction))
    assert update.arrays["w"].tolist() == [4.875]


def test_an_anchored_step_is_against_the_gradient_of_its_batch_at_the_start_with_the_same_dropout() -> None:
    # Without an offset the first step is g − g = 0 whatever the batch and the dropout; the next one starts there.
    given = trainer(with_everything, sgd(lr=0.1), batch_size=10, epochs=2)
    model = start(given)
    after = given.fit(model, task(correction=GradientCorrection(anchored=True)))
    parameters = [name for name, _ in given._setup.build().named_parameters()]
    for name in parameters:
        assert after.arrays[name].tobytes() == model[name].tobytes()
    plain = given.fit(model, task()).arrays
    assert after.arrays["1.running_mean"].tobytes() != model["1.running_mean"].tobytes()
    assert after.arrays["1.num_batches_tracked"] == plain["1.num_batches_tracked"]
    offset = Arrays({name: np.ones_like(array) for name, array in model.items() if is_floating(array)})
    moved = given.fit(model, task(correction=GradientCorrection(offset=offset, anchored=True))).arrays
    once = trainer(with_everything, sgd(lr=0.1), batch_size=10, steps=1)
    first = once.fit(model, task(correction=GradientCorrection(offset=offset, anchored=True))).arrays
    for name in parameters:
        np.testing.assert_allclose(first[name], model[name] - np.float32(0.1), rtol=1e-5, atol=1e-6)
        assert moved[name].tobytes() != first[name].tobytes()


def test_a_step_with_sharpness_is_numpys_and_leaves_the_last_bit_of_what_is_frozen() -> None:
    correction = GradientCorrection(sharpness=0.7, proximal=0.5, frozen=frozenset({"bias"}))
    given = trainer(optimizer=sgd(lr=0.1, momentum=0.5), epochs=3)
    model = start(given)
    theirs = NumpyTrainer(softmax_regression(6, 3), 0.1, epochs=3, momentum=0.5)
    expected = theirs.fit(Arrays({"weight": model["weight"].T, "bias": model["bias"]}), task(correction=correction))
    found = given.fit(model, task(correction=correction))
    np.testing.assert_allclose(found.arrays["weight"].T, expected.arrays["weight"], rtol=1e-5, atol=1e-6)
    assert found.arrays["bias"].tobytes() == model["bias"].tobytes()
    assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)


def test_both_gradients_of_a_step_with_sharpness_have_one_dropout_and_batch_norm_counts_once() -> None:
    given = trainer(with_everything, sgd(lr=0.1), batch_size=10)
    model = start(given)
    plain, nearly = given.fit(model, task()), given.fit(model, task(correction=GradientCorrection(sharpness=1e-6)))
    for name, array in plain.arrays.items():  # with another dropout they would differ by far more
        np.testing.assert_allclose(nearly.arrays[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert nearly.arrays["1.num_batches_tracked"] == 4


def test_a_penalty_is_given_what_moons_contrast_sees() -> None:
    encoder = lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))  # noqa: E731 - one line says it
    given = trainer(encoder, batch_size=10, epochs=2, representation="1")
    received, own = start(given, 1), start(given, 2)

    def contrast(batch: LocalBatch) -> torch.Tensor:
        assert batch.outputs.shape == (len(batch.inputs), 3)
        assert batch.targets.dtype == torch.int64
        still = [batch.by(model).representation for model in (received, own)]
        near = torch.stack([torch.cosine_similarity(batch.representation, z) for z in still], dim=1) / 0.5
        return 2.0 * (near.logsumexp(dim=1) - near[:, 0]).mean()

    expected = given.fit(received, task(correction=GradientCorrection(contrast=Contrast(own, 2.0, 0.5))))
    found = given.fit(received, task(correction=GradientCorrection(penalty=contrast)))
    assert found.arrays == expected.arrays
    assert found.metrics == expected.metrics
    assert given.vectorized(received, task(correction=GradientCorrection(penalty=contrast))) == (
        "the algorithm adds a term of its own to the loss"
    )
    with pytest.raises(AppError, match='give TorchTrainer representation="encoder"'):
        trainer(encoder).fit(received, task(correction=GradientCorrection(penalty=contrast)))


def test_a_representation_that_the_module_has_not_is_told() -> None:
    correction = GradientCorrection(penalty=lambda batch: batch.representation.sum())
    given = trainer(with_everything, batch_size=10, representation="encoder")
    with pytest.raises(
        AppError, match="representation is 'encoder', and the module has no such submodule; it has: 0, 1,"
    ):
        given.fit(start(given), task(correction=correction))


def test_what_is_frozen_stays_buffers_too() -> None:
    given = trainer(with_everything, sgd(lr=0.1, weight_decay=0.1, momentum=0.5), batch_size=10)
    model = start(given)
    frozen = frozenset(name for name in model if name.startswith(("0.", "1.")))
    update = given.fit(model, task(correction=GradientCorrection(frozen=frozen)))
    for name, array in model.items():
        assert (update.arrays[name].tobytes() == array.tobytes()) == (name in frozen)
    assert set(update.step_sum) == {"4.weight", "4.bias"}


def test_the_correction_leaves_frozen_parameters_and_buffers_alone() -> None:
    def half_frozen() -> Any:
        module = with_everything()
        module[0].requires_grad_(requires_grad=False)
        return module

    given = trainer(half_frozen, batch_size=8)
    model = start(given)
    offset = Arrays({name: np.ones(array.shape, np.float32) for name, array in model.items()})
    after = given.fit(model, task(correction=GradientCorrection(offset=offset))).arrays
    assert np.array_equal(after["0.weight"], model["0.weight"])
    assert after["1.num_batches_tracked"] == 5
    assert not np.array_equal(after["4.weight"], model["4.weight"])


def test_a_proximal_weight_of_zero_is_none_to_the_bit() -> None:
    given = trainer(with_everything, sgd(0.1, momentum=0.9), batch_size=7, epochs=3)
    model = start(given)
    plain = given.fit(model, task()).arrays
    assert given.fit(model, task(correction=GradientCorrection(proximal=0.0))).arrays == plain
    assert given.fit(model, task(correction=GradientCorrection(proximal=0.1))).arrays != plain


def test_the_same_seed_gives_the_same_bits_whatever_was_trained_before() -> None:
    given = trainer(with_everything, torch.optim.Adam, batch_size=7)
    model = start(given)
    first = given.fit(model, task(seed=4)).arrays
    assert given.fit(model, task(seed=5)).arrays != first
    assert given.fit(model, task(seed=4)).arrays == first
    fresh = trainer(with_everything, torch.optim.Adam, batch_size=7)
    assert fresh.fit(model, task(seed=4)).arrays == first


def test_torchs_own_random_state_and_threads_are_as_they_were() -> None:
    given = trainer(with_everything, batch_size=7, threads=1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    model = start(given)
    given.fit(model, task())
    given.gradient(model, task())
    given.evaluate(model, task())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_threads_are_those_asked_for_while_it_trains_and_afterwards_as_before() -> None:
    during: list[int] = []
    before = torch.get_num_threads()
    given = trainer(threads=before + 1)
    given.fit(start(given), task(progress=lambda *_: during.append(torch.get_num_threads())))
    assert during == [before + 1]
    assert torch.get_num_threads() == before


def test_an_error_in_the_module_leaves_random_state_and_threads_as_they_were() -> None:
    given = trainer(batch_size=7)
    model = start(given)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with pytest.raises(RuntimeError):
        given.fit(model, task((X[:, :5], LABELS)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_half_the_work_is_half_the_epochs() -> None:
    four, two = (trainer(with_everything, batch_size=7, epochs=epochs) for epochs in (4, 2))
    model = start(four)
    assert four.fit(model, task(work=0.5)).arrays == two.fit(model, task()).arrays


def test_tensors_and_arrays_of_any_precision_are_the_same_data() -> None:
    given = trainer(batch_size=7)
    model = start(given)
    expected = given.fit(model, task()).arrays
    frozen = X.copy()
    frozen.flags.writeable = False
    wider = (X.astype(np.float64), LABELS.astype(np.uint8))
    for data in ((torch.from_numpy(X), torch.from_numpy(LABELS)), wider, (frozen, LABELS)):
        assert given.fit(model, task(data)).arrays == expected
        assert given.gradient(model, task(data)).arrays == given.gradient(model, task()).arrays


def test_a_linear_module_walks_as_the_numpy_model_does() -> None:
    """The same batches too, once numpy has drawn the number that torch seeds dropout with."""
    given = trainer(sgd_linear, sgd(0.05), batch_size=7, epochs=3)
    other = NumpyTrainer(softmax_regression(6, 3), learning_rate=0.05, batch_size=7, epochs=3)
    rng = np.random.default_rng(0)
    rng.integers(2**63)
    theirs = other.fit(other.initial_model(rng), Task(ClientInfo("client-0"), 1, rng, (X, LABELS)))
    mine = given.fit(start(given), task())
    np.testing.assert_allclose(mine.arrays["weight"], theirs.arrays["weight"].T, atol=1e-6)
    assert mine.metrics["loss"] == pytest.approx(theirs.metrics["loss"], rel=1e-6)


def sgd_linear() -> Any:
    module = linear()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def test_the_gradient_is_that_of_the_mean_loss_whatever_the_size_of_its_batches() -> None:
    whole = trainer(with_everything)
    parts = trainer(with_everything, evaluation_batch_size=7)
    model = start(whole)
    module = with_everything()
    load_into_module(module, model)
    module.eval()
    nn.functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(LABELS)).backward()
    for given in (whole, parts):
        gradient = given.gradient(model, task())
        assert gradient.num_examples == 40
        for name, parameter in module.named_parameters():
            np.testing.assert_allclose(gradient.arrays[name], parameter.grad.numpy(), atol=1e-6)
    dtypes = {name: array.dtype for name, array in gradient.arrays.items()}
    assert dtypes == {name: array.dtype for name, array in subtract(model, model).items()}


def test_one_full_batch_step_is_one_gradient_step() -> None:
    given = trainer(linear, sgd(0.1))
    model = start(given)
    gradient, after = given.gradient(model, task()).arrays, given.fit(model, task()).arrays
    for name in model:
        np.testing.assert_allclose(after[name], model[name] - 0.1 * gradient[name], atol=1e-7)


def test_a_bfloat16_module_trains_in_bfloat16() -> None:
    given = trainer(lambda: linear().to(torch.bfloat16), sgd(0.5), batch_size=8, epochs=5)
    model = start(given)
    offset = Arrays({name: np.zeros(array.shape, np.float32) for name, array in model.items()})
    update = given.fit(model, task(correction=GradientCorrection(proximal=0.1, offset=offset)))
    assert update.arrays["weight"].dtype == ml_dtypes.bfloat16
    assert given.evaluate(update.arrays, task()).values["loss"] < given.evaluate(model, task()).values["loss"]
    assert given.gradient(model, task()).arrays["weight"].dtype == np.float32


# ── aggregation and evaluation ───────────────────────────────────────────────────────────────────────────────────────


def test_batch_norm_counters_average_to_the_nearest_whole_number_and_statistics_as_floats() -> None:
    given = trainer(with_everything, batch_size=10)
    algorithm = fedavg(WeightedMean())
    state = algorithm.init(start(given))
    plan = algorithm.aggregator.plan(state.params)
    partial = algorithm.aggregator.zero(plan)
    trained = []
    for client, size in (("a", 10), ("b", 30)):  # 1 step of 10 examples, 3 steps of 30
        data = (X[:size], LABELS[:size])
        update = algorithm.client_update(given, state.params, task(data))
        trained.append(given.fit(state.params, task(data)).arrays)
        algorithm.aggregator.accumulate(plan, partial, update, Contribution(client, size))
    after = algorithm.server_update(state, algorithm.aggregator.report(plan, partial)).params
    assert after["1.num_batches_tracked"] == 2  # (10·1 + 30·3) / 40 = 2.5, half to even
    assert after["1.num_batches_tracked"].dtype == np.int64
    mean = 0.25 * trained[0]["1.running_mean"] + 0.75 * trained[1]["1.running_mean"]
    np.testing.assert_allclose(after["1.running_mean"], mean, atol=1e-6)


def test_metrics_do_not_depend_on_the_size_of_evaluation_batches() -> None:
    whole, parts = trainer(with_everything), trainer(with_everything, evaluation_batch_size=7)
    model = start(whole)
    expected = whole.evaluate(model, task())
    assert expected.num_examples == 40
    assert parts.evaluate(model, task()).values == pytest.approx(expected.values, rel=1e-6)


WEIGHTS = torch.tensor([0.1, 1.0, 5.0])


@pytest.mark.parametrize(
    ("left_out", "loss"),
    [
        (-100, nn.CrossEntropyLoss()),
        (0, nn.CrossEntropyLoss(ignore_index=0)),
        (0, partial(nn.functional.cross_entropy, ignore_index=0)),
        (-1, nn.CrossEntropyLoss(ignore_index=-1, weight=WEIGHTS)),
        (-100, partial(nn.functional.cross_entropy, weight=WEIGHTS)),
    ],
)
def test_targets_that_are_left_out_count_for_nothing_whatever_the_size_of_batches(left_out: int, loss: Any) -> None:
    """Also in the accuracy, where the loss leaves out a class; and classes count in the loss as it weighs them."""
    labels = LABELS.copy()
    labels[5:13] = labels[::3] = left_out
    whole, parts = (trainer(with_everything, loss=loss, evaluation_batch_size=size) for size in (40, 4))
    model = start(whole)
    ones, others = (of.evaluate(model, task((X, labels))).values for of in (whole, parts))
    assert others == pytest.approx(ones)
    among = np.where(labels == left_out, -100, labels)
    assert ones["accuracy"] == trainer(with_everything).evaluate(model, task((X, among))).values["accuracy"]
    one, other = (of.gradient(model, task((X, labels))) for of in (whole, parts))
    assert other.metrics == pytest.approx(one.metrics)
    for name, gradient in one.arrays.items():
        np.testing.assert_allclose(other.arrays[name], gradient, atol=1e-6)
    nothing = task((X, np.full(len(X), left_out)))
    assert np.isnan(parts.evaluate(model, nothing).values["loss"])
    assert not any(gradient.any() for gradient in parts.gradient(model, nothing).arrays.values())


def test_a_batch_of_targets_that_are_left_out_leaves_the_loss_of_training_a_number() -> None:
    labels = np.where(np.arange(40) % 2, LABELS, -100)
    still, one = (trainer(optimizer=sgd(lr=0.0), batch_size=size) for size in (1, 40))
    losses = [of.fit(start(of), task((X, labels))).metrics["loss"] for of in (still, one)]
    assert losses[0] == pytest.approx(losses[1])


def test_a_loss_that_says_it_leaves_nothing_out_is_taken_at_its_word() -> None:
    """As `ignore_index=None` of losses of other libraries does."""

    class Own(nn.CrossEntropyLoss):  # type: ignore[misc,name-defined]  # torch is imported at run time
        def __init__(self) -> None:
            super().__init__()
            self.ignore_index = None

        def forward(self, outputs: Any, targets: Any) -> Any:
            return nn.functional.cross_entropy(outputs, targets, reduction=self.reduction)

    of, plain = trainer(loss=Own()), trainer()
    model = start(of)
    assert of.evaluate(model, task()).values == plain.evaluate(model, task()).values
    assert not isinstance(of.vectorized(model, task()), str)


def test_evaluation_and_gradients_tell_how_far_they_are() -> None:
    given = trainer(evaluation_batch_size=15)
    model = start(given)
    for work in (given.evaluate, given.gradient):
        told: list[tuple[float, float]] = []
        work(model, task(progress=lambda done, total, told=told: told.append((done, total))))
        assert told == [(15, 40), (30, 40), (40, 40)]


def test_things_that_are_made_already_are_refused_at_once() -> None:
    module = linear()
    for given in (
        (module, nn.CrossEntropyLoss(), sgd()),
        (linear, nn.CrossEntropyLoss, sgd()),
        (linear, nn.CrossEntropyLoss(), sgd()(module.parameters())),
    ):
        with pytest.raises(AppError, match="makes its own"):
            TorchTrainer(*given)


def test_accuracy_counts_classes_and_signs() -> None:
    outputs = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert accuracy(outputs, torch.tensor([1, 0, 0])) == pytest.approx(2 / 3)
    assert accuracy(torch.tensor([2.0, -1.0, 3.0, 1.0]), torch.tensor([1.0, 0.0, 0.0, 1.0])) == 0.75


def test_a_regression_reports_its_loss_and_the_metrics_asked_for() -> None:
    def absolute(outputs: Any, targets: Any) -> Any:
        return (outputs - targets).abs().mean()

    data = (X, X[:, :1].astype(np.float64))
    given = TorchTrainer(lambda: nn.Linear(6, 1), nn.MSELoss(), sgd(), metrics={"absolute": absolute})
    assert set(given.evaluate(start(given), task(data)).values) == {"loss", "absolute"}
    plain = TorchTrainer(lambda: nn.Linear(6, 1), nn.MSELoss(), sgd())
    assert set(plain.evaluate(start(plain), task(data)).values) == {"loss"}


def test_evaluating_on_nothing_is_an_error_not_a_nan() -> None:
    given = trainer()
    with pytest.raises(InputError, match="client-0 has no examples to evaluate on"):
        given.evaluate(start(given), task(((X, LABELS), (X[:0], LABELS[:0]))))


def test_importing_the_package_loads_no_framework() -> None:
    code = "import sys, hansa.training, hansa.training.command; print({'torch', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(("module", "extra"), [("torch", "torch"), ("sklearn", "sklearn")])
def test_a_framework_that_is_absent_is_named_with_the_extra_that_brings_it(module: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from hansa.errors import MissingExtraError\n"
        f"try:\n    import hansa.training.{module}\nexcept MissingExtraError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"pip install 'hansa[{extra}]'" in out


def test_one_module_is_built_for_all_tasks_of_a_thread() -> None:
    built = []

    def build() -> Any:
        built.append(linear())
        return built[-1]

    given = trainer(build)
    model = arrays_of_module(linear())
    for _ in range(3):
        given.fit(model, task())
    assert len(built) == 1


# ── how far the steps go ─────────────────────────────────────────────────────────────────────────────────────────────


class Downhill(nn.Module):
    """Its loss is −Σ w: every gradient is −1. With a buffer, and a weight that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Any) -> Any:
        self.seen += len(x)
        return -(self.slow.sum() + self.fast.sum()) + 0 * x.sum()


def two_groups(parameters: Any) -> Any:
    slow, fast = parameters
    return torch.optim.SGD([{"params": [slow]}, {"params": [fast], "lr": 0.5}], lr=0.1, momentum=0.5)


@pytest.mark.parametrize(
    "optimizer",
    [
        sgd(),
        sgd(momentum=0.9),
        sgd(momentum=0.9, dampening=0.3),
        sgd(momentum=0.9, nesterov=True),
        two_groups,
    ],
    ids=["plain", "momentum", "dampening", "nesterov", "two groups"],
)
@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_step_sum_is_how_far_a_gradient_of_minus_one_moves_each_parameter(optimizer: Any, proximal: float) -> None:
    downhill = TorchTrainer(Downhill, lambda outputs, _: outputs, optimizer, batch_size=10, epochs=2, metrics={})
    corrected = task().corrected_by(GradientCorrection(proximal=proximal))
    update = downhill.fit(start(downhill), corrected)
    assert isinstance(update.step_sum, dict)
    assert set(update.step_sum) == {"slow", "fast"}
    for name, distance in update.step_sum.items():
        np.testing.assert_allclose(update.arrays[name], distance, rtol=1e-5)


def test_step_sum_of_another_optimizer_is_unknown_but_says_what_is_trained() -> None:
    for optimizer in (lambda p: torch.optim.Adam(p, lr=0.1), sgd(maximize=True)):
        of = trainer(optimizer=optimizer)
        assert of.fit(start(of), task()).step_sum == {name: 0.0 for name, _ in of._setup.build().named_parameters()}


def test_fedbn_keeps_all_of_batchnorm_with_the_client_and_averages_the_rest() -> None:
    algorithm = fedbn(WeightedMean())
    of = trainer(with_everything, sgd(lr=0.05), batch_size=10, epochs=3)
    data = {"ada": (X + 3, LABELS), "bo": (X - 3, LABELS)}
    first, *_, last = play(algorithm, of, data, rounds=3)
    for name, array in first.params.items():
        assert (last.params[name].tobytes() == array.tobytes()) == name.startswith("1.")
    kept = {n: algorithm.client_update(of, last.params, task_of(n, data)).memory for n in data}
    assert kept["ada"] is not None
    assert kept["bo"] is not None
    assert list(kept["ada"]) == [name for name in first.params if name.startswith("1.")]
    assert np.abs(kept["ada"]["1.running_mean"] - kept["bo"]["1.running_mean"]).max() > 1
    assert kept["ada"]["1.num_batches_tracked"] == 12


def test_scaffold_corrects_parameters_and_averages_the_statistics_of_batchnorm() -> None:
    algorithm = scaffold(WeightedMean(), num_clients=1)
    of = trainer(with_everything, sgd(lr=0.01, momentum=0.9), batch_size=10, epochs=3)
    state = algorithm.init(start(of))
    broadcast = algorithm.broadcast(state)
    update = algorithm.client_update(of, broadcast, task())
    algorithm.aggregator.check(algorithm.aggregator.plan(broadcast), update)
    assert update.memory is not None
    assert np.abs(update.memory["0.weight"]).max() > 0
    assert not update.memory["1.running_mean"].any()
    assert np.abs(update.arrays["params/1.running_mean"]).max() > 0
    assert update.arrays["params/1.num_batches_tracked"] == 12


def test_threads_are_put_back_by_the_last_of_two_who_set_them() -> None:
    """Whoever is done first is not whoever began first."""
    setup = TorchTrainer(linear, nn.functional.cross_entropy, sgd())._setup
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        first, second = setup.on_threads(), setup.on_threads()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert torch.get_num_threads() == 1
        second.__exit__(None, None, None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
