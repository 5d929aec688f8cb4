"""The same run in this process or on its cores: virtual clients, a virtual clock, the bits of a network.

`simulate` runs an app, `replay` repeats a recorded run, `check_parity` runs an app in many ways and compares the bits,
`devices` says how devices behave.
"""

from hansa.simulation.devices import Behaviour, Devices, Dropouts, Instant, LogNormalSpeeds, Stragglers
from hansa.simulation.parity import Variant, Way, check_parity, differences
from hansa.simulation.replay import Difference, Replay, replay
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.runtime import simulate
from hansa.simulation.table import Table

__all__ = [
    "Behaviour",
    "Devices",
    "Difference",
    "Dropouts",
    "Instant",
    "LogNormalSpeeds",
    "Replay",
    "RoundRecord",
    "SimulationResult",
    "Stragglers",
    "Table",
    "Variant",
    "Way",
    "check_parity",
    "differences",
    "replay",
    "simulate",
]
