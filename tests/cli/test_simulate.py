from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import TINY, json_lines
from typer.testing import Result

from hansa.simulation import simulate
from hansa.wire import codec


def test_it_prints_a_line_per_round_the_hash_and_what_to_do_next(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--clients", 3, "--rounds", 2)
    assert done.exit_code == 0, done.output
    # each round adds the mean of 1, 2, 3 to each of three values: 6, then 12
    assert "round 1/2  sum 6.0000  3 accepted, 0 rejected" in done.stdout
    assert "round 2/2  sum 12.0000  3 accepted, 0 rejected" in done.stdout
    assert simulate(tiny, clients=3, rounds=2).model_hash in done.stdout
    assert f"hansa parity {tiny}" in done.stdout


def test_an_asynchronous_run_says_how_stale_updates_were(hansa: Callable[..., Result], tiny: Path) -> None:
    options = ("--algorithm", "fedbuff", "--set-algorithm", "buffer=2", "--rounds", 3)
    done = hansa("simulate", tiny, "--clients", 3, *options, "--devices", "lognormal:0.5")
    assert done.exit_code == 0, done.output
    assert "on the virtual clock; staleness 0.333 on average, at most 1" in done.stdout
    assert "hansa parity" not in done.stdout


def test_json_is_an_object_per_round_and_one_that_sums_up(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--clients", 3, "--rounds", 2, "--json")
    *rounds, last = json_lines(done.stdout)
    assert [record["round"] for record in rounds] == [1, 2]
    assert (last["rounds"], last["metrics"]) == (2, {"sum": 12.0})
    assert last["model_hash"] == rounds[-1]["model_hash"] == simulate(tiny, clients=3, rounds=2).model_hash


def test_the_saved_model_is_the_one_with_the_hash(hansa: Callable[..., Result], tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    done = hansa("simulate", tiny, "--rounds", 1, "--json", "--output", file)
    assert codec.digest(codec.load(file)) == json_lines(done.stdout)[-1]["model_hash"]


def test_processes_give_the_same_hash(hansa: Callable[..., Result], tiny: Path) -> None:
    def digest(*options: str) -> str:
        return json_lines(hansa("simulate", tiny, "--rounds", 2, "--json", *options).stdout)[-1]["model_hash"]

    assert digest("--engine", "processes", "--workers", "2") == digest()


def test_why_clients_were_not_trained_together_is_one_line(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--rounds", 1, "--engine", "vectorized")
    assert done.exit_code == 0, done.output
    assert "engine inline: the app has a train function of its own" in done.stdout.splitlines()
    told = json_lines(hansa("simulate", tiny, "--rounds", 1, "--json", "--engine", "vectorized").stdout)[-1]
    assert (told["engine"], told["because"]) == ("inline", "the app has a train function of its own")


def test_what_the_trial_chose_is_said_with_its_measure(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--rounds", 1, "--engine", "auto")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("engine ")]
    assert line.startswith("engine inline: ")
    assert "ms for a client; the app has a train function of its own" in line


def test_a_profile_says_where_the_time_went(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--rounds", 2, "--profile")
    assert "training: local training" in done.stdout
    assert "%" in done.stdout
    parts = json_lines(hansa("simulate", tiny, "--rounds", 2, "--profile", "--json").stdout)[-1]["profile"]
    assert set(parts) == {"data", "training", "folding", "evaluation", "workers", "overhead"}
    assert parts["workers"] == 0


def test_devices_drop_out(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--clients", 20, "--rounds", 1, "--devices", "dropouts:0.5", "--json")
    record = json_lines(done.stdout)[0]
    assert 0 < len(record["accepted"]) < 20
    assert len(record["accepted"]) + len(record["missing"]) == 20


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────────


def failure(done: Result) -> str:
    assert done.exit_code == 1
    assert "hansa/cli" not in done.stderr, "no frame of the command line is shown"
    return done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--algorithm", "fedmagic"], "there is no 'fedmagic' in hansa.algorithms; there is: afl, "),
        (["--algorithm", "fedprox", "--set-algorithm", "mew=1"], "fedprox has no option 'mew'"),
        (["--set", "lr"], "--set 'lr' has no value: write --set lr=value"),
        (["--devices", "phones:1"], "there is dropouts:RATE"),
        (["--devices", "dropouts:many"], "after the colon comes a number"),
        (["--devices", "dropouts:2"], "it must be a number between 0 and 1"),
    ],
)
def test_a_wrong_option_is_one_paragraph(
    hansa: Callable[..., Result], tiny: Path, options: list[str], said: str
) -> None:
    told = failure(hansa("simulate", tiny, "--rounds", 1, *options))
    assert said in told
    assert "Traceback" not in told


LEARNS = """
import hansa
from hansa.training.numpy import NumpyTrainer, softmax_regression

def local(learning_rate=0.1):
    return NumpyTrainer(softmax_regression(64, 10), learning_rate)

app = hansa.App(local)
"""


def test_a_setting_that_nobody_reads_is_refused(hansa: Callable[..., Result], write_app: Callable[[str], Path]) -> None:
    app = write_app(LEARNS)
    told = failure(hansa("simulate", app, "--set", "lerning_rate=1"))
    assert (
        "the app has no setting 'lerning_rate', and nothing else of it reads --set or config; its settings: "
        "learning_rate. Did you mean 'learning_rate'?" in told
    )
    told = failure(hansa("simulate", app, "--algorithm", "fedprox", "--set", "mu=0.5"))
    assert "It is an option of fedprox: --set-algorithm mu=0.5" in told


def test_a_place_that_cannot_be_written_is_told_before_the_first_round(
    hansa: Callable[..., Result], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for option, place in (("--output", tmp_path / "file" / "model"), ("--record", tmp_path / "file" / "record")):
        told = failure(hansa("simulate", tiny, option, place))
        assert "is a file, not a directory: choose another path" in told
        assert "round 1" not in told
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "mine").touch()
    told = failure(hansa("simulate", tiny, "--record", tmp_path / "record"))
    assert "exists: give the record a folder of its own" in told
    assert "round 1" not in told
    assert hansa("simulate", tiny, "--rounds", 1, "--output", tmp_path / "new" / "model").exit_code == 0


def test_a_model_and_data_that_do_not_fit_are_no_bug_of_hansa(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    app = write_app(
        LEARNS
        + """
import numpy as np
from hansa.training.numpy import NumpyModel

app = hansa.App(NumpyTrainer(NumpyModel(lambda rng: {"w": np.zeros(3)}, max), 0.1))

@app.data
def data(client):
    return np.zeros((4, 2)), np.zeros(4)
"""
    )
    told = failure(hansa("simulate", app))
    assert "the app's trainer raised TypeError" in told
    assert "see that its model, its settings and its data fit together" in told
    assert "hansa: raised while client-0 trained in round 1" in told
    assert "please report it" not in told
    assert told.count('File "') <= 1  # not how hansa got there


def test_a_path_that_the_system_refuses_is_no_bug_of_hansa(
    hansa: Callable[..., Result], tiny: Path, tmp_path: Path
) -> None:
    told = failure(hansa("run", "init", tiny, "--output", tmp_path / "none" / "model"))
    assert "No such file or directory; give a path that this user may use" in told
    assert "Traceback" not in told


def test_a_path_without_an_app_says_what_to_give(hansa: Callable[..., Result], tmp_path: Path) -> None:
    assert "has neither an app.py nor a hansa.toml" in failure(hansa("simulate", tmp_path))
    assert "there is no app at" in failure(hansa("simulate", tmp_path / "none.py"))


def test_an_app_without_train_says_what_to_add(hansa: Callable[..., Result], write_app: Callable[[str], Path]) -> None:
    app = write_app(TINY.replace("@app.train\n", ""))
    assert "the app has no train function: decorate one with @app.train" in failure(hansa("simulate", app))


def test_a_model_of_another_shape_names_the_tensor(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    app = write_app(
        TINY.replace('{"w": model["w"] + np.float32(1 + task.client.index)}', '{"w": np.zeros(4, np.float32)}')
    )
    told = failure(hansa("simulate", app, "--rounds", 1))
    assert "'w'" in told
    assert "what train() returned" in told


def test_what_user_code_raises_is_shown_from_its_own_frame(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    app = write_app(
        TINY.replace("    return hansa.Update", '    raise KeyError("no such patient")\n    return hansa.Update')
    )
    told = failure(hansa("simulate", app, "--rounds", 1))
    lines = told.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f'File "{app}"' in lines[1]
    assert "error: the app raised KeyError: 'no such patient'" in told


def test_an_app_that_cannot_be_imported_shows_its_own_line(
    hansa: Callable[..., Result], write_app: Callable[[str], Path]
) -> None:
    assert "no_such_module" in failure(hansa("simulate", write_app("import no_such_module")))
    told = failure(hansa("simulate", write_app("def broken(:\n    pass")))
    assert "app.py" in told
    assert "def broken(:" in told


def test_with_json_the_error_is_an_object_too(hansa: Callable[..., Result], tiny: Path) -> None:
    done = hansa("simulate", tiny, "--algorithm", "fedmagic", "--json")
    error = json_lines(done.stdout)[-1]["error"]
    assert error["type"] == "ConfigError"
    assert "fedmagic" in error["message"]
