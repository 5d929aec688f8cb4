"""Training by commands, with real programs in another process."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hansa.arrays import Arrays
from hansa.errors import AppError, UserCodeError
from hansa.messages import ClientInfo, GradientCorrection, Log, Sample, Task
from hansa.training.command import CommandTrainer, from_toml, read_toml

PROGRAM = """
import json, sys
import numpy as np
from safetensors.numpy import load_file, save_file

match sys.argv[1:]:
    case ["init", out, seed]:
        save_file({"w": np.full(2, float(seed) % 7)}, out)
    case ["train", source, out, metrics, config, *rest]:
        said = json.load(open(config))
        print("client", said["client"], "round", said["round"])
        print("progress 1 2", flush=True)
        print("metric loss 0.25", "metric lr 1e-3 40", "metric of what", "metric a 1 b", sep="\\n", flush=True)
        save_file({"w": load_file(source)["w"] + said["config"].get("step", 1)}, out)
        json.dump({"num_examples": 3, "loss": 0.5, "seed": said["seed"], "rest": len(rest)}, open(metrics, "w"))
        if rest:
            open(rest[0], "w").write("\\n".join(rest[1:]))
    case ["predict", source, out]:
        open(out, "w").write(json.dumps({"w": load_file(source)["w"].tolist()}) if "odd" not in source else "no json")
    case ["evaluate", source, metrics]:
        json.dump({"num_examples": 4, "mean": float(load_file(source)["w"].mean())}, open(metrics, "w"))
"""

PYTHON = json.dumps(sys.executable)
TOML = f"""
name = "test"
init = [{PYTHON}, "program.py", "init", "{{model_out}}", "{{seed}}"]
train = [{PYTHON}, "program.py", "train", "{{model_in}}", "{{model_out}}", "{{metrics_out}}", "{{config}}"]
evaluate = [{PYTHON}, "program.py", "evaluate", "{{model_in}}", "{{metrics_out}}"]
"""

PREDICT = f'predict = [{PYTHON}, "program.py", "predict", "{{model_in}}", "{{prediction_out}}"]\n'

COMMANDS = 'init = "x {model_out}"\ntrain = "x {model_in} {model_out} {metrics_out}"\n'
MODEL = Arrays({"w": np.array([1.0, 2.0])})


def app(folder: Path, toml: str = TOML, program: str = PROGRAM) -> CommandTrainer:
    (folder / "hansa.toml").write_text(toml)
    (folder / "program.py").write_text(program)
    return from_toml(
        folder / "hansa.toml",
        save=lambda arrays, path: save_file(dict(arrays), path),
        load=lambda path: Arrays(load_file(path)),
    )


def task(correction: GradientCorrection | None = None, **more: Any) -> Task:
    client = ClientInfo("client-3", 3, 10, {"data": "/a b/c"})
    return Task(client, 2, np.random.default_rng(0), **more).corrected_by(correction)


def failing(folder: Path, program: str) -> str:
    with pytest.raises(UserCodeError) as caught:
        app(folder, program=program).fit(MODEL, task())
    return str(caught.value)


def test_a_program_initialises_trains_and_evaluates(tmp_path: Path) -> None:
    trainer = app(tmp_path)
    model = trainer.initial_model(np.random.default_rng(1))
    assert model == trainer.initial_model(np.random.default_rng(1))
    update = trainer.fit(model, task(config={"step": 2.5}))
    assert update.arrays["w"].tolist() == (model["w"] + 2.5).tolist()
    assert (update.num_examples, update.metrics["loss"]) == (3, 0.5)
    metrics = trainer.evaluate(update.arrays, task())
    assert (dict(metrics.values), metrics.num_examples) == ({"mean": model["w"][0] + 2.5}, 4)


def test_the_same_task_has_the_same_seed(tmp_path: Path) -> None:
    trainer = app(tmp_path)
    seeds = {trainer.fit(MODEL, task()).metrics["seed"] for _ in range(2)}
    assert len(seeds) == 1
    assert 0 <= seeds.pop() < 2**31


def test_placeholders_are_filled_and_arguments_stay_whole(tmp_path: Path) -> None:
    words = "{client} {index}/{total} {round} {work} {settings.data} '$(touch hacked); *' '{\"json\": 1}'"
    program = f"{sys.executable} program.py train {{model_in}} {{model_out}} {{metrics_out}} {{config}}"
    split = f'train = """{program} out {words}"""'
    trainer = app(tmp_path, "\n".join(split if line.startswith("train") else line for line in TOML.splitlines()))
    trainer.fit(MODEL, task(work=0.5))
    assert (tmp_path / "out").read_text().splitlines() == [
        "client-3",
        "3/10",
        "2",
        "0.5",
        "/a b/c",
        "$(touch hacked); *",
        '{"json": 1}',
    ]
    assert not (tmp_path / "hacked").exists()


def test_lines_are_passed_on_and_count_as_progress(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[float, float]] = []
    logged: list[Sample] = []
    given = task(progress=lambda done, total: told.append((done, total)), log=Log(logged.append))
    app(tmp_path).fit(MODEL, given)
    assert told == [(0, 1), *[(1, 2)] * 5]
    assert logged == [Sample("loss", 0.25, 1), Sample("lr", 0.001, 40)]
    assert capfd.readouterr().out == "client client-3 round 2\nmetric of what\nmetric a 1 b\n"


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    trainer = app(tmp_path)
    trainer.initial_model(np.random.default_rng(1))
    trainer.fit(MODEL, task())
    trainer.evaluate(MODEL, task())
    failing(tmp_path, "raise SystemExit(1)")
    assert list(temporary.iterdir()) == []


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(
        UserCodeError, match="client-3: the train command exited with 1: ValueError: no such digit"
    ) as caught:
        app(tmp_path, program="raise ValueError('no such digit')").fit(MODEL, task())
    assert "Traceback" in caught.value.traceback


def test_of_a_long_complaint_the_end_is_kept(tmp_path: Path) -> None:
    program = "import sys; sys.stderr.write('x' * 10**6 + '\\nthe end'); sys.exit(3)"
    with pytest.raises(UserCodeError, match="exited with 3: the end") as caught:
        app(tmp_path, program=program).fit(MODEL, task())
    assert len(caught.value.traceback) <= 8192


def test_a_program_that_a_signal_ended_says_which(tmp_path: Path) -> None:
    assert "was ended by SIGABRT" in failing(tmp_path, "import os; os.abort()")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "it wrote no file"),
        ("{", "not JSON"),
        ("[1]", r"it wrote \[1\]"),
        ('{"num_examples": 3, "loss": "low"}', "it wrote"),
        ('{"loss": 1}', "num_examples is missing"),
        ('{"num_examples": 1.5}', "no whole number"),
    ],
)
def test_metrics_that_are_no_numbers_are_refused(tmp_path: Path, written: str | None, said: str) -> None:
    program = "pass" if written is None else f"import sys; open(sys.argv[4], 'w').write({written!r})"
    with pytest.raises(UserCodeError, match=rf"client-3: train must write .*num_examples.*; .*{said}"):
        app(tmp_path, program=program).fit(MODEL, task())


def test_a_program_that_writes_no_model_is_told(tmp_path: Path) -> None:
    program = "import sys; open(sys.argv[4], 'w').write('{\"num_examples\": 1}')"
    assert "what train wrote to {model_out} for client-3: there is no such file" in failing(tmp_path, program)


def test_a_program_is_ended_when_its_task_is(tmp_path: Path) -> None:
    """The task is abandoned at its first line; without the end of the program this test would time out."""
    program = "import threading; print('forever', flush=True); threading.Event().wait()"

    def stop(_done: float, _total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app(tmp_path, program=program).fit(MODEL, task(progress=stop))


def test_build_runs_once_and_first(tmp_path: Path) -> None:
    build = f'build = [{PYTHON}, \'-c\', \'open("built", "a").write("x")\']'
    trainer = app(tmp_path, TOML + build)
    trainer.fit(MODEL, task())
    trainer.fit(MODEL, task())
    assert (tmp_path / "built").read_text() == "x"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    toml = TOML.replace(PYTHON, '"./absent"')
    with pytest.raises(AppError, match=r"cannot be started: \./absent: No such file"):
        app(tmp_path, toml).fit(MODEL, task())


def test_a_setting_that_the_client_lacks_is_named(tmp_path: Path) -> None:
    toml = TOML.replace('"{config}"]', '"{config}", "{settings.path}"]')
    with pytest.raises(AppError, match="client-3 has no setting 'path'"):
        app(tmp_path, toml).fit(MODEL, task())


def test_the_apps_own_settings_hold_where_the_owner_sets_nothing_else(tmp_path: Path) -> None:
    toml = TOML.replace('"{config}"]', '"{config}", "out", "{settings.data}", "{settings.path}"]')
    app(tmp_path, toml + '[settings]\ndata = "x"\npath = "y"').fit(MODEL, task())
    assert (tmp_path / "out").read_text().splitlines() == ["/a b/c", "y"]


def test_the_interpreter_that_runs_hansa_can_run_a_program(tmp_path: Path) -> None:
    trainer = app(tmp_path, TOML.replace(PYTHON, '"{python}"'))
    assert trainer.evaluate(MODEL, task()).values == {"mean": 1.5}


def test_an_app_without_an_evaluate_command_says_so(tmp_path: Path) -> None:
    assert app(tmp_path).can_evaluate
    trainer = app(tmp_path, "\n".join(line for line in TOML.splitlines() if not line.startswith("evaluate")))
    assert not trainer.can_evaluate
    with pytest.raises(AppError, match="no evaluate command"):
        trainer.evaluate(MODEL, task())


def test_a_model_file_serves_as_the_initial_model(tmp_path: Path) -> None:
    toml = "\n".join(line for line in TOML.splitlines() if not line.startswith("init")) + '\nmodel = "seed.safetensors"'
    with pytest.raises(AppError, match="no model file"):
        app(tmp_path, toml)
    save_file(dict(MODEL), tmp_path / "seed.safetensors")
    assert app(tmp_path, toml).initial_model(np.random.default_rng(0)) == MODEL


def test_corrections_reach_a_program_that_takes_them_and_no_other(tmp_path: Path) -> None:
    mu, offset = GradientCorrection(proximal=0.25), GradientCorrection(offset=MODEL)
    plain = app(tmp_path)
    for correction, placeholder in ((mu, "{proximal}"), (offset, "{offset}")):
        with pytest.raises(AppError, match=placeholder):
            plain.fit(MODEL, task(correction))
    with pytest.raises(AppError, match="gradients"):
        plain.gradient(MODEL, task())
    for correction in (
        GradientCorrection(anchored=True),
        GradientCorrection(frozen=frozenset(MODEL)),
        GradientCorrection(sharpness=0.1),
    ):
        with pytest.raises(AppError, match="gradients"):
            plain.fit(MODEL, task(correction))
    taking = app(tmp_path, TOML.replace('"{config}"]', '"{config}", "out", "{proximal}", "{offset}"]'))
    taking.fit(MODEL, task(mu))
    assert (tmp_path / "out").read_text().splitlines() == ["0.25"]
    taking.fit(MODEL, task(offset))
    assert (tmp_path / "out").read_text().splitlines()[1].endswith("offset.safetensors")
    taking.fit(MODEL, task())
    assert (tmp_path / "out").read_text().splitlines() == ["0.0"]


def test_a_program_tells_how_far_its_steps_went_among_its_metrics(tmp_path: Path) -> None:
    assert app(tmp_path).fit(MODEL, task()).step_sum == 0.0
    update = app(tmp_path, program=PROGRAM.replace('"loss": 0.5', '"loss": 0.5, "step_sum": 0.3')).fit(MODEL, task())
    assert update.step_sum == 0.3
    assert set(update.metrics) == {"loss", "seed", "rest"}


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("train = ", "cannot be read as TOML"),
        ('speed = 1\ntrain = "x"', "'speed' means nothing here"),
        ('init = "x {model_out}"', "no train command"),
        ('train = "x {model_in} {model_out} {metrics_out}"', "where the initial model comes from"),
        ('init = "x {model_out}"\ntrain = "x {model_in} {model_out}"', "train does not use {metrics_out}"),
        ('init = "x {model_out} {client}"\ntrain = "x"', "init uses {client}"),
        ('init = "x {model_out} {settings.a}"\ntrain = "x"', "init uses {settings.a}"),
        ('init = "x {model_out}"\ntrain = "x {modle_in}"', "train uses {modle_in}"),
        ('init = "x {model_out}"\ntrain = 3', "train must be a command"),
        (f"{COMMANDS}settings = 1", "[settings] must be a table"),
        (f"{COMMANDS}[settings]\nspeed = 1", "[settings] must be a table"),
        (f"name = 1\n{COMMANDS}", "name must be a string"),
        ("init = []", "init must be a command"),
        ("init = [1]", "init must be a command"),
        ('init = "x \'"', "No closing quotation"),
    ],
)
def test_a_file_that_means_nothing_is_refused_by_its_key(tmp_path: Path, toml: str, said: str) -> None:
    (tmp_path / "hansa.toml").write_text(toml)
    with pytest.raises(AppError) as caught:
        read_toml(tmp_path)
    assert said in str(caught.value)
    assert "hansa.toml" in str(caught.value)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(AppError, match=r"other\.toml cannot be read"):
        read_toml(tmp_path / "other.toml")


def test_a_command_predicts_in_json(tmp_path: Path) -> None:
    trainer = app(tmp_path, TOML + PREDICT)
    assert json.loads(trainer.predict(MODEL, task())) == {"w": [1.0, 2.0]}
    with pytest.raises(UserCodeError, match=r"what predict wrote to \{prediction_out\} is no JSON"):
        app(tmp_path, TOML + PREDICT, PROGRAM.replace('"odd" not in source', "False")).predict(MODEL, task())
    with pytest.raises(AppError, match="the app has no predict command"):
        app(tmp_path).predict(MODEL, task())


def test_startup_runs_once_for_each_client_after_the_build(tmp_path: Path) -> None:
    begun = f"""
build = [{PYTHON}, "-c", "open('order', 'a').write('built ')"]
startup = [{PYTHON}, "-c", "open('order', 'a').write('{{client}} ')"]
"""
    trainer = app(tmp_path, begun + TOML)
    for name in ("north", "south", "north"):
        trainer.evaluate(MODEL, replace(task(), client=ClientInfo(name)))
    assert (tmp_path / "order").read_text() == "built north south "
