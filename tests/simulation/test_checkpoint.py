"""A simulation that was cut off goes on from its checkpoint, to the same bits."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hansa
from hansa.data import Examples, Split
from hansa.errors import ConfigError, ConflictError, CorruptionError
from hansa.messages import EvaluationRules, RoundRules
from hansa.simulation import Dropouts, LogNormalSpeeds, RoundRecord, SimulationResult, Traces, simulate
from hansa.simulation.traces import Window
from hansa.training.numpy import softmax_regression

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 4)).astype(np.float32), RNG.integers(0, 3, 90)
GIVEN: dict[str, Any] = {
    "model": softmax_regression(4, 3),
    "data": Split(Examples(X, Y), Examples(X[:20], Y[:20])),
    "clients": 6,
    "rounds": 5,
    "seed": 3,
    "evaluation": EvaluationRules(fraction=0.5),
    "rules": RoundRules(selection="count", count=4),
    "devices": Dropouts(0.2),
}


class CutOffError(Exception):
    """As a power cut would."""


def cut_off(after: int) -> Any:
    def told(record: RoundRecord) -> None:
        if record.round == after:
            raise CutOffError

    return told


def timeless(result: SimulationResult) -> list[RoundRecord]:
    return [replace(record, seconds=0.0, norms=()) for record in result.rounds]


def same(mine: SimulationResult, theirs: SimulationResult) -> None:
    assert timeless(mine) == timeless(theirs)
    assert [record.norms for record in mine.rounds] == [record.norms for record in theirs.rounds]
    assert mine.model_hash == theirs.model_hash
    assert dict(mine.state.slots) == dict(theirs.state.slots)


@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold", "ditto"])
@pytest.mark.parametrize("every", [1, 2])
def test_it_goes_on_to_the_bits_of_one_that_was_not_cut_off(tmp_path: Path, algorithm: str, every: int) -> None:
    whole = simulate(algorithm, **GIVEN)
    given = {**GIVEN, "checkpoint": tmp_path / "here", "checkpoint_every": every}
    with pytest.raises(CutOffError):
        simulate(algorithm, **given, on_round=cut_off(3))
    told: list[int] = []
    again = simulate(algorithm, **given, on_round=lambda record: told.append(record.round), tracker=f"csv:{tmp_path}/t")
    same(again, whole)
    assert told == ([4, 5] if every == 1 else [3, 4, 5])
    assert {line.partition(",")[0] for line in (tmp_path / "t").read_text().splitlines()[1:]} == set("12345")
    once_more = simulate(algorithm, **given, on_round=lambda record: told.append(record.round))
    same(once_more, whole)
    assert told[-1] == 5
    assert len(list((tmp_path / "here").glob("round-*"))) == 1


def test_it_goes_on_with_more_rounds_and_after_being_killed_while_it_wrote(tmp_path: Path) -> None:
    here = tmp_path / "here"
    simulate("scaffold", **{**GIVEN, "rounds": 2}, checkpoint=here)
    with (here / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "mo')
    (here / ".part-half").mkdir()
    same(simulate("scaffold", **GIVEN, checkpoint=here), simulate("scaffold", **GIVEN))
    assert not (here / ".part-half").exists()


def test_what_functions_and_processes_remember_is_kept(app: Path, tmp_path: Path) -> None:
    app.write_text(
        app.read_text()
        + """

@app.select
def select(clients, task):
    task.memory["asked"] = task.memory.get("asked", 0) + 1
    return [each.name for each in clients][task.memory["asked"] % 2 :]
"""
    )
    given: dict[str, Any] = {"clients": 4, "rounds": 4, "engine": "processes", "workers": 2}
    whole = simulate(app, **given)
    with pytest.raises(CutOffError):
        simulate(app, **given, checkpoint=tmp_path / "here", on_round=cut_off(1))
    again = simulate(app, **given, checkpoint=tmp_path / "here")
    same(again, whole)
    assert hansa.simulation.replay(again.save_record(tmp_path / "record")).same


def test_a_folder_holds_one_run(tmp_path: Path) -> None:
    here = tmp_path / "here"
    simulate("fedavg", **GIVEN, checkpoint=here)
    with pytest.raises(
        ConflictError, match=r"is of another run: its seed was 3, and is 4; go on with that run, or give"
    ):
        simulate("fedavg", **{**GIVEN, "seed": 4}, checkpoint=here)
    shutil.rmtree(here)
    here.mkdir()
    (here / "mine.txt").touch()
    with pytest.raises(ConflictError, match="holds something else: give the checkpoint a folder of its own"):
        simulate("fedavg", **GIVEN, checkpoint=here)


def test_one_process_at_a_time_has_a_folder(tmp_path: Path) -> None:
    here = tmp_path / "here"

    def second(record: RoundRecord) -> None:
        del record
        with pytest.raises(ConflictError, match=r"another process is at the checkpoint .*here: wait until it ends, or"):
            simulate("fedavg", **GIVEN, checkpoint=here)

    first = simulate("fedavg", **GIVEN, checkpoint=here, on_round=second)
    same(first, simulate("fedavg", **GIVEN))
    same(simulate("fedavg", **GIVEN, checkpoint=here), first)


def test_rounds_that_are_not_one_a_line_are_told(tmp_path: Path) -> None:
    here = tmp_path / "here"
    simulate("fedavg", **GIVEN, checkpoint=here)
    lines = (here / "rounds.jsonl").read_text().splitlines(keepends=True)
    (here / "rounds.jsonl").write_text("".join([lines[0], *lines]))
    with pytest.raises(CorruptionError, match=r"rounds.jsonl does not hold the rounds 1 to 5, one a line"):
        simulate("fedavg", **GIVEN, checkpoint=here)


def test_it_goes_on_in_its_apps_folder_and_names_the_files_that_another_run_has_changed(
    app: Path, tmp_path: Path
) -> None:
    (tmp_path / "rates.py").write_text("ONE = 1\n")
    app.write_text("import rates\n" + app.read_text())
    here = tmp_path / "here"
    for rounds in (1, 2):
        assert len(simulate(tmp_path, clients=2, rounds=rounds, checkpoint=here).rounds) == rounds
    (tmp_path / "rates.py").write_text("ONE = 2\n")
    with pytest.raises(ConflictError, match=r"of its app's files rates.py differs; go on with that run, or give"):
        simulate(tmp_path, clients=2, rounds=2, checkpoint=here)
    (tmp_path / "log.csv").touch()
    with pytest.raises(ConflictError, match=r"files log.csv, rates.py differ \(a .hansaignore names what is no part"):
        simulate(tmp_path, clients=2, rounds=2, checkpoint=here)


COMING_AND_GOING = Traces(
    [Window(f"client-{k}", begin, begin + 5 + k, 0.1) for k in range(6) for begin in (2.0 * k, 20.0 + k)], period=40.0
)
ASYNCHRONOUS: dict[str, dict[str, Any]] = {
    "different speeds": {"algorithm_options": {"buffer": 2}, "devices": LogNormalSpeeds(sigma=1.0, dropout=0.1)},
    "little staleness": {
        "algorithm_options": {"buffer": 3, "max_staleness": 1},
        "devices": LogNormalSpeeds(sigma=1.5, jitter=0.5),
        "transforms": ["top-k:share=0.5"],
    },
    "coming and going": {
        "algorithm_options": {"buffer": 2},
        "devices": COMING_AND_GOING,
        "rules": RoundRules(selection="count", count=4, lease=3.0, deadline=30.0),
    },
}


@pytest.mark.parametrize("case", list(ASYNCHRONOUS))
def test_an_asynchronous_run_goes_on_with_whom_it_had_at_work(tmp_path: Path, case: str) -> None:
    """It is cut off after each round: leases, models, and what is under way are those of one that was not."""
    given: dict[str, Any] = {**GIVEN, "rounds": 8, "evaluation": EvaluationRules(), **ASYNCHRONOUS[case]}
    whole = simulate("fedbuff", **given)
    assert max(record.max_staleness for record in whole.rounds) >= 1
    for number in range(1, 8):
        with pytest.raises(CutOffError):
            simulate("fedbuff", **given, checkpoint=tmp_path / "here", on_round=cut_off(number))
    same(simulate("fedbuff", **given, checkpoint=tmp_path / "here"), whole)


def test_processes_that_go_on_have_the_models_of_those_who_were_at_work(app: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"clients": 6, "rounds": 6, "algorithm": "fedasync", "devices": LogNormalSpeeds(sigma=1.5)}
    whole = simulate(app, **given)
    spread = {**given, "engine": "processes", "workers": 2, "checkpoint": tmp_path / "here", "checkpoint_every": 2}
    with pytest.raises(CutOffError):
        simulate(app, **spread, on_round=cut_off(5))
    same(simulate(app, **spread), whole)


def test_a_number_of_rounds_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint_every is 0; it must be a whole number, at least 1"):
        simulate("fedavg", **GIVEN, checkpoint=tmp_path / "here", checkpoint_every=0)
    assert not (tmp_path / "here").exists()
