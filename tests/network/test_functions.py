"""An app's functions beside the server: select, configure and aggregate, in a process of their own."""

from pathlib import Path

import pytest
from federation import federation

import hansa
from hansa.errors import AppError, ConfigError
from hansa.evidence.stored import verify_session
from hansa.messages import RoundRules, RunSpec
from hansa.network.client.limits import Limits
from hansa.network.controller.commit import last_invited, last_memory
from hansa.network.controller.telling import Telling
from hansa.store.records import SessionState

APP = """
import itertools
import os
import pathlib
import time

import numpy as np

import hansa

app = hansa.App()


@app.model
def initial_model(rng):
    return {"w": rng.normal(size=4).astype(np.float32), "n": np.zeros((), np.int64)}


@app.train
def train(model, task):
    rate = task.config.get("rate", 1.0)
    w = model["w"] + np.float32(rate) * (1 + task.client.index) + task.rng.normal(size=4).astype(np.float32)
    return hansa.Update({"w": w, "n": model["n"] + 1}, num_examples=1 + task.client.index)


@app.select
def select(clients, task):
    if task.config.get("bad") == "nobody":
        return []
    task.memory["selected"] = task.memory.get("selected", 0) + 1
    near = [client.name for client in clients if client.labels.get("region") == "eu"]
    return near if task.round == 1 else task.rng.permutation([client.name for client in clients])[:2].tolist()


@app.configure
def configure(model, task):
    if task.config.get("bad") == "raise":
        raise ValueError("no such rate")
    if task.config.get("bad") == "hang":
        time.sleep(600)
    if task.config.get("bad") == "fill":
        for number in itertools.count():
            pathlib.Path(os.environ["HOME"], str(number)).write_bytes(bytes(1 << 20))
    if task.config.get("bad") == "deep":
        pathlib.Path(os.environ["HOME"], "result.json").write_text("[" * 100_000)
        os._exit(0)
    if task.config.get("bad") == "link":
        pathlib.Path(os.environ["HOME"], "result.safetensors").symlink_to("/etc/hostname")
        os._exit(0)
    print("round", task.round)
    rates = task.memory.setdefault("rates", [])
    rates.append(float(np.abs(model["w"]).max()) / len(rates or [1]))
    return {"rate": sum(rates) / (1 + task.memory.get("selected", 0))}


@app.aggregate
def aggregate(model, updates, task):
    if task.config.get("bad") == "shape":
        return {"w": np.zeros(3, np.float32), "n": model["n"]}
    total, weight = None, 0
    for client, update in updates:
        weight += update.num_examples
        part = {name: array.astype(np.float64) * update.num_examples for name, array in update.arrays.items()}
        total = part if total is None else {name: total[name] + part[name] for name in part}
    if task.config.get("bad") == "hoard":
        task.memory["much"] = "x" * 70_000
    w = np.clip(total["w"] / weight, -1, 1) + 0.5 * np.array(task.memory.get("momentum", [0.0] * 4))
    task.memory["momentum"] = w
    return {"w": w, "n": np.rint(total["n"] / weight)}
"""
LABELS = {"client-0": {"region": "eu"}, "client-1": {"region": "us"}, "client-2": {"region": "eu"}}
RULES = RoundRules(min_clients=3, quorum=2, deadline=60)


@pytest.fixture
def served(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "app.py").write_text(APP)
    return folder / "app.py"


async def test_a_session_calls_them_in_each_round_to_the_bits_of_a_simulation(served: Path, tmp_path: Path) -> None:
    spec = RunSpec(rounds=3, seed=5, rules=RULES)
    async with federation(tmp_path, ["north"]) as made:
        for number, (name, labels) in enumerate(LABELS.items()):
            await made.client(name, number, 3, labels=labels, preferred=("north", "")[number % 2])
        session = await made.run(served, spec)
        assert session.state is SessionState.FINISHED, session.cause
        parts = await made.contributions(session)
        found = await verify_session(made.controller.store, made.controller.objects, "default", session.id, None)
    assert session.spec.functions == ("aggregate", "configure", "select")
    assert {part.client for part in parts if part.round == 1} == {"client-0", "client-2"}
    assert all(sum(part.round == number for part in parts) == 2 for number in (1, 2, 3))
    assert found.rounds == 3
    for engine in ("inline", "processes"):
        result = hansa.simulate(served, spec, clients=3, labels=LABELS, engine=engine)  # type: ignore[arg-type]
        assert result.model_hash == session.model, engine


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("raise", "the app's configure failed in round 1: ValueError: no such rate"),
        ("hang", "the app's configure failed in round 1: it took longer than 2 seconds, and was ended"),
        ("fill", "the app's configure failed in round 1: it wrote more than 20,000,000 bytes, and was ended"),
        ("deep", "the app's configure failed in round 1: what it left cannot be read: maximum recursion depth"),
        ("link", "the app's configure failed in round 1: what it left cannot be read: "),
    ],
)
async def test_a_function_that_fails_is_the_cause_of_its_session(
    served: Path, tmp_path: Path, bad: str, says: str
) -> None:
    async with federation(tmp_path) as made:
        made.controller._functions.limits = Limits(wall=2.0 if bad == "hang" else 60.0, disk=20_000_000)
        for number, (name, labels) in enumerate(LABELS.items()):
            await made.client(name, number, 3, labels=labels)
        session = await made.run(served, RunSpec(rounds=1, rules=RULES, config={"bad": bad}))
    assert session.state is SessionState.FAILED
    assert says in session.cause


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("nobody", r"select\(\) chose nobody"),
        ("shape", r"'w' of the shape \(3,\); the model's is \(4,\)"),
        ("hoard", r"aggregate\(\) left 70,\d\d\d bytes in task.memory, which may have 65,536"),
    ],
)
def test_what_a_function_returns_is_checked(served: Path, bad: str, says: str) -> None:
    with pytest.raises(AppError, match=says):
        hansa.simulate(served, RunSpec(rounds=1, rules=RULES, config={"bad": bad}), clients=3, labels=LABELS)


async def test_what_functions_remember_is_recorded_and_there_when_a_session_goes_on(
    served: Path, tmp_path: Path
) -> None:
    spec = RunSpec(rounds=2, seed=5, rules=RULES)
    async with federation(tmp_path) as made:
        for number, (name, labels) in enumerate(LABELS.items()):
            await made.client(name, number, 3, labels=labels)
        session = await made.run(served, spec)
        (*_, before) = await made.events(session, "round.committed")
        await made.controller.sessions.start("default", session.id, further=1)
        (continued,) = await made.events(session, "session.continued")
        async for happened in made.controller.journal.follow("default", continued.id, session.id):
            if happened.kind.startswith("session.f"):
                break
        session = await made.session(session)
        assert session.state is SessionState.FINISHED, session.cause
        store = made.controller.store
        assert await last_invited(session, store) == ([], None)
        memory = await last_memory(session, store)
        opened = Telling("default", session.id, made.controller.journal).invited(4, ("client-1",), {"selected": 4})
        await made.controller.journal.record(opened)
        recalled = await last_invited(session, store)
    assert (before.data["memory"]["selected"], len(before.data["memory"]["rates"])) == (2, 2)  # type: ignore[call-overload, index, arg-type]
    assert (memory["selected"], len(memory["rates"]), len(memory["momentum"])) == (3, 3, 4)  # type: ignore[arg-type]
    assert recalled == ([["client-1"]], {"selected": 4})
    assert session.model == hansa.simulate(served, spec, clients=3, labels=LABELS, rounds=3).model_hash


async def test_a_session_without_a_package_has_no_functions(served: Path, tmp_path: Path) -> None:
    async with federation(tmp_path) as made:
        with pytest.raises(ConfigError, match="the app's aggregate runs beside the server, from the package"):
            await made.create(served, RunSpec(), package=False)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"functions": ("choose",)}, "there are aggregate, configure, select, each once"),
        ({"functions": ("select",), "rules": RoundRules(selection="count", count=2)}, "the app selects clients"),
        ({"functions": ("aggregate",), "aggregator": "median"}, "the app aggregates, and aggregator is 'median'"),
        ({"functions": ("configure",), "algorithm": "fedbuff", "algorithm_options": {"buffer": 2}}, "has no rounds"),
    ],
)
def test_functions_that_do_not_go_with_the_rest_are_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        hansa.run.resolve(RunSpec(**given))  # type: ignore[arg-type]
