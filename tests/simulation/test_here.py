"""Many clients in one computation, in this process and in others beside it: who joins, who fails, who is lost."""

import os
import warnings
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path

import cradle
import pytest

from hansa.errors import UserCodeError
from hansa.messages import EvaluationRules
from hansa.simulation import SimulationResult, simulate
from hansa.simulation.engines import EngineName
from hansa.simulation.here import Here
from hansa.simulation.places import Link
from hansa.simulation.processes import Processes

pytest.importorskip("torch")

APP = """
import os
import signal
from pathlib import Path

import numpy as np
import torch

import hansa
from hansa.training.torch import TorchTrainer

HERE = Path(__file__).parent
app = hansa.App(
    TorchTrainer(
        lambda: torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)),
        torch.nn.functional.cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        batch_size=8,
    )
)


@app.data
def data(client, *, mode=""):
    (HERE / str(os.getpid())).touch()
    away, raised, died = os.getppid() == int((HERE / "main").read_text()), HERE / "raised", HERE / "died"
    if mode == "raise away" and away or mode == "raise after that" and (away or raised.exists()):
        raised.touch()
        raise OSError("the disk is gone")
    if mode == "die once" and away and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    rng = np.random.default_rng(client.index)
    x = rng.normal(size=(10 + client.index, 6)).astype(np.float32)
    return x, x[:, :3].argmax(1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "main").write_text(str(os.getpid()))
    return tmp_path


def children() -> set[int]:
    """Processes that this one has started and that are still there, but for those that tests fork from."""
    started = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in started} - cradle.processes()


def without_seconds(result: SimulationResult) -> list[dict[str, object]]:
    """What is the same to the bit; of norms, which are for people, the last digits are not."""
    return [{**record, "seconds": 0.0, "norms": len(record["norms"])} for record in result.history]


def differences(one: SimulationResult, other: SimulationResult) -> list[tuple[object, ...]]:
    """What two runs of the same length did not have in common, in thousands of rounds: (round, name, one, other)."""
    rounds = zip(without_seconds(one), without_seconds(other), strict=True)
    return [(a["round"], name, a[name], b[name]) for a, b in rounds for name in a if a[name] != b[name]]


def workers(folder: Path) -> set[int]:
    """The processes beside this one in which clients had their data loaded."""
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()} - {os.getpid()}


def run(folder: Path, rounds: int, workers: int | None = None, *, mode: str = "", **more: object) -> SimulationResult:
    engine: EngineName = "vectorized"
    evaluation = EvaluationRules(every=0)
    return simulate(
        folder / "app.py", clients=6, rounds=rounds, engine=engine, workers=workers, config={"mode": mode},
        evaluation=evaluation, progress=False, **more,  # type: ignore[arg-type]  # stop and tolerate_failures
    )  # fmt: skip


def test_other_processes_join_a_run_once_they_pay_and_change_no_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansa.simulation.engines.cores", lambda: 2)
    before = children()
    short = run(folder, 2)
    assert workers(folder) == set()  # three seconds of training come first
    monkeypatch.setattr("hansa.simulation.engines.START", 0.0)
    joined = run(folder, 100_000, stop=lambda _: bool(workers(folder)))
    assert len(workers(folder)) == 1
    assert children() == before
    assert joined.profile["workers"] > 0
    alone = run(folder, len(joined.rounds), 1)
    assert differences(alone, joined) == []
    assert without_seconds(short) == without_seconds(joined)[:2]


def test_an_app_that_may_have_been_changed_since_it_was_loaded_stays_in_this_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansa.simulation.engines.cores", lambda: 2)
    monkeypatch.setattr("hansa.simulation.engines.START", 0.0)
    from hansa.simulation.load import load  # noqa: PLC0415 - as a user's script would

    app = load(folder / "app.py")
    result = simulate(app, clients=6, rounds=20, engine="vectorized", evaluation=EvaluationRules(every=0))
    assert (workers(folder), result.profile["workers"]) == (set(), 0)


@pytest.mark.parametrize("change", ["the app", "nothing"])
def test_others_do_not_join_who_would_load_another_app_or_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A file that was edited since the run began, and one that other processes cannot load: the run goes on alone."""
    monkeypatch.setattr("hansa.simulation.engines.cores", lambda: 2)
    monkeypatch.setattr("hansa.simulation.engines.START", 0.0)
    app, before, rounds = folder / "app.py", children(), 0
    if change == "nothing":
        app.write_text(f"import os\nassert os.getpid() == {os.getpid()}, 'there is one licence'\n" + app.read_text())

    def begun(_: object) -> None:
        nonlocal rounds
        rounds += 1
        if change == "the app" and rounds == 1:
            app.write_text(app.read_text().replace("lr=0.1", "lr=0.3"))

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        result = run(
            folder, 100_000, on_round=begun, stop=lambda _: rounds >= 5 and (change == "the app" or bool(said))
        )
    told = [str(each.message) for each in said]
    if change == "the app":
        assert told == []
        app.write_text(APP)
    else:
        assert len(told) == 1
        assert "goes on in one process: a worker cannot load the app: AssertionError: there is one licence" in told[0]
    assert (workers(folder), children()) == (set(), before)
    assert without_seconds(run(folder, len(result.rounds), 1)) == without_seconds(result)


def test_several_that_cannot_load_the_app_at_the_same_moment_leave_the_run_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, before = folder / "app.py", children()
    app.write_text(f"import os\nassert os.getpid() == {os.getpid()}, 'there is one licence'\n" + app.read_text())

    def all_of_them(_: Processes, links: Sequence[Link]) -> Sequence[Link]:
        others = [link for link in links if not isinstance(link, Here)]
        for link in others:
            wait([link.answers])  # type: ignore[attr-defined]  # a process has them
        return others or links

    monkeypatch.setattr(Processes, "wait", all_of_them)
    monkeypatch.setattr("hansa.simulation.engines.cores", lambda: 3)
    monkeypatch.setattr("hansa.simulation.engines.START", 0.0)
    with pytest.warns(RuntimeWarning, match="there is one licence"):
        result = run(folder, 4)
    assert (len(result.rounds), children()) == (4, before)


def test_what_fails_in_another_process_fails_here_with_its_own_exception(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where it does not fail here again, it is told as it was there."""
    monkeypatch.setattr("hansa.app.app._DATA_KEPT", 1)  # so that data are read in every round
    with pytest.raises(OSError, match="the disk is gone") as raised:
        run(folder, 100_000, 2, mode="raise after that")
    assert raised.traceback[-1].name == "data"
    (folder / "raised").unlink()
    with pytest.raises(UserCodeError, match=r"client-\d: OSError: the disk is gone"):
        run(folder, 100_000, 2, mode="raise away")


def test_whom_a_lost_process_was_to_train_is_trained_and_no_bit_changes(folder: Path) -> None:
    lost = run(folder, 100_000, 2, mode="die once", stop=lambda _: len(workers(folder)) > 1)
    alone = run(folder, len(lost.rounds), 1)
    assert without_seconds(lost) == without_seconds(alone)
