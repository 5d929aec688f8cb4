"""Where a simulation is, kept on disk after its rounds: one that was cut off goes on from there, to the same bits.

checkpoint.json    which run it is: all that decides its bits, but for the number of rounds
rounds.jsonl       a line for each round so far; those that no state is of are written again
round-7/           the state after round 7, in a folder that is there whole or not at all:
                   state.safetensors, clients.safetensors (what each remembers) and state.json;
                   of an asynchronous run models.safetensors, too: those on which somebody is at work
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from hansa.algorithm import State
from hansa.arrays import Arrays
from hansa.errors import ConflictError, CorruptionError
from hansa.messages import RunSpec, Sample, Value
from hansa.run import slots_from_arrays, slots_to_arrays
from hansa.simulation.asynchronous import Between
from hansa.simulation.given import Given
from hansa.simulation.record import what_decides
from hansa.simulation.result import RoundRecord
from hansa.store.disk import alone_in, explained, sync_directory, write_whole
from hansa.store.results import mark_results
from hansa.wire import codec

__all__ = ["Checkpoint", "Place"]

_RUN, _ROUNDS, _ROUND, _HALF = "checkpoint.json", "rounds.jsonl", "round-", ".part-"
_PARAMS, _SLOT = "params", "slot "
_TOLD = 5
"""Files."""
_UNDER_WAY = tuple(each.name for each in fields(Between) if each.name != "models")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a simulation is between two rounds."""

    state: State
    records: Sequence[RoundRecord] = ()
    now: float = 0.0
    """Virtual seconds since the run began."""
    memory: Mapping[str, Value] = field(default_factory=dict)
    """What the app's functions have left for later calls."""
    kept: Mapping[str, Arrays] = field(default_factory=dict)
    """What each client remembers."""
    between: Between | None = None
    """Of an asynchronous run: what is under way."""


class Checkpoint:
    """A folder that holds one run, and within a `with` block this process alone."""

    def __init__(self, folder: str | Path, given: Given, spec: RunSpec, every: int) -> None:
        """every: of how many rounds one is kept, at least 1; the last is."""
        self._folder, self._every = Path(folder), every
        self._decides = what_decides(given, spec)
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Raises `ConflictError` where the folder holds another run, or something else, or another process is at it."""
        busy = f"another process is at the checkpoint {self._folder}: wait until it ends, or give another folder"
        with self._held as held:
            held.enter_context(alone_in(self._folder, busy))
            self._check()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _check(self) -> None:
        mine = json.loads(json.dumps(self._decides))
        run = self._folder / _RUN
        with explained("keep where the simulation is in", self._folder):
            if not run.is_file():
                if any(not each.name.startswith(".") for each in self._folder.iterdir()):
                    raise ConflictError(f"{self._folder} holds something else: give the checkpoint a folder of its own")
                write_whole(run, json.dumps(mine, indent=1).encode(), 0o644)
                mark_results(self._folder)
            there = json.loads(run.read_text(encoding="utf-8"))
        differ = [name for name in mine if mine[name] != there.get(name)]
        if differ:
            name = differ[0]
            how = (
                _other_app(there.get(name), mine[name])
                if name == "app" and isinstance(there.get(name), Mapping | None)
                else f"its {name} was {there.get(name)!r}, and is {mine[name]!r}"
            )
            raise ConflictError(
                f"the checkpoint {self._folder} is of another run: {how}; go on with that run, or give another folder"
            )

    def load(self) -> Place | None:
        """The newest place; None where there is none yet."""
        with explained("read where the simulation was from", self._folder):
            for half_written in self._folder.glob(f"{_HALF}*"):
                shutil.rmtree(half_written, ignore_errors=True)
            newest = max((number for number, _ in self._places()), default=0)
            if not newest:
                return None
            place = self._folder / f"{_ROUND}{newest}"
            told = json.loads((place / "state.json").read_text(encoding="utf-8"))
            lines = (self._folder / _ROUNDS).read_bytes().splitlines(keepends=True)[:newest]
            records = [_record(json.loads(line)) for line in lines]
            if [record.round for record in records] != list(range(1, newest + 1)):
                raise CorruptionError(
                    f"{self._folder / _ROUNDS} does not hold the rounds 1 to {newest}, one a line: remove the folder "
                    f"{self._folder}, and begin the run again"
                )
            write_whole(self._folder / _ROUNDS, b"".join(lines), 0o644)
            parts = slots_from_arrays(codec.load(place / "state.safetensors"))
            under_way = told.get("under_way")
            between = None if under_way is None else _between(under_way, codec.load(place / "models.safetensors"))
        params = parts.pop(_PARAMS)
        slots = {name.removeprefix(_SLOT): arrays for name, arrays in parts.items()}
        return Place(
            State(params, newest, slots),
            records,
            told["now"],
            told["memory"],
            slots_from_arrays(codec.load(place / "clients.safetensors")),
            between,
        )

    def keep(self, place: Place, *, last: bool) -> None:
        """Keep the place after its last round, where that is one to keep; its round in any case."""
        number = len(place.records)
        with explained("keep where the simulation is in", self._folder):
            with (self._folder / _ROUNDS).open("ab") as file:
                file.write(json.dumps(asdict(place.records[-1])).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())  # a state is of no use without the rounds before it
            if number % self._every and not last:
                return
            older = [folder for _, folder in self._places()]
            part = Path(tempfile.mkdtemp(dir=self._folder, prefix=_HALF))
            slots = {f"{_SLOT}{name}": arrays for name, arrays in place.state.slots.items()}
            codec.save(slots_to_arrays({_PARAMS: place.state.params, **slots}), part / "state.safetensors")
            codec.save(slots_to_arrays(place.kept), part / "clients.safetensors")
            told: dict[str, Any] = {"now": place.now, "memory": dict(place.memory)}
            if place.between is not None:
                told["under_way"] = {name: getattr(place.between, name) for name in _UNDER_WAY}
                models = {str(base): model for base, model in place.between.models.items()}
                codec.save(slots_to_arrays(models), part / "models.safetensors")
            write_whole(part / "state.json", json.dumps(told).encode(), 0o644)
            part.rename(self._folder / f"{_ROUND}{number}")
            sync_directory(self._folder)
            for folder in older:
                shutil.rmtree(folder, ignore_errors=True)

    def _places(self) -> list[tuple[int, Path]]:
        found = self._folder.glob(f"{_ROUND}*")
        return [(int(each.name.removeprefix(_ROUND)), each) for each in found if each.is_dir()]


def _between(told: Mapping[str, Any], models: Arrays) -> Between:
    """What was under way, from JSON."""
    of_base = {int(base): model for base, model in slots_from_arrays(models).items()}
    pairs = {name: [tuple(each) for each in told[name]] for name in ("arrivals", "changes")}
    at_work = {client: (base, since) for client, (base, since) in told["at_work"].items()}
    return Between(**{**told, **pairs, "at_work": at_work}, models=of_base)


def _other_app(before: Mapping[str, str] | None, now: Mapping[str, str] | None) -> str:
    """What of an app's files differs. Of each, its digest by its name; None: it was made in memory."""
    if before is None or now is None:
        return "one app was made in memory, and the other is in files"
    files = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    told = ", ".join(files[:_TOLD]) + (f" and {len(files) - _TOLD} more" if len(files) > _TOLD else "")
    remedy = "" if all(name.endswith(".py") for name in files) else " (a .hansaignore names what is no part of the app)"
    return f"of its app's files {told} differ{'s' if len(files) == 1 else ''}{remedy}"


def _record(plain: Mapping[str, Any]) -> RoundRecord:
    """A round as it was, from JSON."""
    columns = {name: {key: tuple(each) for key, each in plain[name].items()} for name in ("reports", "verdicts")}
    samples = {client: tuple(Sample(**each) for each in taken) for client, taken in plain["samples"].items()}
    lists = {name: tuple(value) for name, value in plain.items() if isinstance(value, list)}
    return RoundRecord(**{**plain, **lists, **columns, "samples": samples})
