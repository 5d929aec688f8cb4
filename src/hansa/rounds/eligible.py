"""Who may be invited at all: the clients that a run names, or those with the labels that it asks for."""

from collections.abc import Callable, Mapping

from hansa.errors import ConfigError
from hansa.messages import RoundRules

__all__ = ["check_chosen", "chosen", "eligible", "label_pairs"]

_MOST = 10_000
"""Names that a run may give: they travel with every task."""


def label_pairs(labels: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    """Key → the values that are asked for, of texts as "region=eu"; raises `ConfigError` for another text."""
    wanted: dict[str, frozenset[str]] = {}
    for text in labels:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"the label {text!r} has no value: write it as region=eu")
        wanted[key] = wanted.get(key, frozenset()) | {value}
    return wanted


def eligible(rules: RoundRules) -> Callable[[str, Mapping[str, str]], bool]:
    """(name, labels) of a client → whether these rules let it be invited."""
    names, wanted = frozenset(rules.only), label_pairs(rules.labels)

    def may(name: str, labels: Mapping[str, str]) -> bool:
        return (not names or name in names) and all(labels.get(key) in values for key, values in wanted.items())

    return may


def chosen(rules: RoundRules) -> str:
    """Whom these rules choose, in words, for example "named north, south and labelled region=eu"; empty: anybody."""
    named = f"named {', '.join(rules.only[:_SHOWN])}{' …' if len(rules.only) > _SHOWN else ''}" if rules.only else ""
    labelled = f"labelled {', '.join(rules.labels)}" if rules.labels else ""
    return " and ".join(filter(None, (named, labelled)))


def check_chosen(rules: RoundRules) -> None:
    """Raise `ConfigError` for a choice of clients that cannot be."""
    label_pairs(rules.labels)
    if len(set(rules.only)) < len(rules.only) or not all(rules.only):
        raise ConfigError(f"only is {', '.join(rules.only)}: each client must have a name, and be there once")
    if len(rules.only) > _MOST:
        raise ConfigError(f"only names {len(rules.only)} clients, and may name {_MOST}: label them, and choose a label")
    needed = max(rules.min_clients, rules.quorum)
    if rules.only and len(rules.only) < needed:
        raise ConfigError(
            f"only names {len(rules.only)} clients, and a round needs {needed}; name more or lower min_clients"
        )


_SHOWN = 5
