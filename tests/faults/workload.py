"""What the laboratory runs: a session whose every bit can be computed beforehand, from who was counted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import hansa
from hansa.app import App, load_app
from hansa.arrays import Arrays
from hansa.messages import ClientInfo, Contribution, EvaluationRules, Kind, RoundRules, RunSpec
from hansa.run import Run, resolve, slots_to_arrays
from hansa.wire import codec

CLIENTS = 8
COMBINERS = 2
ROUNDS = 5
KEPT = 2
_DEADLINE = 120.0
"""Seconds of a round: how busy this machine is must not decide."""

SOURCE = '''
"""A model whose changes follow from client and round alone."""
import json
import os
import sys
import time
import numpy as np
import hansa

TRAININGS = {trainings!r}
FOLDER = {folder!r}
app = hansa.App()

@app.model
def initial_model(rng):
    return {{"w": rng.normal(size={size}).astype(np.float32), "b": np.zeros(3, np.float32)}}

@app.train
def train(model, task):
    take_fault(task.client.name)
    log = os.open(TRAININGS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, f"{{task.config['session']}} {{task.round}} {{task.client.name}}\\n".encode())
    os.close(log)
    noise = task.rng.normal(size={size}).astype(np.float32)
    change = {{"w": model["w"] + 0.01 * noise, "b": model["b"] + np.float32(task.client.index + 1)}}
    return hansa.Update(change, num_examples=10 + task.client.index, metrics={{"loss": 1 / task.round}})

@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({{"mean": float(model["b"].mean())}}, 10)

def take_fault(name):
    """What the laboratory has left for this process: the next writes through to the disk fail."""
    place = os.path.join(FOLDER, "armed", name + ".worker")
    if not sys.argv[0].endswith("worker.py") or not os.path.exists(place):
        return
    with open(place) as file:
        fault = json.load(file)
    os.unlink(place)
    left, sync = [fault["errno"]] * fault["times"], os.fsync

    def failing(descriptor):
        if not left:
            return sync(descriptor)
        line = json.dumps({{"at": time.time(), "process": name, "what": "struck", **fault}}) + "\\n"
        with open(os.path.join(FOLDER, "history", name), "a") as file:
            file.write(line)
        raise OSError(left[0], os.strerror(left.pop()))

    os.fsync = failing
'''


def write_app(folder: Path, size: int = 300_000) -> Path:
    """The app's file; trainings are logged beside it. size: values of the model; at first 1.2 MB, two chunks."""
    path = folder / "app.py"
    path.write_text(SOURCE.format(size=size, trainings=str(folder / "trainings"), folder=str(folder)))
    return path


def spec_of(
    name: str,
    seed: int = 0,
    *,
    quorum: int = CLIENTS,
    enough: int | None = None,
    rounds: int = ROUNDS,
    lease: float = 20.0,
    every: int = 2,
) -> RunSpec:
    """A session of all clients; with the whole quorum its model is that of a run in which nothing fails."""
    rules = RoundRules(min_clients=quorum, quorum=quorum, enough=enough, deadline=_DEADLINE, lease=lease)
    return RunSpec(
        name=name,
        algorithm="fedadam",
        rounds=rounds,
        seed=seed,
        config={"session": name},
        rules=rules,
        evaluation=EvaluationRules(every=every),
    )


def keep_of(spec: RunSpec) -> str | None:
    """The policy by which a session keeps its models: of every second seed, the newest two and what made them."""
    return f"last {KEPT}, aggregates" if spec.seed % 2 == 0 else None


class Replay:
    """Recomputes a session from who was counted in each round; what was computed once is kept."""

    def __init__(self, app: Path, spec: RunSpec) -> None:
        """spec: the session's."""
        self._app: App = load_app(app)
        self._run: Run = resolve(spec)
        self._known: dict[tuple[tuple[tuple[str, int], ...], ...], list[tuple[str, str, dict[str, str]]]] = {}

    def models(self, accepted: Sequence[Mapping[str, int]]) -> list[tuple[str, str, dict[str, str]]]:
        """For each round (clients with their weights): digest of the model, of the state, and of each update."""
        place = tuple(tuple(sorted(clients.items())) for clients in accepted)
        if place not in self._known:
            self._known[place] = self._computed(accepted)
        return self._known[place]

    def seed_model(self) -> str:
        """Digest of the model before round 1."""
        return codec.digest(self._run.initial_model(self._app))

    def _computed(self, accepted: Sequence[Mapping[str, int]]) -> list[tuple[str, str, dict[str, str]]]:
        state = self._run.start(self._run.initial_model(self._app))
        found = []
        for number, clients in enumerate(accepted, start=1):
            broadcast = self._run.algorithm.broadcast(state)
            aggregator = self._run.algorithm.aggregator
            plan = aggregator.plan(broadcast)
            total, digests = aggregator.zero(plan), {}
            for name in sorted(clients):
                update = self._update(broadcast, number, name)
                digests[name] = codec.digest(update.arrays)
                part = Contribution(name, update.num_examples, update.metrics, digests[name])
                total = aggregator.accumulate(plan, total, update, part)
            state = self._run.finish(state, aggregator.report(plan, total))
            slots = slots_to_arrays(state.slots)
            found.append((codec.digest(state.params), codec.digest(slots) if slots else "", digests))
        return found

    def _update(self, broadcast: Arrays, number: int, name: str) -> hansa.Update:
        client = ClientInfo(name, int(name.partition("-")[2]), CLIENTS)
        return self._run.train(self._app, broadcast, self._run.task(self._app, client, number, Kind.TRAIN))


class Replays:
    """One for each kind of session: its name and its own settings move no bit."""

    def __init__(self) -> None:
        """None yet."""
        self._known: dict[str, Replay] = {}

    def of(self, app: Path, spec: RunSpec) -> Replay:
        """app: the workload's file; spec: a session's."""
        same = replace(spec, name="replay", config={"session": "replay"})
        return self._known.setdefault(f"{app} {same}", Replay(app, same))
