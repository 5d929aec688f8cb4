"""The same run in this process or on its cores: virtual clients, a virtual clock, the bits of a network.

`simulate` runs an app, `check_parity` runs it in many ways and compares the bits, `devices` says how devices behave.
"""

from hansa.simulation.attacks import Attack
from hansa.simulation.devices import Behaviour, Devices, Dropouts, Instant, LogNormalSpeeds, Stragglers
from hansa.simulation.parity import Variant, Way, check_parity, differences
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.runtime import simulate

__all__ = [
    "Attack",
    "Behaviour",
    "Devices",
    "Dropouts",
    "Instant",
    "LogNormalSpeeds",
    "RoundRecord",
    "SimulationResult",
    "Stragglers",
    "Variant",
    "Way",
    "check_parity",
    "differences",
    "simulate",
]
