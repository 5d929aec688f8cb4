"""JAX training against the steps of numpy models, clients together against each alone, and what cannot be filled up."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import slow

from hansa.arrays import Array, Arrays
from hansa.errors import AppError, ArraysMismatchError, ConfigError, InputError
from hansa.messages import ClientInfo, Contrast, GradientCorrection, Task, Update
from hansa.training.numpy import NumpyTrainer, softmax_regression

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402 - needs jax
import optax  # noqa: E402 - the same

from hansa.training.jax import JaxTrainer  # noqa: E402 - the same
from hansa.training.jax_stacks import JaxStacks  # noqa: E402 - the same

SIZES = (23, 5, 64, 8, 1, 40, 20, 7)
"""Examples of each client: more, fewer and exactly as many as a batch."""

TOLERANCE = 1e-5
"""Of a value of the model, absolutely and relatively: what rounding in another order may move it in a few steps."""


def init(key: Any) -> Any:
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(first, (6, 9)) / 3, "bias": jnp.zeros(9)},
        "out": {"kernel": jax.random.normal(second, (9, 3)) / 3, "bias": jnp.zeros(3)},
    }


def mlp(params: Any, x: Any) -> Any:
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def with_dropout(params: Any, x: Any, rng: Any = None) -> Any:
    if rng is not None:
        x = jnp.where(jax.random.bernoulli(rng, 0.7, x.shape), x, 0)
    return mlp(params, x)


def cross_entropy(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def examples(client: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(client)
    x = rng.standard_normal((SIZES[client], 6)).astype(np.float32)
    return x, (x[:, :3] + 0.3 * rng.standard_normal((SIZES[client], 3))).argmax(1)


def trainer(apply: Any = mlp, optimizer: Any = None, loss: Any = cross_entropy, **more: Any) -> JaxTrainer:
    more = {"batch_size": 8, "epochs": 2} | more
    return JaxTrainer(more.pop("init", init), apply, loss, optimizer or optax.sgd(0.1, momentum=0.9), **more)


SHARED = trainer()
"""Compiled once for all tests that ask for nothing else."""


def task(client: int, correction: GradientCorrection | None = None, data: Any = None, **more: Any) -> Task:
    rng = np.random.default_rng([7, client])
    given = examples(client) if data is None else data
    return Task(ClientInfo(f"client-{client}"), 1, rng, given, **more).corrected_by(correction)


def model(of: JaxTrainer = SHARED, seed: int = 3) -> Arrays:
    return of.initial_model(np.random.default_rng(seed))


def stacks(of: JaxTrainer = SHARED, correction: GradientCorrection | None = None) -> JaxStacks:
    found = of.vectorized(model(of), task(0, correction))
    assert isinstance(found, JaxStacks), found
    return found


def assert_alike(together: Sequence[Update], alone: Sequence[Update]) -> None:
    for mine, theirs in zip(together, alone, strict=True):
        assert list(mine.arrays) == list(theirs.arrays)
        for name, array in theirs.arrays.items():
            assert mine.arrays[name].dtype == array.dtype
            np.testing.assert_allclose(mine.arrays[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
        assert mine.num_examples == theirs.num_examples
        assert mine.metrics == pytest.approx(theirs.metrics, rel=1e-4)
        assert mine.step_sum == theirs.step_sum


# ── steps and gradients ──────────────────────────────────────────────────────────────────────────────────────────────


def regression(optimizer: Any, **more: Any) -> JaxTrainer:
    def zeros(_: Any) -> Any:
        return {"weight": jnp.zeros((6, 3)), "bias": jnp.zeros(3)}

    return trainer(lambda params, x: x @ params["weight"] + params["bias"], optimizer, init=zeros, **more)


START = Arrays(
    {
        "weight": np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32),
        "bias": np.array([0.1, -0.2, 0.3], np.float32),
    }
)
OFFSET = Arrays({name: np.full(array.shape, 0.05, np.float32) for name, array in START.items()})


@pytest.mark.parametrize(
    "correction",
    [
        None,
        GradientCorrection(proximal=0.5, offset=OFFSET, anchored=True),
        slow(GradientCorrection(offset=OFFSET, frozen=frozenset({"bias"}))),
        GradientCorrection(sharpness=0.7, proximal=0.5, frozen=frozenset({"bias"})),
    ],
    ids=["plain", "corrected", "frozen", "uphill"],
)
def test_corrected_steps_are_those_of_numpy(correction: GradientCorrection | None) -> None:
    """Momentum and weight decay too, and a last batch that is smaller."""
    theirs = NumpyTrainer(softmax_regression(6, 3), 0.1, 8, 2, momentum=0.5, weight_decay=0.01)
    mine = regression(optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.5)))
    expected, found = theirs.fit(START, task(0, correction)), mine.fit(START, task(0, correction))
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)
    assert isinstance(found.step_sum, Mapping)
    trained = {name for name in START if correction is None or name not in correction.frozen}
    assert found.step_sum == pytest.approx(dict.fromkeys(trained, expected.step_sum), rel=1e-5)


def test_gradients_and_evaluations_are_those_of_numpy() -> None:
    theirs, mine = NumpyTrainer(softmax_regression(6, 3), 0.1), regression(optax.sgd(0.1), evaluation_batch_size=32)
    expected, found = theirs.gradient(START, task(5)), mine.gradient(START, task(5))
    for name, array in expected.arrays.items():
        np.testing.assert_allclose(found.arrays[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)
    assert mine.evaluate(START, task(5)).values == pytest.approx(theirs.evaluate(START, task(5)).values, rel=1e-5)


def test_random_numbers_are_drawn_alike_by_a_client_alone_and_with_others() -> None:
    mine, theirs = task(2), task(2)
    stacks().fit([model()], [mine])
    SHARED.fit(model(), theirs)
    assert mine.rng.random() == theirs.rng.random()


def test_the_model_received_stays_as_it_is_and_the_seed_alone_decides_it() -> None:
    start = model()
    before = {name: array.copy() for name, array in start.items()}
    first = SHARED.fit(start, task(2)).arrays
    assert SHARED.fit(start, task(2)).arrays == first
    assert start == Arrays(before) == model()
    assert model(seed=4) != start


def test_leaves_are_named_by_their_paths_and_other_numbers_stay() -> None:
    def counted(key: Any) -> Any:
        return [{"kernel": jax.random.normal(key, (6, 3))}, (jnp.arange(2), jnp.ones(3))]

    of = trainer(lambda p, x: x @ p[0]["kernel"] * p[1][1] + p[1][0].sum(), init=counted, batch_size=None)
    start = model(of)
    assert list(start) == ["0.kernel", "1.0", "1.1"]
    update = of.fit(start, task(3))
    assert update.arrays["1.0"].tolist() == [0, 1]
    assert set(update.step_sum) == {"0.kernel", "1.1"}
    gradient = of.gradient(start, task(3)).arrays
    assert (gradient["1.0"].dtype, gradient["1.0"].tolist()) == (np.int64, [0, 0])


def test_a_model_in_another_order_is_taken_by_its_names() -> None:
    start = model()
    turned = Arrays({name: start[name] for name in reversed(list(start))})
    update = SHARED.fit(turned, task(3))
    assert list(update.arrays) == list(turned)
    assert {name: update.arrays[name].tobytes() for name in start} == {
        name: array.tobytes() for name, array in SHARED.fit(start, task(3)).arrays.items()
    }
    with pytest.raises(ArraysMismatchError, match=r"lacks \['hidden.kernel'\]"):
        SHARED.fit(Arrays({name: array for name, array in start.items() if name != "hidden.kernel"}), task(3))


def test_bfloat16_stays_bfloat16() -> None:
    def half(key: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init(key))

    of = trainer(init=half, optimizer=optax.sgd(0.1))
    update = of.fit(model(of), task(0))
    assert {array.dtype for array in update.arrays.values()} == {np.dtype(ml_dtypes.bfloat16)}


OPTIMIZERS: dict[str, tuple[Callable[[], Any], bool]] = {
    "schedule": (lambda: optax.sgd(optax.linear_schedule(0.2, 0.1, 10)), True),
    "decay": (lambda: optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)), True),
    "adam": (lambda: optax.adam(0.01), False),
    "clipped": (lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), False),
    "lars": (lambda: optax.lars(0.1), False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_how_far_steps_go_is_known_of_optimizers_that_are_proportional(name: str) -> None:
    make, known = OPTIMIZERS[name]
    distances = regression(make())._work._distances
    found = distances.after(3, 0.0, frozenset())
    assert set(found) == {"weight", "bias"}
    assert all((distance > 0) == known for distance in found.values())
    if name == "schedule":  # 0.2 + 0.19 + 0.18
        assert found["bias"] == pytest.approx(0.57)
    if name == "decay":
        assert found["bias"] == pytest.approx(0.3)
        assert distances.after(3, 2.0, frozenset())["bias"] == pytest.approx((1 - 0.8**3) / 2)


# ── many clients at once ─────────────────────────────────────────────────────────────────────────────────────────────


def test_clients_together_take_the_steps_that_each_takes_alone() -> None:
    start = model()
    alone = [SHARED.fit(start, task(client)) for client in range(len(SIZES))]
    together = stacks().fit([start] * len(SIZES), [task(client) for client in range(len(SIZES))])
    assert_alike(together, alone)
    assert any(not np.array_equal(array, start[name]) for name, array in alone[0].arrays.items())


def test_each_client_has_its_own_model_its_own_correction_and_its_own_part_of_the_work() -> None:
    models = [model(seed=client) for client in range(len(SIZES))]

    def corrected(client: int) -> Task:
        rng = np.random.default_rng([9, client])
        offset = {name: 0.1 * rng.standard_normal(array.shape).astype(array.dtype) for name, array in models[0].items()}
        return task(client, GradientCorrection(proximal=0.5, offset=Arrays(offset)), work=(1.0, 0.4)[client % 2])

    of = trainer(optimizer=optax.adam(0.01))
    alone = [of.fit(each, corrected(client)) for client, each in enumerate(models)]
    assert_alike(stacks(of).fit(models, [corrected(client) for client in range(len(SIZES))]), alone)


def test_gradients_and_evaluations_together_are_those_of_each_alone() -> None:
    of, start, tasks = trainer(evaluation_batch_size=32), model(), range(len(SIZES))
    alone = [of.gradient(start, task(client)) for client in tasks]
    assert_alike(stacks(of).gradient([start] * len(SIZES), [task(client) for client in tasks]), alone)
    for client, mine in enumerate(stacks(of).evaluate(start, [task(client) for client in tasks])):
        theirs = of.evaluate(start, task(client))
        assert mine.num_examples == theirs.num_examples
        assert mine.values == pytest.approx(theirs.values, rel=1e-5)


@pytest.mark.parametrize("batch_size", [8, slow(None)])
def test_a_client_has_the_same_bits_in_any_stack(batch_size: int | None) -> None:
    of = SHARED if batch_size else trainer(batch_size=None, steps=3, epochs=None)
    start, together = model(of), stacks(of)

    def fit(clients: Sequence[int]) -> dict[int, Update]:
        return dict(zip(clients, together.fit([start] * len(clients), [task(c) for c in clients]), strict=True))

    every = fit(range(len(SIZES)))
    for some in ([7, 6, 5, 4, 3, 2, 1, 0], [0], [4], [5, 6], [2, 5], [1, 3, 7]):
        for client, update in fit(some).items():
            assert update.arrays == every[client].arrays, (client, some)
            assert update.metrics == every[client].metrics


def test_more_clients_than_rows_have_the_bits_of_fewer() -> None:
    start, together = model(), stacks()
    assert together.rows == 16
    clients = [client % len(SIZES) for client in range(40)]
    updates = together.fit([start] * 40, [task(client) for client in clients])
    for client, update in zip(clients, updates, strict=True):
        assert update.arrays == updates[clients.index(client)].arrays


def test_a_large_model_has_a_stack_of_its_own_whose_bits_are_those_of_a_client_alone() -> None:
    def wide(key: Any) -> Any:
        return {"hidden": {"kernel": jax.random.normal(key, (6, 40_000)) / 9, "bias": jnp.zeros(40_000)},
                "out": {"kernel": jnp.zeros((40_000, 3)), "bias": jnp.zeros(3)}}  # fmt: skip

    of = trainer(init=wide, epochs=1)
    start, together = model(of), stacks(of)
    assert together.rows == 1
    for client, update in enumerate(together.fit([start] * 2, [task(0), task(1)])):
        assert update.arrays == of.fit(start, task(client)).arrays


@pytest.mark.slow
def test_dropout_is_that_of_each_client_alone_and_none_in_evaluation() -> None:
    of, start = trainer(with_dropout), model()
    alone = [of.fit(start, task(client)) for client in range(3)]
    together = stacks(of).fit([start] * 3, [task(client) for client in range(3)])
    assert_alike(together, alone)
    assert together[0].arrays != SHARED.fit(start, task(0)).arrays
    assert of.evaluate(start, task(0)).values == pytest.approx(SHARED.evaluate(start, task(0)).values)


# ── what cannot be filled up ─────────────────────────────────────────────────────────────────────────────────────────


def centred(params: Any, x: Any) -> Any:
    return mlp(params, x - x.mean(0))


def without_ignored(logits: Any, labels: Any) -> Any:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.where(labels >= 0, losses, 0).sum() / jnp.maximum((labels >= 0).sum(), 1)


def of_twelve(key: Any) -> Any:
    """Classes, of more than there are made-up examples; no parameter is other than 0."""
    return jax.tree.map(
        lambda leaf: jnp.zeros((*leaf.shape[:-1], 12)), init(key)["out"] | {"kernel": jnp.zeros((6, 1))}
    )


def twelve(params: Any, x: Any) -> Any:
    return x @ params["kernel"] + params["bias"]


def weighted(logits: Any, labels: Any) -> Any:
    weights = jnp.where(labels == 11, 5.0, 1.0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (weights * losses).sum() / weights.sum()


def balanced(logits: Any, labels: Any) -> Any:
    shares = jax.nn.softmax(logits).mean(0)
    return cross_entropy(logits, labels) + 0.02 * (shares * jnp.log(shares)).sum()


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (trainer(centred), "the model mixes the examples of a batch"),
        (trainer(lambda p, x: mlp(p, x) - 0.005 * mlp(p, x).mean(0)), "the model mixes the examples of a batch"),
        (trainer(twelve, init=of_twelve, loss=weighted), "not the mean of the losses of its examples"),
        (trainer(loss=balanced), "not the mean of the losses of its examples"),
        (trainer(lambda p, x: mlp(p, x).sum(0), loss=lambda o, _: o.sum()), "does not have a row for each example"),
        (trainer(loss=lambda o, y: cross_entropy(o, y) * len(y)), "not the mean of the losses of its examples"),
        (trainer(loss=without_ignored), "not the mean of the losses of its examples"),
    ],
    ids=["mixes", "mixes-a-little", "weighted", "balanced", "no-rows", "sum", "ignores"],
)
def test_why_clients_cannot_train_together_is_said_in_words(of: JaxTrainer, why: str) -> None:
    found = of.vectorized(model(of), task(0))
    assert isinstance(found, str)
    assert why in found


@pytest.mark.slow
def test_a_batch_that_cannot_be_filled_up_is_trained_as_it_is() -> None:
    """One step on 7 examples in a batch of 8, which a filled batch would centre elsewhere."""
    of = trainer(centred, optax.sgd(0.1), epochs=1)
    start, (x, y) = model(), examples(7)
    params = of._work.setup.tree.params(start)
    slopes = of._work.setup.tree.arrays(jax.grad(lambda p: cross_entropy(centred(p, x), y))(params))
    after, gradient = of.fit(start, task(7)).arrays, of.gradient(start, task(7)).arrays
    for name, slope in slopes.items():
        np.testing.assert_allclose(after[name], start[name] - np.float32(0.1) * slope, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient[name], slope, rtol=1e-5, atol=1e-6)
    expected = float(cross_entropy(centred(params, x), y))
    assert of.evaluate(start, task(7)).values["loss"] == pytest.approx(expected, rel=1e-5)


def test_what_only_some_trainers_know_is_refused_in_words() -> None:
    contrast = GradientCorrection(contrast=Contrast(model(), 1.0, 0.5))
    with pytest.raises(AppError, match="JaxTrainer does not know"):
        SHARED.fit(model(), task(0, contrast))
    assert "representations" in str(SHARED.vectorized(model(), task(0, contrast)))


@pytest.mark.parametrize("kind", [np.float32, slow(np.int64)])
def test_a_loss_that_takes_each_output_with_every_target_is_refused(kind: Any) -> None:
    def one(params: Any, x: Any) -> Any:
        return mlp(params, x)[:, :1]

    def pairs(outputs: Any, targets: Any) -> Any:
        return jnp.mean((outputs - targets) ** 2)

    data = examples(0)[0], examples(0)[1].astype(kind)
    with pytest.raises(AppError, match=r"takes each output with every target: .* for example outputs\[\.\.\., 0\]"):
        trainer(one, loss=pairs).fit(model(), task(0, data=data))
    column = data[0], data[1][:, None]
    alike = trainer(one, loss=pairs).fit(model(), task(0, data=column))
    squeezed = trainer(one, loss=lambda o, t: pairs(o[:, 0], t)).fit(model(), task(0, data=data))
    assert alike.metrics["loss"] == pytest.approx(squeezed.metrics["loss"])
    flat = trainer(lambda params, x: mlp(params, x)[:, 0], loss=pairs)
    with pytest.raises(AppError, match=r"takes each output with every target: .* for example y\[\.\.\., 0\]"):
        flat.fit(model(), task(0, data=column))
    assert flat.fit(model(), task(0, data=data)).metrics == squeezed.metrics


def test_an_error_of_the_users_function_passes_through() -> None:
    wrong = np.zeros((4, 5), np.float32), np.zeros(4, np.int64)
    with pytest.raises(TypeError, match="dot_general"):
        SHARED.fit(model(), task(0, data=wrong))
    with pytest.raises(InputError, match="no examples"):
        SHARED.fit(model(), task(0, data=(np.zeros((0, 6), np.float32), np.zeros(0, np.int64))))


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(AppError, match="loss is 'mse'"):
        JaxTrainer(init, mlp, "mse", optax.sgd(0.1))  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(AppError, match="give one of optax"):
        JaxTrainer(init, mlp, cross_entropy, 0.1)  # type: ignore[arg-type]  # the same
    with pytest.raises(ConfigError, match="threads is 4"):
        trainer(threads=4)
    with pytest.raises(AppError, match="init makes no array"):
        model(trainer(init=lambda _: {}))
    with pytest.raises(AppError, match="two of init's arrays have one name"):
        model(trainer(init=lambda _: {"a.b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}))
    with pytest.raises(AppError, match="init makes no pytree of arrays"):
        model(trainer(init=lambda _: {"act": jnp.tanh}))


def test_progress_is_told_when_a_block_is_done() -> None:
    told: list[tuple[float, float]] = []
    SHARED.fit(model(), task(2, progress=lambda done, planned: told.append((done, planned))))
    assert told == [(step, 16) for step in range(1, 17)]
