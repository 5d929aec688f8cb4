"""LightSecAgg: each client's mask is coded into shares, and whoever is left reveals the mask of the whole sum at once.

    y_i = x_i + z_i                         what client i sends
    s_ij = f_i(α_j)                         what it tells client j: f_i takes the U − T pieces of z_i at β_1 … β_{U−T},
                                            and T random pieces at β_{U−T+1} … β_U
    Σ_{i present} s_ij                      what client j reveals
    Σ_{i present} z_i                       what the server interpolates from any U of these

f_i is a polynomial of degree U − 1 for each coordinate of a piece, so that any U places determine it (a Lagrange code:
maximum distance separable), and any T places tell nothing of the pieces: the T random ones reach any T values at
these places, each in one way (their Lagrange coefficients are a Cauchy matrix, scaled by rows and columns, of which
every square part is invertible). So T clients together with the server learn the sum alone, and N − U may drop out.

So et al.: "LightSecAgg: a Lightweight and Versatile Design for Secure Aggregation in Federated Learning",
arXiv:2109.14236, section 4.

Numbers are whole, |Σ x_i| ≤ 2^62, and modulo 2^32 − 5 and 2^32 − 17: the two remainders tell a sum below 2^63.9, a
product of two fits uint64, and the two take 8 bytes, as the number itself does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.errors import ConfigError, InputError
from hansa.protocols.secure_sum import (
    Sealing,
    Words,
    check_hiding,
    check_masked,
    check_present,
    check_quorum,
    derived,
    listed,
    stream,
)

__all__ = ["PRIMES", "LightSecAgg", "LightSecAggClient", "LightSecAggServer", "lagrange", "product", "uniform"]

PRIMES: Final = (2**32 - 5, 2**32 - 17)
_BYTES: Final = 4 * len(PRIMES)
"""Of a number."""
_MOST: Final = 512
"""Clients, so that `product` is exact."""
_DIGIT: Final = 11
"""Bits: a remainder has three digits."""
_BLOCK: Final = 2**16
"""Numbers worked on at once: the scratch of a block stays in a core's cache."""

Residues: TypeAlias = npt.NDArray[np.uint32]
"""Below the prime."""


@dataclass(frozen=True, slots=True)
class LightSecAgg:
    """The scheme."""

    clients: int
    """N, at most 512."""
    threshold: int
    """U: as many must be left to take off the masks."""
    colluders: int
    """T: as many clients together with the server learn nothing but the sum. A share is U − T times smaller than the
    model."""

    def __post_init__(self) -> None:
        """Refuse what hides nothing, and what cannot be coded."""
        check_hiding(self.clients, self.threshold)
        if self.clients > _MOST:
            raise ConfigError(f"{self.clients} clients are more than lightsecagg can sum exactly; at most {_MOST}")
        if not 1 <= self.colluders < self.threshold:
            raise ConfigError(
                f"colluders is {self.colluders}; with threshold = {self.threshold} it must be 1 to "
                f"{self.threshold - 1}: a mask is cut into threshold − colluders pieces"
            )

    @property
    def pieces(self) -> int:
        """U − T."""
        return self.threshold - self.colluders

    def length(self, size: int) -> int:
        """Numbers of a piece of a vector of so many."""
        return -(-size // self.pieces)

    def client(self, number: int, size: int, seed: bytes) -> "LightSecAggClient":
        """A client, from 0."""
        return LightSecAggClient(self, number, size, seed)

    def server(self, size: int, everybody: Mapping[int, bytes], sharers: Collection[int]) -> "LightSecAggServer":
        """The server, which needs neither keys nor who has shared."""
        del everybody, sharers
        return LightSecAggServer(self, size)


# ── the code ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=16)
def lagrange(targets: Sequence[int], nodes: Sequence[int], prime: int) -> npt.NDArray[np.uint64]:
    """The matrix that takes a polynomial's values at the nodes to those at the targets, none of which is a node.

    Both are distinct, at least 0 and below the prime. Shape (targets, nodes).
    """
    below = [prod(node - other for other in nodes if other != node) % prime for node in nodes]
    rows = []
    for target in targets:
        above = prod(target - node for node in nodes) % prime
        rows.append(
            [above * pow((target - node) * each, -1, prime) % prime for node, each in zip(nodes, below, strict=True)]
        )
    return np.array(rows, np.uint64).reshape(len(targets), len(nodes))


def product(matrix: npt.NDArray[np.uint64], columns: Residues, prime: int) -> Residues:
    """matrix @ columns modulo a prime below 2^32, by the products of float64 that are exact.

    The columns are cut into three digits of 11 bits: a sum of 512 products of 32 by 11 bits is below 2^53.
    """
    whole = matrix.astype(np.float64)
    out = np.empty((len(matrix), columns.shape[1]), np.uint32)
    width = max(1, _BLOCK // max(matrix.shape))
    for start in range(0, columns.shape[1], width):
        block = columns[:, start : start + width]
        total: npt.NDArray[Any] = np.zeros((len(matrix), block.shape[1]), np.uint64)
        for shift in (2 * _DIGIT, _DIGIT, 0):
            digit = ((block >> shift) & (2**_DIGIT - 1)).astype(np.float64)
            total = ((total << _DIGIT) + (whole @ digit).astype(np.uint64)) % prime
        out[:, start : start + width] = total
    return out


def uniform(key: bytes, prime: int, count: int) -> Residues:
    """So many numbers below a prime, each as likely as the other, from a key of 32 bytes."""
    drawn = stream(key)
    values = np.frombuffer(drawn(4 * count), "<u4").copy()
    while (over := np.flatnonzero(values >= prime)).size:
        values[over] = np.frombuffer(drawn(4 * over.size), "<u4")
    return values


def _both(each: Callable[[int, int], Residues]) -> Residues:
    """What (place, prime) → residues gives for each prime, stacked."""
    return np.stack([each(place, prime) for place, prime in enumerate(PRIMES)])


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class LightSecAggClient:
    """One client in one round; beside the vector it holds a share of each other one, N/(U − T) times the vector."""

    def __init__(self, scheme: LightSecAgg, number: int, size: int, seed: bytes) -> None:
        """See `LightSecAgg.client`."""
        self._scheme, self._number, self._size = scheme, number, size
        self._sealing = Sealing(number, seed)
        self._seed = derived(seed, "mask")
        self._held: dict[int, Residues] = {}
        """By client, a share of its mask, of shape (primes, numbers of a piece)."""
        self._revealed = False

    @property
    def public(self) -> bytes:
        """One key, for what clients tell each other."""
        return self._sealing.public

    def sealed(self, everybody: Mapping[int, bytes]) -> dict[int, bytes]:
        """A share of its mask."""
        self._sealing.meet(self.public, everybody)
        clients = sorted(everybody)
        shares = np.empty((len(clients), len(PRIMES), self._scheme.length(self._size)), np.uint32)
        for place, prime in enumerate(PRIMES):
            shares[:, place] = self._shares(clients, place, prime)
        self._held[self._number] = shares[clients.index(self._number)].copy()
        return {
            other: self._sealing.seal(other, share.tobytes())
            for other, share in zip(clients, shares, strict=True)
            if other != self._number
        }

    def opened(self, told: Mapping[int, bytes]) -> None:
        """Keep shares of others."""
        length = self._scheme.length(self._size)
        for other, text in told.items():
            plain = self._sealing.open(other, text, _BYTES * length)
            self._held[other] = _checked(np.frombuffer(plain, "<u4").reshape(len(PRIMES), length), other)

    def forget(self, others: Collection[int]) -> None:
        """Hold none of their shares."""
        for other in others:
            del self._held[other]

    def masked(self, values: Words) -> Residues:
        """y_i of x_i, modulo each prime; shape (primes, size)."""
        check_quorum(self._held, self._scheme)
        signed = values.view(np.int64)
        return _both(
            lambda place, prime: (
                (np.mod(signed, prime) + self._pieces(place, prime).reshape(-1)[: self._size]) % prime
            ).astype(np.uint32)
        )

    def revealed(self, present: Collection[int]) -> bytes:
        """The sum of its shares of those that are present."""
        check_present(self._number, () if self._revealed else present, self._held, self._scheme)
        self._revealed = True
        total = sum(self._held[other].astype(np.uint64) for other in present)
        return (total % np.array(PRIMES, np.uint64)[:, np.newaxis]).astype("<u4").tobytes()

    def _shares(self, clients: list[int], place: int, prime: int) -> Residues:
        """Of each client; shape (clients, numbers of a piece)."""
        scheme, length = self._scheme, self._scheme.length(self._size)
        key = derived(self._seed, f"random pieces {place}")
        random = uniform(key, prime, scheme.colluders * length).reshape(scheme.colluders, length)
        code = lagrange(tuple(map(scheme.threshold.__add__, clients)), range(scheme.threshold), prime)
        return product(code, np.concatenate([self._pieces(place, prime), random]), prime)

    def _pieces(self, place: int, prime: int) -> Residues:
        """Its mask, shape (U − T, numbers of a piece)."""
        length = self._scheme.length(self._size)
        drawn = uniform(derived(self._seed, f"pieces {place}"), prime, self._scheme.pieces * length)
        return drawn.reshape(self._scheme.pieces, length)


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


class LightSecAggServer:
    """The server in one round."""

    def __init__(self, scheme: LightSecAgg, size: int) -> None:
        """See `LightSecAgg.server`."""
        self._scheme = scheme
        self._total: Words = np.zeros((len(PRIMES), size), np.uint64)

    def add(self, client: int, masked: npt.NDArray[Any]) -> None:
        """Add y_i."""
        check_masked(client, masked, self._total.shape, np.uint32)
        self._total += _checked(masked, client)

    def unmasked(self, revealed: Mapping[int, bytes]) -> Words:
        """Σ y_i − Σ z_i. What more than U clients reveal must lie on the same polynomials as what U do."""
        check_quorum(revealed, self._scheme)
        length = self._scheme.length(self._total.shape[1])
        for client, told in revealed.items():
            if len(told) != _BYTES * length:
                raise InputError(f"client {client} has revealed {len(told)} bytes, not {_BYTES} for each of {length}")
        sums = {
            client: _checked(np.frombuffer(told, "<u4").reshape(len(PRIMES), length), client)
            for client, told in sorted(revealed.items())
        }
        self._check_fit(sums)
        return _signed(*(self._without(place, prime, sums) for place, prime in enumerate(PRIMES)))

    def _without(self, place: int, prime: int, sums: Mapping[int, Residues]) -> Words:
        """The sum modulo a prime. sums: what clients have revealed."""
        total = self._total[place] % prime
        mask = self._values(range(self._scheme.pieces), place, prime, sums).reshape(-1)[: len(total)]
        unmasked: Words = (total + prime - mask) % prime
        return unmasked

    def _values(self, targets: Sequence[int], place: int, prime: int, sums: Mapping[int, Residues]) -> Residues:
        """Of the polynomials on which what the first U have revealed lies; shape (targets, numbers of a piece)."""
        first = list(sums)[: self._scheme.threshold]
        code = lagrange(targets, tuple(map(self._scheme.threshold.__add__, first)), prime)
        return product(code, np.stack([sums[client][place] for client in first]), prime)

    def _check_fit(self, sums: Mapping[int, Residues]) -> None:
        """Raise `InputError` where not all lie on the same; with two to spare it is seen whose does not."""
        if self._fits(sums):
            return
        others = {each: {client: sums[client] for client in sums if client != each} for each in sums}
        able = len(sums) > self._scheme.threshold + 1
        liars = [each for each, rest in others.items() if able and self._fits(rest)]
        raise InputError(
            f"what {listed(liars or sums)} {'has' if len(liars) == 1 else 'have'} revealed does not fit together"
            f"{' with what the others have' if liars else ''}: it is something else than the sum of the shares that it "
            "was given, or of a mask that was coded into no shares"
        )

    def _fits(self, sums: Mapping[int, Residues]) -> bool:
        spare = list(sums)[self._scheme.threshold :]
        targets = tuple(map(self._scheme.threshold.__add__, spare))
        return all(
            np.array_equal(self._values(targets, place, prime, sums), np.stack([sums[each][place] for each in spare]))
            for place, prime in enumerate(PRIMES)
            if spare
        )


def _checked(residues: Residues, client: int) -> Residues:
    """The same; `InputError` where one is not below its prime. Shape (primes, n)."""
    for each, prime in zip(residues, PRIMES, strict=True):
        if each.size and int(each.max()) >= prime:
            raise InputError(f"client {client} has sent {int(each.max())}, which is no number modulo {prime}")
    return residues


def _signed(first: Words, second: Words) -> Words:
    """The whole number of least magnitude with these remainders, modulo 2^64 (the Chinese remainder theorem)."""
    one, other = PRIMES
    steps = ((second + other - first % other) % other) * pow(one, -1, other) % other
    whole = first + steps * one
    return whole - np.where(whole > one * other // 2, np.uint64(one * other), np.uint64(0))
