"""SecAgg: masks that pairs of clients agree on, and Shamir's shares of them for who drops out.

    y_u = x_u + PRG(b_u) + Σ_{v > u} PRG(s_uv) − Σ_{v < u} PRG(s_uv)   mod 2^64

Every pair agrees on s_uv, and every client draws b_u; of b_u and of the key behind its s_uv each other client holds a
share, of which t are needed. The masks of pairs cancel. When all is sent, the survivors reveal their shares of b_u of
each survivor, and of the key of each client that has dropped out: never both of one client.

Bonawitz et al.: "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4; its
signatures and round of consistency are in `hansa.protocols.consistency`. X25519, HKDF with SHA-256, ChaCha20 as the
PRG, ChaCha20-Poly1305 between clients, Shamir's shares in the field of 2^521 − 1.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hansa.errors import InputError
from hansa.protocols.secure_sum import (
    KEY_BYTES,
    SEED_BYTES,
    Sealing,
    Words,
    agreed,
    check_hiding,
    check_masked,
    check_present,
    check_quorum,
    derived,
    stream,
)

__all__ = ["SHARE_BYTES", "SecAgg", "SecAggClient", "SecAggServer", "recovered", "shared"]

_PRIME: Final = 2**521 - 1
SHARE_BYTES: Final = 66
"""Of a share of a secret of 32 bytes."""


@dataclass(frozen=True, slots=True)
class SecAgg:
    """The scheme: `threshold` = t, and fewer than t clients together with the server learn nothing but the sum."""

    clients: int
    threshold: int

    def __post_init__(self) -> None:
        """Refuse what hides nothing."""
        check_hiding(self.clients, self.threshold)

    def client(self, number: int, size: int, seed: bytes) -> "SecAggClient":
        """A client, from 0."""
        return SecAggClient(self, number, size, seed)

    def server(self, size: int, everybody: Mapping[int, bytes], sharers: Collection[int]) -> "SecAggServer":
        """The server."""
        return SecAggServer(self, size, everybody, sharers)


# ── Shamir's shares ──────────────────────────────────────────────────────────────────────────────────────────────────


def shared(secret: bytes, clients: int, threshold: int, key: bytes) -> list[bytes]:
    """A share for each client, of which `threshold` recover the secret and fewer tell nothing. key: 32 bytes, drawn."""
    drawn = stream(key)
    higher = (int.from_bytes(drawn(SHARE_BYTES), "big") % _PRIME for _ in range(threshold - 1))
    polynomial = [int.from_bytes(secret, "big"), *higher]
    shares = []
    for place in range(1, clients + 1):
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * place + coefficient) % _PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def recovered(shares: Mapping[int, bytes]) -> bytes:
    """The secret of as many shares as its threshold, by client from 0; of others, any number of 32 bytes."""
    values = (int.from_bytes(share, "big") for share in shares.values())
    secret = sum(map(int.__mul__, values, _at_zero(tuple(client + 1 for client in shares)))) % _PRIME
    return (secret & ((1 << 8 * SEED_BYTES) - 1)).to_bytes(SEED_BYTES, "big")


@lru_cache(maxsize=16)
def _at_zero(places: tuple[int, ...]) -> list[int]:
    """The weight of each place's value in that at 0."""
    weights = []
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above, below = above * other % _PRIME, below * (other - place) % _PRIME
        weights.append(above * pow(below, -1, _PRIME) % _PRIME)
    return weights


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class SecAggClient:
    """One client in one round."""

    def __init__(self, scheme: SecAgg, number: int, size: int, seed: bytes) -> None:
        """See `SecAgg.client`."""
        self._scheme, self._number, self._size = scheme, number, size
        self._sealing = Sealing(number, seed)
        self._masking = X25519PrivateKey.from_private_bytes(derived(seed, "masking"))
        self._own = derived(seed, "own")
        self._keys = derived(seed, "shares of own"), derived(seed, "shares of masking")
        self._everybody: Mapping[int, bytes] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}
        """By client, a share of its b and one of its masking key."""
        self._revealed = False

    @property
    def public(self) -> bytes:
        """Two keys, for what clients tell each other and for the masks of pairs, and a commitment to b."""
        return self._sealing.public + self._masking.public_key().public_bytes_raw() + _committed(self._own)

    def sealed(self, everybody: Mapping[int, bytes]) -> dict[int, bytes]:
        """A share of its b and one of its masking key."""
        self._sealing.meet(self.public, everybody)
        self._everybody = everybody
        clients, threshold = self._scheme.clients, self._scheme.threshold
        of_own = shared(self._own, clients, threshold, self._keys[0])
        of_masking = shared(self._masking.private_bytes_raw(), clients, threshold, self._keys[1])
        self._held[self._number] = of_own[self._number], of_masking[self._number]
        return {
            other: self._sealing.seal(other, of_own[other] + of_masking[other])
            for other in everybody
            if other != self._number
        }

    def opened(self, told: Mapping[int, bytes]) -> None:
        """Keep shares of others."""
        for other, text in told.items():
            plain = self._sealing.open(other, text, 2 * SHARE_BYTES)
            self._held[other] = plain[:SHARE_BYTES], plain[SHARE_BYTES:]

    def forget(self, others: Collection[int]) -> None:
        """Neither hold their shares nor mask with them."""
        for other in others:
            del self._held[other]

    def masked(self, values: Words) -> Words:
        """y_u of x_u."""
        check_quorum(self._held, self._scheme)
        return values + _mask(self._own, self._size) + self._pairs()

    def revealed(self, present: Collection[int]) -> bytes:
        """A share of each that has shared: of b where it has sent its vector, else of its masking key."""
        check_present(self._number, () if self._revealed else present, self._held, self._scheme)
        self._revealed = True
        return b"".join(shares[0 if other in present else 1] for other, shares in sorted(self._held.items()))

    def _pairs(self) -> Words:
        total = np.zeros(self._size, np.uint64)
        for other in self._held:
            if other != self._number:
                total += _of_pair(self._masking, self._number, other, self._everybody[other], self._size)
        return total


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


class SecAggServer:
    """The server in one round."""

    def __init__(self, scheme: SecAgg, size: int, everybody: Mapping[int, bytes], sharers: Collection[int]) -> None:
        """See `SecAgg.server`."""
        self._scheme, self._everybody, self._sharers = scheme, everybody, sorted(sharers)
        self._total: Words = np.zeros(size, np.uint64)
        self._present: set[int] = set()

    def add(self, client: int, masked: npt.NDArray[Any]) -> None:
        """Add y_u."""
        check_masked(client, masked, self._total.shape, np.uint64)
        self._total += masked
        self._present.add(client)

    def unmasked(self, revealed: Mapping[int, bytes]) -> Words:
        """Σ y_u without the own masks of the present, and those of pairs of which one has dropped out."""
        check_quorum(revealed, self._scheme)
        few = dict(sorted(revealed.items())[: self._scheme.threshold])
        for client, shares in few.items():
            if len(shares) != SHARE_BYTES * len(self._sharers):
                raise InputError(
                    f"client {client} has revealed {len(shares)} bytes, not {SHARE_BYTES} for each of "
                    f"{len(self._sharers)} clients"
                )
        total = self._total.copy()
        for place, client in enumerate(self._sharers):
            part = slice(place * SHARE_BYTES, (place + 1) * SHARE_BYTES)
            secret = recovered({holder: shares[part] for holder, shares in few.items()})
            _, key, commitment = _parts(self._everybody[client])
            if client in self._present:
                _check(client, _committed(secret), commitment)
                total -= _mask(secret, len(total))
                continue
            masking = X25519PrivateKey.from_private_bytes(secret)
            _check(client, masking.public_key().public_bytes_raw(), key)
            for other in self._present:  # what that one has added for it
                total += _of_pair(masking, client, other, self._everybody[other], len(total))
        return total


# ── masks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mask(secret: bytes, size: int) -> Words:
    return np.frombuffer(stream(derived(secret, "mask"))(8 * size), "<u8")


def _of_pair(mine: X25519PrivateKey, number: int, other: int, public: bytes, size: int) -> Words:
    """What client `number` adds for another: the other adds as much the other way round. public: that of the other."""
    mask = _mask(agreed(mine, _parts(public)[1], other), size)
    return mask if number < other else np.negative(mask)


def _committed(own: bytes) -> bytes:
    """What tells b from any other, and nothing of it: of as many bytes as a key."""
    return derived(own, "commitment")


def _parts(public: bytes) -> tuple[bytes, bytes, bytes]:
    return public[:KEY_BYTES], public[KEY_BYTES : 2 * KEY_BYTES], public[2 * KEY_BYTES :]


def _check(client: int, found: bytes, told: bytes) -> None:
    if found != told:
        raise InputError(
            f"the shares of a secret of client {client} do not come to it: a client has revealed another share than it "
            "was given, or was given a wrong one"
        )
