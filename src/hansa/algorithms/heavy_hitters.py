"""Heavy hitters: what many clients type, visit or prescribe, without a list of what there may be.

The server grows a trie of prefixes, one byte per round:

    client i:   of each prefix p of the trie and each byte b, how many of its items begin with p b
    server:     the prefixes p b that were counted θ times or more, the k most frequent of them, are the next trie

Zhu, Kairouz, McMahan, Sun, Li: "Federated Heavy Hitters Discovery with Differential Privacy", AISTATS 2020,
arXiv:1902.08534 (TrieHH), but that all clients vote in each round and on all prefixes at once, so that its sampling,
which is its privacy, is not there.

The sums are exact (`algorithms.exact`). A prefix is counted at least as often as each item that begins with it. So,
with a data set of n items and k ≥ n/θ places, after as many rounds as the longest item has bytes the trie is what a
count of the joined items gives, to the bit: all items that are there θ times or more, and no others. With fewer places
an item is missed where k prefixes were more frequent than its own.
"""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np

from hansa.algorithm import Aggregate, Aggregator, Algorithm, State, Trainer
from hansa.algorithms.exact import COUNTS, summing
from hansa.algorithms.options import check_count
from hansa.algorithms.parts import joined, part
from hansa.arrays import Arrays
from hansa.errors import AppError, ConfigError, InputError
from hansa.messages import Task, Update

__all__ = ["broadcast", "client_update", "heavy_hitters", "server_update"]

_BYTES = 256


def heavy_hitters(aggregator: Aggregator, *, least: int = 2, per: str = "item") -> Algorithm:
    """least: θ ≥ 1; per: "item", where an item counts as often as it is there, or "client", once for each client."""
    check_count("heavy-hitters", "least", least)
    if per not in {"item", "client"}:
        raise ConfigError(f"heavy-hitters: per is {per!r}; it must be 'item' or 'client'")
    return Algorithm(
        name="heavy-hitters",
        init=_init,
        broadcast=broadcast,
        client_update=partial(client_update, once=per == "client"),
        aggregator=summing("heavy-hitters", aggregator, COUNTS),
        server_update=partial(server_update, least=least),
        sends="exact sums",
    )


def _init(params: Arrays) -> State:
    """`prefixes` of shape (k, length), bytes, 0 behind the end of an item; and how often each was, `counts` (k,)."""
    if list(params) != ["counts", "prefixes"] or params["prefixes"].shape[:1] != params["counts"].shape:
        raise ConfigError("heavy-hitters has a trie for a model: give hansa.App an ItemsTrainer (hansa.training.items)")
    return State(params)


def broadcast(state: State) -> Arrays:
    """The prefixes and how many of their bytes are known; and room for the counts of each with each next byte."""
    places, length = state.params["prefixes"].shape
    known = {"bytes": np.array(min(state.round, length), np.int64), "counts": state.params["counts"]}
    trie = {"prefixes": state.params["prefixes"]}
    return joined({"known": known, "trie": trie, "sums": {"counts": COUNTS.room(places, _BYTES)}})


def client_update(trainer: Trainer, model: Arrays, task: Task, *, once: bool) -> Update:
    """How many of its items go on with which byte after which prefix."""
    del trainer
    known, prefixes = part(model, "known"), part(model, "trie")["prefixes"]
    places, length = prefixes.shape
    there = int(known["bytes"])
    rows = {
        bytes(prefix[:there].astype(np.uint8)): row
        for row, (prefix, count) in enumerate(zip(prefixes, known["counts"], strict=True))
        if count or (there == 0 and row == 0)
    }
    votes = np.zeros((places, _BYTES))
    items = _items(task, length)
    for item, times in items.items():
        row = rows.get(item[:there])
        if row is not None:
            votes[row, item[there] if there < length else 0] += 1 if once else times
    counted = COUNTS.summed(votes, lambda digit: digit, places, _BYTES)
    quiet = {name: np.zeros_like(array) for name, array in known.items()}
    told = {"known": quiet, "trie": {"prefixes": np.zeros_like(prefixes)}, "sums": {"counts": counted}}
    return Update(joined(told), items.total())


def server_update(state: State, aggregate: Aggregate, *, least: int) -> State:
    """The trie with one byte more; when items are known to the end, how often they are now."""
    places, length = state.params["prefixes"].shape
    votes = COUNTS.totals(part(aggregate.mean, "sums")["counts"], len(aggregate.contributions)).astype(np.int64)
    grown = []
    for row, byte in np.argwhere(votes >= least).tolist():
        prefix = state.params["prefixes"][row].copy()
        if state.round < length:
            prefix[state.round] = byte
        grown.append((-int(votes[row, byte]), prefix.tolist()))
    counts, prefixes = np.zeros(places, np.int64), np.zeros((places, length), np.int64)
    for row, (count, prefix) in enumerate(sorted(grown)[:places]):
        counts[row], prefixes[row] = -count, prefix
    return replace(state, params=Arrays({"counts": counts, "prefixes": prefixes}), round=state.round + 1)


def _items(task: Task, length: int) -> Counter[bytes]:
    """Each item with how often it is there, cut to this length, with 0 behind its end."""
    who, data = task.client.name, task.data
    if isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
        raise AppError(f"{who} has a {type(data).__name__} as its data: let @app.data return a list of texts or bytes")
    items: Counter[bytes] = Counter()
    for item in data:
        if not isinstance(item, str | bytes):
            raise AppError(f"{who} has a {type(item).__name__} among its items: give texts or bytes")
        coded = item.encode() if isinstance(item, str) else item
        if not coded or b"\0" in coded:
            raise InputError(f"{who} has the item {item!r:.80}: an item must not be empty, and hold no NUL")
        items[coded[:length].ljust(length, b"\0")] += 1
    if not items:
        raise InputError(f"{who} has no items: leave this client out, or give it data")
    return items
