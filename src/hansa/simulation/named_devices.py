"""A model of devices by its name, as it is written on a command line or in a sweep."""

from hansa.errors import ConfigError
from hansa.simulation.devices import Devices, Dropouts, Instant, LogNormalSpeeds, Stragglers
from hansa.simulation.traces import Traces

__all__ = ["devices_of"]

_KINDS = {
    "dropouts": "dropouts:RATE",
    "stragglers": "stragglers:SHARE",
    "lognormal": "lognormal:SIGMA",
    "trace": "trace:FILE",
}


def devices_of(given: Devices | str | None) -> Devices:
    """`stragglers:0.9` or `trace:FILE` as a model; None: `Instant`. Raises `ConfigError` that lists the kinds."""
    if given is None:
        return Instant()
    if not isinstance(given, str):
        if not callable(getattr(given, "behave", None)):
            raise ConfigError(f"devices is {given!r}; it must be a name, for example dropouts:0.1, or have `behave`")
        return given
    text = given
    kind, _, amount = text.partition(":")
    if kind not in _KINDS:
        raise ConfigError(f"devices {text}: there is {', '.join(_KINDS.values())}")
    if kind == "trace":
        return Traces.read(amount)
    try:
        share = float(amount)
    except ValueError:
        raise ConfigError(f"devices {text}: after the colon comes a number, for example dropouts:0.1") from None
    match kind:
        case "dropouts":
            return Dropouts(share)
        case "stragglers":
            return Stragglers(share)
        case _:
            return LogNormalSpeeds(sigma=share)
