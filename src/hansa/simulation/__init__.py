"""The same run in this process or on its cores: virtual clients, a virtual clock, the bits of a network.

`simulate` runs an app, `check_parity` runs it in many ways and compares the bits, `devices` says how devices behave,
and `traces` when they are there.
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
from hansa.simulation.result import RoundRecord, SimulationResult
from hansa.simulation.runtime import simulate
from hansa.simulation.traces import Traces

__all__ = [
    "Attack",
    "Behaviour",
    "ComingAndGoing",
    "Devices",
    "Dropouts",
    "Instant",
    "Invitation",
    "LogNormalSpeeds",
    "RoundRecord",
    "SimulationResult",
    "Stragglers",
    "Traces",
    "Variant",
    "Way",
    "check_parity",
    "differences",
    "simulate",
]
