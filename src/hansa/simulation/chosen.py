"""Whom of the virtual clients a run may invite, by their names and their labels."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError
from hansa.messages import ClientInfo, RoundRules
from hansa.rounds.eligible import chosen, eligible
from hansa.simulation.clients import SomeClients, VirtualClients

__all__ = ["Labels", "chosen_clients", "labels_of", "read_labels"]

Labels: TypeAlias = Mapping[str, Mapping[str, str]] | Callable[[ClientInfo], Mapping[str, str]]
"""The labels of virtual clients: by name, or by a function of a client and its share."""


def chosen_clients(
    rules: RoundRules, clients: VirtualClients, labels: Labels | None
) -> tuple[npt.NDArray[np.int64] | None, Mapping[str, Mapping[str, str]]]:
    """The numbers of the clients that may be invited, in the order of their names, and the labels that chose them.

    None: all may. Raises `ConfigError` where too few may.
    """
    if not rules.only and not rules.labels:
        return None, {}
    may = eligible(rules)
    of = labels_of(clients, labels)
    named: Sequence[str] = sorted({name for name in rules.only if name in clients}) if rules.only else clients
    numbers = np.array([clients.number(name) for name in named if may(name, of(name))], np.int64)
    needed = max(rules.min_clients, rules.quorum)
    if len(numbers) < needed:
        raise ConfigError(
            f"{len(numbers)} of the {len(clients)} virtual clients are {chosen(rules)}, and a round needs {needed}: "
            "choose others, or give their labels"
        )
    return numbers, {name: dict(of(name)) for name in SomeClients(numbers)} if rules.labels else {}


def read_labels(path: Path) -> Mapping[str, Mapping[str, str]]:
    """A TOML file with a table of labels for each client: `[client-0]` and then `region = "eu"`."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"the labels in {path} cannot be read: {error}") from error
    for client, labels in tables.items():
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            raise ConfigError(f'{path}: [{client}] must hold texts alone, for example region = "eu"')
    return tables


def labels_of(clients: VirtualClients, labels: Labels | None) -> Callable[[str], Mapping[str, str]]:
    """Name → labels."""
    if labels is None:
        return lambda _name: {}
    if isinstance(labels, Mapping):
        by_name = labels
        return lambda name: by_name.get(name, {})
    asked = labels
    return lambda name: asked(clients.share(name))
