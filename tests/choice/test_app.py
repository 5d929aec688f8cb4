"""What a user's functions may be, what they may return, and what an app is told when they are not that."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import hansa
from hansa.arrays import Arrays
from hansa.errors import AppError, ArraysMismatchError
from hansa.messages import ClientInfo, Metrics, ServerTask, Task, Update
from hansa.training.numpy import NumpyTrainer, softmax_regression

TRAINER = NumpyTrainer(softmax_regression(2, 2), learning_rate=0.1)


def task(data: Any = None, name: str = "client-0") -> Task:
    return Task(ClientInfo(name), round=1, rng=np.random.default_rng(0), data=data)


def trained(model: dict[str, Any], result: object) -> Update:
    """What becomes of a result of `@app.train`."""
    app = hansa.App()
    app.train(lambda _model, _task: result)
    return app.trainer.fit(Arrays(model), task())


# ── decorators ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_decorated_function_stays_what_it_was() -> None:
    def train(model: Arrays, _task: Task) -> Update:
        return Update(model, 1)

    assert hansa.App().train(train) is train


@pytest.mark.parametrize("role", ["model", "data", "train", "evaluate", "central_evaluate"])
def test_two_functions_for_one_role_are_refused_by_both_their_names(role: str) -> None:
    def first(*_: Any) -> None: ...
    def second(*_: Any) -> None: ...

    app = hansa.App()
    decorate = getattr(app, role)
    decorate(first)
    with pytest.raises(AppError, match=rf"@app\.{role} is given twice: .*first and .*second"):
        decorate(second)


@pytest.mark.parametrize(
    ("role", "function", "said"),
    [
        ("model", lambda: 1, r"@app\.model decorates <lambda>\(\), which cannot be called with \(rng\)"),
        ("data", lambda: 1, r"write def <lambda>\(client\), and settings of the run after a \*"),
        ("train", lambda model: model, r"cannot be called with \(model, task\)"),
        ("evaluate", lambda _model, _task, x: x, r"cannot be called with \(model, task\)"),
        ("aggregate", lambda model, _: model, r"cannot be called with \(model, updates, task\)"),
    ],
)
def test_a_function_that_cannot_be_called_as_its_role_is_refused_where_it_is_decorated(
    role: str, function: Callable[..., Any], said: str
) -> None:
    with pytest.raises(AppError, match=said):
        getattr(hansa.App(), role)(function)


@pytest.mark.parametrize("trainer", [TRAINER, lambda _steps=1: TRAINER, None])
def test_only_what_may_look_settings_up_reads_them(trainer: Any) -> None:
    app = hansa.App(trainer)
    assert not app.reads_config
    app.predict(lambda _, task: task.config)
    assert app.reads_config


def test_a_trainer_of_the_apps_own_may_read_every_setting() -> None:
    class Own(NumpyTrainer):
        pass

    own = Own(softmax_regression(2, 2), learning_rate=0.1)
    assert hansa.App(own).reads_config
    assert hansa.App(lambda *, _steps=1: own).reads_config


def test_a_partial_function_may_be_decorated_and_is_refused_twice_as_any_other() -> None:
    app = hansa.App()
    app.train(partial(print, "a"))
    with pytest.raises(AppError, match=r"given twice: functools\.partial"):
        app.train(partial(print, "b"))


def test_a_cell_of_a_notebook_that_is_run_again_replaces_its_function() -> None:
    def of_cell(source: str) -> Callable[..., Any]:
        space: dict[str, Any] = {"__name__": "__main__", "hansa": hansa}
        exec(source, space)  # noqa: S102 - what a notebook does with a cell
        function: Callable[..., Any] = space["train"]
        return function

    app = hansa.App()
    app.train(of_cell("def train(model, task): return hansa.Update({'w': [1.0]}, 1)"))
    app.train(of_cell("def train(model, task): return hansa.Update({'w': [2.0]}, 1)"))
    assert app.trainer.fit(Arrays({"w": [0.0]}), task()).arrays["w"] == 2.0


def test_a_decorator_with_parentheses_around_no_function_is_refused() -> None:
    with pytest.raises(AppError, match=r"@app\.train decorates a function, without parentheses; it was given a dict"):
        hansa.App().train({"epochs": 3})  # type: ignore[type-var]


def test_a_trainer_and_a_train_function_exclude_each_other() -> None:
    with pytest.raises(AppError, match=r"was given a trainer.*drop either"):
        hansa.App(TRAINER).train(lambda model, _: Update(model, 1))


@pytest.mark.parametrize("wrong", [NumpyTrainer, softmax_regression(2, 2), "torch"])
def test_what_is_no_trainer_is_refused_when_the_app_is_made(wrong: Any) -> None:
    with pytest.raises(AppError, match=r"takes a trainer, not "):
        hansa.App(wrong)


@pytest.mark.parametrize(
    ("role", "call"),
    [
        ("model", lambda app: app.trainer.initial_model(np.random.default_rng(0))),
        ("train", lambda app: app.trainer.fit(Arrays({}), task())),
        ("train", lambda app: app.check()),
        ("evaluate", lambda app: app.trainer.evaluate(Arrays({}), task())),
        ("central_evaluate", lambda app: app.evaluate_centrally(Arrays({}), np.random.default_rng(0))),
    ],
)
def test_a_function_that_is_missing_is_named_where_it_is_needed(role: str, call: Callable[[hansa.App], object]) -> None:
    with pytest.raises(AppError, match=rf"no {role} function: decorate one with @app\.{role}"):
        call(hansa.App())


def test_an_app_with_a_trainer_or_with_a_train_function_can_be_run() -> None:
    hansa.App(TRAINER).check()
    app = hansa.App()
    app.train(print)
    app.check()


# ── the initial model ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_function_takes_the_place_of_the_trainers_model() -> None:
    app = hansa.App(TRAINER)
    assert list(app.trainer.initial_model(np.random.default_rng(0))) == ["weight", "bias"]
    app.model(lambda rng: {"weight": rng.normal(size=(2, 2)), "bias": [0.0, 0.0]})
    model = app.trainer.initial_model(np.random.default_rng(0))
    assert model["weight"][0, 0] == np.random.default_rng(0).normal(size=(2, 2))[0, 0]


def test_a_model_function_that_returns_nothing_is_told_what_to_return() -> None:
    app = hansa.App()
    app.model(lambda _: None)
    with pytest.raises(AppError, match=r"the model is nothing.*give a mapping of name to array"):
        app.trainer.initial_model(np.random.default_rng(0))


# ── what train returns ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("result", "kind"), [(None, "nothing"), ({"w": 1}, "a dict"), (Metrics({}, 1), "a Metrics")])
def test_train_must_return_an_update(result: object, kind: str) -> None:
    with pytest.raises(AppError, match=rf"train\(\) returned {kind}; return hansa\.Update\(new_model"):
        trained({"w": [0.0]}, result)


def test_the_tensors_come_in_the_models_order_whatever_order_train_gave_them_in() -> None:
    update = trained({"b": [0.0], "a": [0.0]}, Update({"a": [1.0], "b": [2.0]}, 5, {"loss": 0.5}))
    assert list(update.arrays) == ["b", "a"]
    assert (update.num_examples, dict(update.metrics)) == (5, {"loss": 0.5})


def test_a_trainer_that_was_handed_over_may_also_return_another_order() -> None:
    class Reversing(NumpyTrainer):
        def fit(self, model: Arrays, task: Task) -> Update:
            del task
            return Update({name: model[name] + 1.0 for name in reversed(list(model))}, 1)

    app = hansa.App(Reversing(softmax_regression(2, 2), learning_rate=0.1))
    model = app.trainer.initial_model(np.random.default_rng(0))
    update = app.trainer.fit(model, task())
    assert list(update.arrays) == ["weight", "bias"]
    assert {array.dtype for array in update.arrays.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        (np.float64([0.1, 1 / 3]), "float32", np.float32([0.1, 1 / 3])),
        (np.float32([0.1]), "float64", np.float64([np.float32(0.1)])),
        (np.float64([0.1]), "float16", np.float16([0.1])),
        (np.float16([0.5]), "bfloat16", np.float32([0.5])),
        (np.int64([3]), "float32", np.float32([3])),
        (np.bool_([True]), "float32", np.float32([1])),
        (np.bool_([True]), "int64", np.int64([1])),
        (np.int64([200]), "uint8", np.uint8([200])),
        (np.uint8([200]), "int64", np.int64([200])),
    ],
)
def test_numbers_come_in_the_models_dtype(given: np.ndarray, dtype: str, expected: np.ndarray) -> None:
    from ml_dtypes import bfloat16  # noqa: PLC0415 - gives numpy the name

    model = np.zeros(given.shape, bfloat16 if dtype == "bfloat16" else dtype)
    array = trained({"w": model}, Update({"w": given}, 1)).arrays["w"]
    assert array.dtype == model.dtype
    assert array.astype(expected.dtype).tolist() == expected.tolist()


@pytest.mark.parametrize(("given", "dtype"), [(1.5, "int64"), (np.float32(1), "int8"), (1.0, "bool"), (1, "bool")])
def test_a_number_of_another_kind_is_refused_with_its_name_and_both_dtypes(given: float, dtype: str) -> None:
    with pytest.raises(ArraysMismatchError, match=rf"returned 'steps' as \w+, but the model has {dtype}: convert it"):
        trained({"w": [0.0], "steps": np.zeros((), dtype)}, Update({"w": [0.0], "steps": given}, 1))


@pytest.mark.parametrize(("given", "dtype"), [(2**31, "int32"), (-1, "uint8"), (-1, "uint64"), (2**63, "int64")])
def test_a_whole_number_that_the_models_dtype_cannot_hold_is_refused_and_never_wraps(given: int, dtype: str) -> None:
    with pytest.raises(ArraysMismatchError, match=rf"'steps' with numbers that {dtype}, the model's dtype, cannot"):
        trained({"steps": np.zeros((), dtype)}, Update({"steps": given}, 1))


def test_a_float_beyond_the_models_range_becomes_infinite_for_the_aggregator_to_name() -> None:
    assert trained({"w": np.zeros(1, np.float32)}, Update({"w": [1e300]}, 1)).arrays["w"] == np.inf


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"w": [0.0, 0.0, 0.0], "b": [0.0]}, r"what train\(\) returned has the shape \(3,\) for 'w'.*has \(2,\)"),
        ({"w": [0.0, 0.0]}, r"what train\(\) returned lacks \['b'\]"),
        ({"w": [0.0, 0.0], "b": [0.0], "c": [0.0]}, r"what train\(\) returned has the unknown \['c'\]"),
        ({"w": [0.0, 0.0], "beta": [0.0]}, r"lacks \['b'\] and has the unknown \['beta'\]"),
    ],
)
def test_a_wrong_structure_is_refused_by_name(result: dict[str, Any], said: str) -> None:
    with pytest.raises(ArraysMismatchError, match=said):
        trained({"w": [0.0, 0.0], "b": [0.0]}, Update(result, 1))


def test_gradients_of_a_train_function_are_refused_with_the_way_out() -> None:
    app = hansa.App()
    app.train(print)
    with pytest.raises(AppError, match=r"needs gradients.*hansa\.App\(trainer="):
        app.trainer.gradient(Arrays({}), task())


# ── evaluation ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("result", [None, 0.9, {"accuracy": 0.9}])
def test_evaluations_must_return_metrics(result: object) -> None:
    app = hansa.App()
    app.evaluate(lambda _model, _task: result)
    app.central_evaluate(lambda _model, _rng: result)
    with pytest.raises(AppError, match=r"^evaluate\(\) returned .*; return hansa\.Metrics"):
        app.trainer.evaluate(Arrays({}), task())
    with pytest.raises(AppError, match=r"^central_evaluate\(\) returned .*; return hansa\.Metrics"):
        app.evaluate_centrally(Arrays({}), np.random.default_rng(0))


def deep() -> list[Any]:
    """A list in a list in a list …, more than any reader follows."""
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("setting", "said"),
    [(float("nan"), "not JSON compliant"), (object(), "a object is none of them"), (deep(), "recursion")],
    ids=["NaN", "an object", "deep"],
)
def test_settings_that_cannot_be_sent_are_refused_as_the_apps_error(setting: object, said: str) -> None:
    app = hansa.App()
    app.configure(lambda _model, _task: {"rate": setting})
    with pytest.raises(AppError, match=r"^configure\(\) returned a setting that cannot be sent: ") as refused:
        app.configured(Arrays({}), ServerTask(1, np.random.default_rng(0)))
    assert said in str(refused.value)


def test_who_can_evaluate_is_known_from_what_is_there() -> None:
    app = hansa.App()
    assert (app.can_evaluate, app.can_evaluate_centrally) == (False, False)
    app.evaluate(lambda _model, _task: Metrics({}, 1))
    app.central_evaluate(lambda _model, _rng: Metrics({"seen": 1.0}, 1))
    assert (app.can_evaluate, app.can_evaluate_centrally) == (True, True)
    assert hansa.App(TRAINER).can_evaluate
    assert app.evaluate_centrally(Arrays({}), np.random.default_rng(0)) == Metrics({"seen": 1.0}, 1)


def test_an_evaluate_function_takes_the_place_of_the_trainers_evaluation() -> None:
    app = hansa.App(TRAINER)
    app.evaluate(lambda _model, given: Metrics({"seen": given.data}, 1))
    assert app.trainer.evaluate(Arrays({}), task(data=4)).values == {"seen": 4.0}


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_data_are_loaded_once_per_client() -> None:
    asked: list[str] = []
    app = hansa.App()
    app.data(lambda client: asked.append(client.name) or len(asked))
    assert [app.load_data(ClientInfo(name)) for name in ("a", "b", "a", "b")] == [1, 2, 1, 2]
    assert asked == ["a", "b"]


def test_without_a_data_function_there_are_no_data() -> None:
    assert hansa.App().load_data(ClientInfo("a")) is None


def test_the_data_of_512_clients_stay_in_memory_and_the_least_recently_used_go() -> None:
    asked: list[int] = []
    app = hansa.App()
    app.data(lambda client: asked.append(client.index) or client.index)

    def load(index: int) -> None:
        assert app.load_data(ClientInfo(f"client-{index}", index)) == index

    for index in range(512):
        load(index)
    load(0)  # now client 1 is the least recently used
    load(512)
    assert len(app._data) == 512
    asked.clear()
    for index in (0, 2, 511, 512):
        load(index)
    assert asked == []
    load(1)
    assert asked == [1]


def test_data_that_cannot_be_loaded_are_asked_for_again() -> None:
    app = hansa.App()
    answers = iter([OSError("the disk is not mounted"), "data"])

    @app.data
    def load(_: ClientInfo) -> str:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    with pytest.raises(OSError, match="not mounted"):
        app.load_data(ClientInfo("a"))
    assert app.load_data(ClientInfo("a")) == "data"
