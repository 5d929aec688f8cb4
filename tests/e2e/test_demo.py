import json
import signal
from pathlib import Path

import psutil
import pytest
from processes import Hansa, line_with

from hansa.simulation import simulate
from hansa.wire import codec

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
SMALL = ("demo", "--clients", 2, "--combiners", 1, "--rounds", 2000)


def test_the_demo_learns_to_read_digits_and_leaves_no_process(hansa: Hansa) -> None:
    done = hansa.run("demo", "--json", timeout=110)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["rounds"], result["clients"], result["combiners"]) == (20, 10, 2)
    assert result["accuracy"] >= 0.93
    assert result["seconds"] > 0
    assert "round 20/20" in done.stderr
    assert codec.digest(codec.load(result["model"])) == result["model_hash"]
    assert result["model_hash"] == simulate(DIGITS, clients=10, rounds=20).model_hash
    assert hansa.alive() == []


def test_a_demo_whose_processes_are_killed_ends_with_the_model_of_one_in_peace(hansa: Hansa) -> None:
    done = hansa.run("demo", "--chaos", "--rounds", 8, "--clients", 2, "--combiners", 1, "--json", timeout=110)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["killed"]) == 3
    assert all(f"kill -9 {name}\n" in done.stderr for name in result["killed"])
    assert result["model_hash"] == simulate(DIGITS, clients=2, rounds=8).model_hash
    assert hansa.alive() == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_demo_that_is_interrupted_leaves_no_process(hansa: Hansa, number: signal.Signals) -> None:
    demo = hansa.start(*SMALL)
    line_with(demo, "round ")
    assert len(hansa.alive()) >= 7  # demo, controller, combiner, two clients, with a worker each
    demo.send_signal(number)
    assert demo.wait(30) == 130
    assert hansa.alive() == []


@pytest.mark.slow
def test_a_demo_that_is_killed_takes_its_processes_along(hansa: Hansa) -> None:
    demo = hansa.start(*SMALL)
    line_with(demo, "round ")
    orphans = [process for process in hansa.alive() if process.pid != demo.pid]
    demo.kill()
    _, left = psutil.wait_procs(orphans, timeout=30)
    assert left == []
    assert hansa.alive() == [process for process in hansa.alive() if process.pid == demo.pid]


@pytest.mark.slow
def test_a_demo_with_an_app_that_fails_says_so_and_leaves_no_process(hansa: Hansa, tiny: Path) -> None:
    tiny.write_text(
        tiny.read_text().replace("    return hansa.Update", '    raise ValueError("no beds")\n    return hansa.Update')
    )
    done = hansa.run("demo", "--clients", 2, "--combiners", 0, "--rounds", 1, "--app", tiny)
    assert done.returncode == 1
    assert "ValueError: no beds" in done.stderr
    assert "app.py" in done.stderr
    assert hansa.alive() == []
