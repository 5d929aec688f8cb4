"""A recorded simulation once more: the same bits, or where they part."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hansa.app import App
from hansa.arrays import first_difference
from hansa.errors import ConfigError
from hansa.messages import Value
from hansa.run import names
from hansa.simulation.devices import Devices
from hansa.simulation.foreign import Foreign, foreign
from hansa.simulation.load import load
from hansa.simulation.record import Record, here, open_record, plain_round
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.runtime import EngineName, simulate

__all__ = ["Difference", "Replay", "replay"]

_CLOCK = frozenset({"seconds"})
"""What a record says of a round that no run repeats."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as it was recorded."""

    round: int
    """From 1; 0: it is not of a round."""
    what: str
    """For example `model_hash`, `central.accuracy`, or a tensor."""
    recorded: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay."""

    record: Record
    result: SimulationResult
    differences: tuple[Difference, ...]
    """In the order of the rounds; empty where everything is the same, to the bit."""
    surroundings: Mapping[str, tuple[Any, Any]]
    """Versions and platform that are not those of the record: name → (recorded, now)."""

    @property
    def same(self) -> bool:
        """Whether every hash and every number is as recorded."""
        return not self.differences


def replay(
    folder: str | Path,
    *,
    app: App | str | Path | None = None,
    devices: Devices | None = None,
    config: Mapping[str, Value] | None = None,
    engine: EngineName | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
    progress: bool | None = None,
) -> Replay:
    """Repeat a recorded simulation, and compare each round: hash of the model, metrics, who took part.

    It runs the code in the record: replay only what you would run. app: in place of the recorded one, or where there is
    none. devices: where they are of a class of one's own. config: settings in place of recorded ones, such as where the
    data are on this machine. engine: in place of the recorded; all but "vectorized" give the same bits, and what ran
    in a cluster is by default repeated on the cores of this machine. Raises `InputError` for what is no record.
    """
    record = open_record(folder)
    plug_ins = _installed(record)
    last = len(record.rounds)
    with tempfile.TemporaryDirectory(prefix="hansa-replay-") as place:
        source = app if app is not None else record.unpack_app(Path(place))
        recorded: EngineName = record.manifest["engine"]
        elsewhere = recorded in {"mpi", "ray"}
        chosen = engine or ("processes" if elsewhere else recorded)
        result = simulate(
            load(source) if isinstance(source, str | Path) else source,
            replace(record.spec, config={**record.spec.config, **(config or {})}),
            clients=record.manifest["clients"],
            engine=chosen,
            workers=record.manifest["workers"] if chosen == recorded else None,
            devices=record.devices if devices is None else devices,
            attack=record.manifest["attack"] or None,
            labels=record.manifest.get("labels") or None,
            tolerate_failures=record.manifest["tolerate_failures"],
            initial_model=record.initial_model,
            on_round=on_round,
            stop=lambda done: done.round == last,
            progress=progress,
        )
    found = [
        difference
        for was, now in zip(record.rounds, result.rounds, strict=False)
        for difference in _differences(was, plain_round(asdict(now)))
    ]
    if len(result.rounds) != last:
        found.append(Difference(0, "rounds", last, len(result.rounds)))
    model = record.model
    if model is not None and (tensor := first_difference(model, result.model)) is not None:
        found.append(Difference(0, f"tensor {tensor}", record.manifest["model_hash"], result.model_hash))
    return Replay(record, result, tuple(found), _surroundings(record.manifest) | plug_ins)


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Of one round; a mapping's entries one by one."""
    found = []
    for name in was:
        if name in _CLOCK or was[name] == now.get(name):
            continue
        if isinstance(was[name], Mapping) and isinstance(now.get(name), Mapping):
            before, after = was[name], now[name]
            found += [
                Difference(was["round"], f"{name}.{key}", before.get(key), after.get(key))
                for key in sorted(before.keys() | after.keys())
                if before.get(key) != after.get(key)
            ]
        else:
            found.append(Difference(was["round"], name, was[name], now.get(name)))
    return found


def _installed(record: Record) -> dict[str, tuple[str, str]]:
    """The plug-ins whose code is not that of the record; raises `ConfigError` where one is missing."""
    was = [Foreign(**each) for each in record.manifest.get("plug_ins", ())]
    for each in was:
        if each.name not in names(each.group):
            raise ConfigError(
                f"{record.folder} was made with {each.name!r} of {each.package} {each.version}, which is not installed "
                f"here: install it, it brings an entry point of {each.group}"
            )
    now = {(each.group, each.name): each for each in foreign(record.spec)}
    found = [(each, now.get((each.group, each.name))) for each in was]
    return {f"{was.name} of {was.group}": (str(was), str(now)) for was, now in found if was != now}


def _surroundings(manifest: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    was = {**manifest["versions"], **manifest["platform"]}
    now = here()
    return {name: (value, now.get(name)) for name, value in was.items() if now.get(name) != value}
