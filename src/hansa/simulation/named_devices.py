"""A model of devices by its name, as it is written on a command line or in a sweep."""

from hansa.errors import ConfigError
from hansa.simulation.devices import Devices, Dropouts, Instant, LogNormalSpeeds, Stragglers
from hansa.simulation.traces import Traces

__all__ = ["devices_of"]


def devices_of(text: str | None) -> Devices:
    """`stragglers:0.9` or `trace:FILE` as a model; None: `Instant`. Raises `ConfigError` that lists the kinds."""
    if text is None:
        return Instant()
    kind, _, amount = text.partition(":")
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
        case "lognormal":
            return LogNormalSpeeds(sigma=share)
        case _:
            raise ConfigError(
                f"devices {text}: there is dropouts:RATE, stragglers:SHARE, lognormal:SIGMA and trace:FILE"
            )
