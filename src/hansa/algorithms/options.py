"""What an algorithm's options may be: a wrong one is refused when the algorithm is made, by its name and its range."""

from hansa.aggregators.options import check_count, check_fraction, check_not_negative, check_positive, check_whole
from hansa.algorithm import Aggregate
from hansa.errors import ConfigError

__all__ = ["check_count", "check_fraction", "check_not_negative", "check_positive", "check_taking_part", "check_whole"]


def check_taking_part(algorithm: str, aggregate: Aggregate, num_clients: int) -> float:
    """|S|/N, the share of all clients that took part; more than there are is a `ConfigError`."""
    taking_part = len(aggregate.contributions)
    if taking_part > num_clients:
        raise ConfigError(f"{algorithm}: {taking_part} clients took part, but num_clients is {num_clients}: raise it")
    return taking_part / num_clients
