"""Worker processes: the bits of one process, deaths that name a client, and nobody left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import cradle
import pytest

from hansa.errors import ConfigError, QuorumNotMetError, UserCodeError
from hansa.messages import RoundRules
from hansa.simulation import LogNormalSpeeds, RoundRecord, SimulationResult, simulate


def without_seconds(result: SimulationResult) -> list[dict[str, object]]:
    return [{**record, "seconds": 0.0} for record in result.history]


def children() -> set[int]:
    """Processes that this one has started and that are still there, but for those that tests fork from."""
    started = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in started} - cradle.processes()


def test_the_history_is_that_of_one_process_to_the_bit(app: Path) -> None:
    before = children()
    faults = {f"client-{k}": ("nan", "raise", "sys.exit", "blind")[k % 4] for k in range(12)}
    devices = LogNormalSpeeds(10.0, sigma=1.0, dropout=0.1)
    rules = RoundRules(selection="count", count=8, deadline=40.0, enough=6)

    def run(engine: str, workers: int | None = None) -> SimulationResult:
        return simulate(
            app,
            clients=20,
            rounds=3,
            rules=rules,
            devices=devices,
            config=faults,
            tolerate_failures=True,
            engine=engine,
            workers=workers,
        )

    alone, together = run("inline"), run("processes", 3)
    assert without_seconds(alone) == without_seconds(together)
    assert [record.norms for record in alone.rounds] == [pytest.approx(record.norms) for record in together.rounds]
    assert all(len(record.norms) == len(record.examples) > 0 for record in alone.rounds)
    assert any(record.failed for record in alone.rounds)
    assert any(record.rejected for record in alone.rounds)
    assert any(record.missing for record in alone.rounds)
    assert any(record.failed_evaluations for record in alone.rounds)
    assert children() == before


def test_a_client_that_ends_its_process_fails_by_name_and_the_run_goes_on(app: Path) -> None:
    rules = RoundRules(selection="count", count=8)
    plain = simulate(app, clients=30, rounds=2, rules=rules)
    first, second = plain.rounds[0].accepted[3], plain.rounds[1].accepted[5]
    config = {first: "exit", second: "exit"}
    result = simulate(app, clients=30, rounds=2, rules=rules, config=config, engine="processes", workers=2)
    assert first in result.rounds[0].failed
    assert result.rounds[0].failed[first] == f"the process that worked for {first} ended, with exit status 7"
    assert [len(record.accepted) for record in result.rounds] == [8, 8]
    raised = simulate(
        app, clients=30, rounds=2, rules=rules, config=dict.fromkeys(config, "raise"), tolerate_failures=True
    )
    assert result.model_hash == raised.model_hash


def test_a_process_that_ends_while_it_evaluates_fails_the_evaluation_of_its_client(app: Path) -> None:
    config = {"client-1": "exit-blind"}
    options = {"clients": 6, "rounds": 2, "config": config}
    result = simulate(app, **options, engine="processes", workers=2)
    ended = "the process that worked for client-1 ended, with exit status 3"
    assert [record.failed_evaluations for record in result.rounds] == [{"client-1": ended}] * 2
    config["client-1"] = "blind"
    alone = simulate(app, **options, tolerate_failures=True)
    assert [record.evaluation for record in result.rounds] == [record.evaluation for record in alone.rounds]


def test_workers_that_die_between_rounds_are_replaced_and_cost_nobody_a_place(app: Path) -> None:
    before = children()

    def kill_all(_record: RoundRecord) -> None:
        for pid in children() - before:
            os.kill(pid, signal.SIGKILL)
            assert gone(pid)

    result = simulate(app, clients=6, rounds=3, engine="processes", workers=2, on_round=kill_all)
    assert [record.failed for record in result.rounds] == [{}, {}, {}]
    assert result.model_hash == simulate(app, clients=6, rounds=3).model_hash
    assert children() == before


def test_a_quorum_missed_because_every_process_died_names_the_clients(app: Path) -> None:
    config = {f"client-{k}": "exit" for k in range(3)}
    with pytest.raises(QuorumNotMetError, match=r"failed: client-0 \(the process .* client-1 .* client-2 "):
        simulate(app, clients=3, rounds=1, config=config, engine="processes", workers=2, rules=RoundRules(deadline=9.0))


def test_without_tolerance_a_failure_ends_the_simulation_with_the_users_traceback(app: Path) -> None:
    before = children()
    with pytest.raises(UserCodeError, match=r"client-2: ValueError: the sensor is off \(.*app\.py:\d+\)") as caught:
        simulate(
            app,
            clients=6,
            rounds=1,
            config={"client-2": "raise"},
            engine="processes",
            workers=2,
            tolerate_failures=False,
        )
    assert "the user's line" in caught.value.traceback
    assert children() == before


def test_who_no_longer_fits_into_the_sum_is_decided_by_the_order_of_arrival(app: Path) -> None:
    config = {"client-2": "all"}  # 2^24 examples, as much as a whole round may sum
    alone = simulate(app, clients=6, rounds=1, config=config)
    assert list(alone.rounds[0].rejected) == ["client-2"]
    together = simulate(app, clients=6, rounds=1, config=config, engine="processes", workers=3)
    assert without_seconds(alone) == without_seconds(together)
    small = {"clients": 6, "rounds": 1, "max_weight": 32}  # of 10 to 16 examples each, two fit
    alone = simulate(app, **small)
    assert len(alone.rounds[0].accepted) == 2
    together = simulate(app, **small, engine="processes", workers=3)
    assert without_seconds(alone) == without_seconds(together)


def test_workers_must_be_at_least_one(app: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        simulate(app, clients=3, engine="processes", workers=0)


def test_settings_that_cannot_travel_are_refused(app: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be sent to a worker"):
        simulate(app, clients=3, engine="processes", config={"optimizer": object()})


def test_an_app_that_breaks_only_in_the_worker_is_told_with_its_line(write_app: Callable[[str], Path]) -> None:
    path = write_app("""
import os
import signal
import hansa
app = hansa.App()
app.train(lambda model, task: None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    raise RuntimeError("not here")
""")
    with pytest.raises(UserCodeError, match=r"cannot load the app: RuntimeError: not here \(.*other\.py:8\)"):
        simulate(path, clients=2, rounds=1, engine="processes", workers=1, initial_model={"w": [0.0]})


SCRIPT = """
import sys
import numpy as np
import hansa

app = hansa.App()

@app.model
def initial_model(rng):
    return {"w": np.zeros(3)}

@app.train
def train(model, task):
    print("training", task.client.name)
    return hansa.Update({"w": model["w"] + task.rng.normal(size=3)}, num_examples=2)

GUARD
    result = hansa.simulate(__file__, clients=4, rounds=1, engine="processes", workers=2)
    print(result.model_hash)
"""


def test_a_script_simulates_itself_and_what_its_clients_print_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(SCRIPT.replace("GUARD", 'if __name__ == "__main__":'))
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}  # noqa: TID251 - as in many a container: lines stay whole
    done = subprocess.run(
        [sys.executable, script], env=unbuffered, capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.split("\n")
    assert sorted(lines[:4]) == [f"training client-{k}" for k in range(4)]
    assert lines[4] == simulate(script, clients=4, rounds=1).model_hash


def test_a_script_without_a_guard_is_told_to_use_one(tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(SCRIPT.replace("GUARD", "if True:"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert 'put that call under `if __name__ == "__main__":`' in done.stderr


SLOW = """
import os
import subprocess
import time
import numpy as np
import hansa

app = hansa.App()

@app.model
def initial_model(rng):
    return {"w": np.zeros(3)}

@app.train
def train(model, task):
    child = subprocess.Popen(["sleep", "600"])
    print(os.getpid(), child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_neither_ctrl_c_nor_a_kill_leaves_a_process(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "app.py").write_text(SLOW)
    (tmp_path / "main.py").write_text(
        textwrap.dedent("""
        import hansa
        hansa.simulate("app.py", clients=4, rounds=1, engine="processes", workers=2)
        """)
    )
    simulation = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    with simulation:
        assert simulation.stdout is not None
        started = [int(pid) for _ in range(2) for pid in simulation.stdout.readline().split()]
        assert len(started) == 4
        simulation.send_signal(how)
        # The pipe ends when the last process that could write to it has gone: workers and what their users started.
        assert simulation.stdout.read() == ""
    for pid in started:
        assert gone(pid)


def gone(pid: int) -> bool:
    """Whether a process has ended, at the latest in a moment; a zombie without a parent to bury it has."""
    until = time.monotonic() + 10.0
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
    return False
