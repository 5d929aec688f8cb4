"""The record of a simulation: a folder with all that repeats it, and what came out.

    manifest.json          the spec, clients, devices, engine, versions, platform, each round with the hash of its model
    app.hansa              the app, as a package; absent where it was made in memory
    devices.csv            the trace of the devices, where they had one
    initial.safetensors    the initial model, where it was given and not drawn
    model.safetensors      the last model, unless it was left out

The data are not in it: an app finds them where it did before.
"""

import json
import math
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
from blake3 import blake3

from hansa.app import find_app, modules_beside
from hansa.arrays import Arrays
from hansa.errors import AppError, ConflictError, InputError
from hansa.messages import RunSpec
from hansa.simulation import devices as models
from hansa.simulation.choice import cores
from hansa.simulation.devices import Devices
from hansa.simulation.each import clients_of
from hansa.simulation.foreign import foreign
from hansa.simulation.given import Given
from hansa.simulation.pipes import spec_from, spec_to
from hansa.simulation.table import Table
from hansa.simulation.traces import Traces
from hansa.store.disk import explained, make_directory, sync_directory, write_whole
from hansa.store.results import mark_results
from hansa.wire import codec

__all__ = [
    "APP",
    "INITIAL",
    "MANIFEST",
    "MODEL",
    "Record",
    "app_digest",
    "check_place",
    "code_digest",
    "here",
    "open_record",
    "plain_round",
    "told_number",
    "what_decides",
    "write_record",
]

MANIFEST, APP, INITIAL, MODEL = "manifest.json", "app.hansa", "initial.safetensors", "model.safetensors"
DEVICES = "devices.csv"
FORMAT = "hansa.record.v1"

_DEVICES = {
    kind.__name__: kind for kind in (models.Instant, models.Dropouts, models.Stragglers, models.LogNormalSpeeds)
}
_FRAMEWORKS = ("numpy", "ml_dtypes", "torch", "sklearn", "jax", "jaxlib", "optax", "xgboost")
"""Whose version can change a bit."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was opened."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def spec(self) -> RunSpec:
        """The run."""
        return spec_from(self.manifest["spec"])

    @property
    def devices(self) -> Devices:
        """How devices behaved; raises `InputError` for a class that is not of `hansa.simulation`."""
        given = dict(self.manifest["devices"])
        kind = given.pop("kind")
        if kind == Traces.__name__:
            period = math.inf if given["period"] is None else given["period"]
            return Traces.read(self.folder / DEVICES, period=period, passes=given["passes"])
        if kind not in _DEVICES:
            raise InputError(f"the devices of {self.folder} are a {kind}, which is not of hansa: give `devices`")
        made: Devices = _DEVICES[kind](**given)
        return made

    @property
    def rounds(self) -> Sequence[Mapping[str, Any]]:
        """Each round, as `RoundRecord`, of plain values."""
        found: Sequence[Mapping[str, Any]] = self.manifest["rounds"]
        return found

    def clients(self, round: int | None = None) -> Table:  # noqa: A002 - the field's word
        """As of `SimulationResult`."""
        return clients_of(self.rounds, round)

    @property
    def initial_model(self) -> Arrays | None:
        """Where it was given."""
        file = self.folder / INITIAL
        return codec.load(file) if file.is_file() else None

    @property
    def model(self) -> Arrays | None:
        """The last model, where it was kept."""
        file = self.folder / MODEL
        return codec.load(file) if file.is_file() else None

    def unpack_app(self, folder: Path) -> Path:
        """Write the app into a folder, and return its path there; raises `AppError` where there is none."""
        file = self.folder / APP
        if not file.is_file():
            raise AppError(f"{self.folder} has no app, as it was made in memory: give it, as it was")
        package = _package().read(file.read_bytes())
        if package.digest != self.manifest["app"]["digest"]:
            raise AppError(f"{file} is not the app that {self.folder / MANIFEST} names: one of them was changed")
        return cast("Path", package.unpack(folder))


def open_record(folder: str | Path) -> Record:
    """The record in a folder; raises `InputError` for what is none."""
    place = Path(folder)
    file = place / MANIFEST if place.is_dir() else place
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no record in {place}: it has no {MANIFEST}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"the record {file} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise InputError(f"{file} is not a record of this version of hansa, {FORMAT}")
    return Record(file.parent, manifest)


def check_place(folder: Path) -> None:
    """Raise `ConflictError` where there is something in the place of a record."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} exists: give the record a folder of its own")


def write_record(
    folder: str | Path,
    given: Given,
    spec: RunSpec,
    *,
    rounds: Sequence[Any],
    model: Arrays,
    engine: str,
    with_model: bool,
) -> Path:
    """Write a record into a new folder, which is there whole or not at all, also after a power cut.

    Raises `ConflictError` where the folder exists and is not empty, `AppError` where the app's file has changed since.
    """
    place = Path(folder)
    packed = _packed(given)
    manifest = {
        "format": FORMAT,
        "spec": spec_to(spec),
        "clients": given.clients,
        "devices": _described(given.devices),
        "labels": given.labels,
        "attack": given.attack,
        "engine": engine,
        "workers": given.workers,
        "tolerate_failures": given.tolerate_failures,
        "app": None if packed is None else {"digest": _package().read(packed).digest},
        "initial_model": None if given.initial_model is None else codec.digest(given.initial_model),
        "model_hash": codec.digest(model),
        "plug_ins": [asdict(each) for each in foreign(spec)],
        "versions": _versions(),
        "platform": _platform(),
        "rounds": [plain_round(asdict(record)) for record in rounds],
    }
    with explained("write the record", place):
        check_place(place)
        make_directory(place.parent)
        part = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
        try:
            part.chmod(0o755)
            if packed is not None:
                write_whole(part / APP, packed, 0o644)
            if isinstance(given.devices, Traces):
                given.devices.save(part / DEVICES)
            if given.initial_model is not None:
                codec.save(given.initial_model, part / INITIAL)
            if with_model:
                codec.save(model, part / MODEL)
            mark_results(part)
            write_whole(part / MANIFEST, (json.dumps(manifest, indent=1, allow_nan=False) + "\n").encode(), 0o644)
            part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        sync_directory(place.parent)
    return place


def what_decides(given: Given, spec: RunSpec) -> dict[str, Any]:
    """All that the bits of each round depend on but for the data, as JSON has it; not how many rounds there are."""
    packed = _packed(given)
    plain = spec_to(spec)
    for name in ("name", "project", "rounds"):
        del plain[name]
    return {
        **plain,
        "clients": given.clients,
        "engine": given.engine,
        "devices": _described(given.devices),
        "labels": given.labels,
        "attack": given.attack,
        "tolerate_failures": given.tolerate_failures,
        "initial_model": None if given.initial_model is None else codec.digest(given.initial_model),
        "app": None if packed is None else {name: file.blake3 for name, file in _files_of(packed).items()},
        "plug_ins": [asdict(each) for each in foreign(spec)],
        "version": version("hansa"),
    }


def app_digest(source: str | Path) -> str:
    """By which a record names the app of this path: of its files alone, wherever they lie."""
    return str(_manifest(source).digest)


def code_digest(source: str | Path) -> str:
    """Of what is sure to be an app's code: its Python files, of a black-box app all. Others it may write itself."""
    manifest = _manifest(source)
    entry, whole = str(manifest.entry), blake3()
    for name, file in sorted(manifest.files.items()):
        if name.endswith(".py") or not entry.endswith(".py"):
            whole.update(f"{name} {file.blake3}\n".encode())
    return whole.hexdigest()


def _manifest(source: str | Path) -> Any:
    package = _package()
    return package.read(package.build(_whole(Path(source)), name="app")).manifest


def plain_round(told: Mapping[str, Any]) -> dict[str, Any]:
    """A `RoundRecord` as JSON has it: not finite is null; of one client it is a text, and null what it has not told."""
    columns = {
        name: {key: list(map(_number, column)) for key, column in told[name].items()}
        for name in ("reports", "verdicts")
    }
    return {**_plain(told), **columns}


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(float(value))


def told_number(value: float | str | None) -> float | None:
    """What a client has told, as `plain_round` writes it."""
    return float(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """As JSON has it; a number that is NaN or infinite is null."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case np.generic():
            return _plain(value.item())
        case _:
            return value


def _packed(given: Given) -> bytes | None:
    if given.app.source is None:
        return None
    source = _whole(given.app.source)
    app = find_app(source)
    for file in [app, *(modules_beside(app).values() if app.suffix == ".py" else ())]:
        if file.stat().st_mtime > given.since:
            raise AppError(f"{file} has changed since it was simulated: simulate it again, and record that")
    packed: bytes = _package().build(source, name="app")
    return packed


def _files_of(packed: bytes) -> Mapping[str, Any]:
    files: Mapping[str, Any] = _package().read(packed).manifest.files
    return files


def _package() -> Any:
    from hansa.packages import package  # noqa: PLC0415 - it loads cryptography, which a simulation does not need

    return package


def _whole(source: Path) -> Path:
    """A black-box app is its folder: its hansa.toml names files beside it."""
    return source.parent if source.suffix == ".toml" else source


def _described(devices: Devices) -> dict[str, Any]:
    if isinstance(devices, Traces):
        period = devices.period if math.isfinite(devices.period) else None
        return {"kind": Traces.__name__, "period": period, "passes": devices.passes}
    known = isinstance(devices, tuple(_DEVICES.values()))
    return {"kind": type(devices).__name__, **(asdict(cast("Any", devices)) if known else {})}


def here() -> dict[str, str | int]:
    """Versions and platform of this process, by name."""
    return {**_versions(), **_platform()}


def _versions() -> dict[str, str]:
    found = {"hansa": version("hansa"), "python": platform.python_version()}
    return found | {
        name: str(getattr(module, "__version__", "?"))
        for name in _FRAMEWORKS
        if (module := sys.modules.get(name)) is not None
    }


def _platform() -> dict[str, str | int]:
    return {"system": platform.platform(terse=True), "machine": platform.machine(), "cores": cores()}
