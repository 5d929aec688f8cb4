"""What a simulation was given beside its spec: with it, its result can be recorded and repeated."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hansa.app import App
from hansa.arrays import Arrays
from hansa.simulation.devices import Devices

__all__ = ["Given"]


@dataclass(frozen=True, slots=True)
class Given:
    """What a simulation was given beside its spec."""

    app: App
    clients: int
    engine: str
    """As it was asked for."""
    workers: int | None
    devices: Devices
    attack: str
    """As `hansa.simulation.attacks` writes it; empty: there is none."""
    tolerate_failures: bool | None
    initial_model: Arrays | None
    since: float
    """POSIX seconds before the app was loaded, or when it was handed over."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of those that the run has chosen by their labels."""
