"""Settings of a run reach an app's functions by the names of their parameters after `*`."""

from typing import Any

import numpy as np
import pytest

import hansa
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError
from hansa.messages import ClientInfo, Metrics, Task, Update
from hansa.run import resolve
from hansa.training.numpy import NumpyTrainer, softmax_regression
from hansa.training.settings import settings_of


def local(learning_rate: float = 0.1, steps: int = 1) -> NumpyTrainer:
    return NumpyTrainer(softmax_regression(2, 2), learning_rate, steps=steps)


def task(config: dict[str, Any]) -> Task:
    data = (np.array([[1.0, 2.0]], np.float32), np.array([1]))
    return Task(ClientInfo("a"), 1, np.random.default_rng(0), data=data, config=config)


def test_a_trainer_is_made_of_the_settings_of_each_task() -> None:
    app = hansa.App(local)
    model = app.trainer.initial_model(np.random.default_rng(0))
    moved = [app.trainer.fit(model, task(config)).arrays["bias"][1] for config in ({}, {"learning_rate": 0.2})]
    assert moved[1] == pytest.approx(2 * moved[0])  # one step from zeros is proportional to the rate


def test_one_trainer_serves_all_tasks_with_its_settings() -> None:
    app = hansa.App(local)
    assert app.given_trainer({"steps": 3}) is app.given_trainer({"steps": 3, "of_another": 1})
    assert app.given_trainer({"steps": 3}) is not app.given_trainer({})


def test_data_model_and_central_evaluation_take_settings_too() -> None:
    app = hansa.App()
    app.model(lambda _, *, width=2: {"w": np.zeros(width)})
    app.data(lambda client, *, scale=1: client.index * scale)
    app.train(lambda model, _: Update(model, 1))
    app.central_evaluate(lambda model, _, *, offset=0.0: Metrics({"m": offset + len(model["w"])}, 1))
    run = resolve(hansa.RunSpec(config={"width": 3, "scale": 10, "offset": 0.5}))
    model = run.initial_model(app)
    assert model["w"].shape == (3,)
    assert app.load_data(ClientInfo("a", 2), {"scale": 10}) == 20
    assert app.load_data(ClientInfo("a", 2)) == 2  # not what was remembered for other settings
    assert run.central_metrics(app, model, 1).values == {"m": 3.5}
    assert app.settings == {"width": 2, "scale": 1, "offset": 0.0}


def test_a_text_in_the_place_of_a_number_is_refused_by_the_settings_name() -> None:
    said = "the setting 'learning_rate' of local is 'abc'; it is a number, by default 0.1"
    with pytest.raises(AppError, match=said):
        hansa.App(local).given_trainer({"learning_rate": "abc"})
    assert hansa.App(local).given_trainer({"learning_rate": 1, "steps": 2}) is not None


def test_a_simulation_refuses_a_setting_that_nothing_of_the_app_reads() -> None:
    app, x = hansa.App(local), np.eye(2, dtype=np.float32)
    app.data(lambda _, *, scale=1: (scale * x, np.arange(2)))
    with pytest.raises(
        ConfigError, match=r"no setting 'rate', and nothing else .*; its settings: learning_rate, steps, sc"
    ):
        hansa.simulate(app, clients=1, rounds=1, config={"rate": 1})
    read = {"learning_rate": 0.2, "scale": 2}
    hansa.simulate(app, clients=1, rounds=1, config=read)
    app.evaluate(lambda _model, task: Metrics({"rate": task.config.get("rate", 0)}, 1))
    result = hansa.simulate(app, clients=1, rounds=1, config=read | {"rate": 1})
    assert result.rounds[-1].evaluation == {"rate": 1}


def test_a_parameter_before_the_star_is_no_setting() -> None:
    app = hansa.App()
    app.data(lambda _, kept=7: kept)
    assert app.load_data(ClientInfo("a"), {"kept": 8}) == 7


def test_a_setting_without_a_default_is_refused_by_name() -> None:
    with pytest.raises(AppError, match=r"the setting 'alpha' of .* has no default"):
        settings_of(lambda _, *, alpha: alpha)  # type: ignore[misc]


def test_a_function_that_makes_no_trainer_is_told() -> None:
    app = hansa.App(lambda: "a trainer")  # type: ignore[arg-type,return-value]
    with pytest.raises(AppError, match="for a trainer returned"):
        app.trainer.evaluate(Arrays({}), task({}))
