"""One simulation among many: what is run, and by which name its record is found again."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blake3 import blake3

from hansa.messages import RunSpec
from hansa.simulation.foreign import foreign
from hansa.simulation.pipes import spec_from, spec_to
from hansa.simulation.record import app_digest, code_digest

__all__ = ["DATA", "Cell", "cell_from", "cell_to"]

DATA = "data"
"""The setting of an app that says where its data are: another place does not make another cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A simulation."""

    app: Path
    """The file or folder of the app."""
    spec: RunSpec
    clients: int | None = None
    """None: as many as the app has data of."""
    devices: str | None = None
    """As `hansa.simulation.named_devices.devices_of` reads it."""
    engine: str = "inline"
    attack: str | None = None
    """As `hansa.simulation.attacks` reads it; None: nobody attacks."""
    until: tuple[tuple[str, float], ...] = ()
    """Metrics and values: it ends when each has been as good as that; empty: after all rounds."""
    files: str = ""
    """Digest of the app's files; when it is made, of what they are then."""
    code: str = ""
    """The same of its code alone, which may not change until the simulation begins."""

    def __post_init__(self) -> None:
        if not self.files:
            object.__setattr__(self, "files", app_digest(self.app))
            object.__setattr__(self, "code", code_digest(self.app))

    @property
    def key(self) -> str:
        """A digest of all that decides the result, but for the data.

        The app's files, the settings, hansa's version, the code of the plug-ins that the run names, and the trace.
        """
        kind, _, file = (self.devices or "").partition(":")
        trace = Path(file)
        config = {name: value for name, value in self.spec.config.items() if name != DATA}
        decides = {
            **cell_to(replace(self, spec=replace(self.spec, name="", project="", config=config))),
            "app": self.files,  # wherever it lies
            "version": version("hansa"),
            **({"trace": blake3(trace.read_bytes()).hexdigest(12)} if kind == "trace" and trace.is_file() else {}),
            **({"plug_ins": [asdict(each) for each in brought]} if (brought := foreign(self.spec)) else {}),
        }
        del decides["files"], decides["code"]
        return blake3(json.dumps(decides, sort_keys=True).encode()).hexdigest(12)


def cell_to(cell: Cell) -> dict[str, Any]:
    """A cell as plain values."""
    plain = {
        "app": str(cell.app),
        "spec": spec_to(cell.spec),
        "clients": cell.clients,
        "devices": cell.devices,
        "engine": cell.engine,
        "files": cell.files,
        "code": cell.code,
    }
    attacked = {"attack": cell.attack} if cell.attack else {}
    ended = {"until": [list(each) for each in cell.until]} if cell.until else {}
    return plain | attacked | ended


def cell_from(plain: Mapping[str, Any]) -> Cell:
    """The inverse of `cell_to`."""
    until = tuple((metric, value) for metric, value in plain.get("until", ()))
    return Cell(
        Path(plain["app"]),
        spec_from(plain["spec"]),
        plain["clients"],
        plain["devices"],
        plain["engine"],
        plain.get("attack"),
        until,
        plain["files"],
        plain["code"],
    )
