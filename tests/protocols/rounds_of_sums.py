"""Rounds of secure aggregation by hand, for tests of its schemes: who leaves, and at which step."""

from collections.abc import Collection
from typing import Any

import numpy as np

from hansa.protocols.secure_sum import Client, Scheme

__all__ = ["chi_square", "clients_of", "seed_of", "summed", "values_of"]


def seed_of(client: int, turn: int = 0) -> bytes:
    return np.random.default_rng((client, turn)).bytes(32)


def values_of(n: int, size: int, seed: int = 0) -> np.ndarray:
    """A vector for each client, of whole numbers whose sum every scheme has room for; uint64 of shape (n, size)."""
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**61) // n, 2**61 // n, (n, size), np.int64).view(np.uint64)


def clients_of(
    scheme: Scheme, size: int, told: Collection[int], sharers: Collection[int], turn: int = 0
) -> tuple[dict[int, Any], dict[int, bytes]]:
    """Those who have shared, after each has opened what the others shared; and all keys that were told."""
    clients: dict[int, Client] = {u: scheme.client(u, size, seed_of(u, turn)) for u in told}
    everybody = {u: client.public for u, client in clients.items()}
    sealed = {u: clients[u].sealed(everybody) for u in sharers}
    for v in sharers:
        clients[v].opened({u: each[v] for u, each in sealed.items() if u != v})
    return {u: clients[u] for u in sharers}, everybody


def summed(
    scheme: Scheme,
    vectors: np.ndarray,
    present: Collection[int],
    *,
    told: Collection[int] | None = None,
    sharers: Collection[int] | None = None,
    revealing: Collection[int] | None = None,
) -> np.ndarray:
    """What a server comes to. told, sharers: all where None; revealing: all who are present where None."""
    everyone = range(scheme.clients)
    told = everyone if told is None else told
    sharers = told if sharers is None else sharers
    clients, everybody = clients_of(scheme, vectors.shape[1], told, sharers)
    server = scheme.server(vectors.shape[1], everybody, sharers)
    for u in present:
        server.add(u, clients[u].masked(vectors[u]))
    revealed = {u: clients[u].revealed(present) for u in (present if revealing is None else revealing)}
    return server.unmasked(revealed)


def chi_square(values: np.ndarray) -> float:
    """Of its bytes against the uniform distribution: 255 degrees of freedom, so 255 ± 23."""
    counts = np.bincount(np.ascontiguousarray(values).view(np.uint8).reshape(-1), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())
