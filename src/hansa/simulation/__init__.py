"""The same run in this process or on its cores: virtual clients, a virtual clock, the bits of a network.

`simulate` runs an app, `replay` repeats a recorded run, `check_parity` runs an app in many ways and compares the bits,
`devices` says how devices behave, and `traces` when they are there.
"""

from hansa.simulation.attacks import Attack
from hansa.simulation.devices import (
    Behaviour,
    ComingAndGoing,
    Devices,
    Dropouts,
    Instant,
    Invitation,
    LogNormalSpeeds,
    Stragglers,
)
from hansa.simulation.parity import Variant, Way, check_parity, differences
from hansa.simulation.replay import Difference, Replay, replay
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.runtime import simulate
from hansa.simulation.table import Table
from hansa.simulation.traces import Traces

__all__ = [
    "Attack",
    "Behaviour",
    "ComingAndGoing",
    "Devices",
    "Difference",
    "Dropouts",
    "Instant",
    "Invitation",
    "LogNormalSpeeds",
    "Replay",
    "RoundRecord",
    "SimulationResult",
    "Stragglers",
    "Table",
    "Traces",
    "Variant",
    "Way",
    "check_parity",
    "differences",
    "replay",
    "simulate",
]
