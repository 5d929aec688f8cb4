"""Secure aggregation: a server learns the sum of what clients send, modulo 2^64, and of no client its own.

    y_u = x_u + PRG(b_u) + Σ_{v > u} PRG(s_uv) − Σ_{v < u} PRG(s_uv)   mod 2^64

Every pair agrees on s_uv, and every client draws b_u; of b_u and of the key behind its s_uv each other client holds a
share, of which t are needed. The masks of pairs cancel. When all is sent, the survivors reveal their shares of b_u of
each survivor, and of the key of each client that has dropped out: never both of one client.

Bonawitz et al.: "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017, figure 4, for a
server that is curious and follows the protocol: without signatures on keys and the round of consistency. X25519, HKDF
with SHA-256, ChaCha20 as the PRG, ChaCha20-Poly1305 between clients, Shamir's shares in the field of 2^521 − 1.

Everything here is pure: what a client draws comes from one seed of 32 bytes, which it must draw anew in each round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hansa.errors import ConfigError, InputError, QuorumNotMetError

__all__ = [
    "SHARE_BYTES",
    "Client",
    "PublicKeys",
    "Words",
    "check_quorum",
    "least_threshold",
    "recovered",
    "shared",
    "unmasked",
]

Words: TypeAlias = npt.NDArray[np.uint64]
"""A vector modulo 2^64; int64 is the same bits."""

_PRIME: Final = 2**521 - 1
SHARE_BYTES: Final = 66
"""Of a share of a secret of 32 bytes."""
_SECRET: Final = 32


# ── Shamir's shares ──────────────────────────────────────────────────────────────────────────────────────────────────


def shared(secret: bytes, clients: int, threshold: int, key: bytes) -> list[bytes]:
    """A share for each client, of which `threshold` recover the secret and fewer tell nothing. key: 32 bytes, drawn."""
    stream = _stream(key, (threshold - 1) * SHARE_BYTES)
    drawn = [stream[start : start + SHARE_BYTES] for start in range(0, len(stream), SHARE_BYTES)]
    polynomial = [int.from_bytes(secret, "big"), *(int.from_bytes(each, "big") % _PRIME for each in drawn)]
    shares = []
    for place in range(1, clients + 1):
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * place + coefficient) % _PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def recovered(shares: Mapping[int, bytes]) -> bytes:
    """The secret of as many shares as its threshold, by client from 0; `InputError` where they do not fit together."""
    places = {client + 1: int.from_bytes(share, "big") for client, share in shares.items()}
    secret = 0
    for place, value in places.items():
        above, below = 1, 1
        for other in places:
            if other != place:
                above, below = above * other % _PRIME, below * (other - place) % _PRIME
        secret = (secret + value * above * pow(below, -1, _PRIME)) % _PRIME
    if secret >> (8 * _SECRET):
        raise InputError(
            "the shares of a secret do not fit together: a client has revealed another share than it was given"
        )
    return secret.to_bytes(_SECRET, "big")


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """What a client tells all others, through the server."""

    encryption: bytes
    """32 bytes, for what clients tell each other."""
    masking: bytes
    """32 bytes, for the masks of pairs."""


def least_threshold(clients: int) -> int:
    """More than half, so that no two disjoint groups of clients can each recover a secret."""
    return clients // 2 + 1


class Client:
    """One client in one round."""

    def __init__(self, number: int, clients: int, threshold: int, seed: bytes) -> None:
        """number: from 0; threshold: t; seed: 32 bytes that nobody else knows, of this round alone."""
        if clients < 3:  # noqa: PLR2004 - the sum of two tells each of them the other's
            raise ConfigError(f"{clients} clients cannot hide in their sum; there must be at least 3")
        if not least_threshold(clients) <= threshold <= clients:
            raise ConfigError(
                f"threshold is {threshold}; of {clients} clients it must be {least_threshold(clients)} to {clients}"
            )
        if len(seed) != _SECRET:
            raise ConfigError(f"the seed has {len(seed)} bytes; it must have {_SECRET}, drawn at random")
        self._number, self._clients, self._threshold = number, clients, threshold
        self._encryption = X25519PrivateKey.from_private_bytes(_derived(seed, "encryption"))
        self._masking = X25519PrivateKey.from_private_bytes(_derived(seed, "masking"))
        self._own = _derived(seed, "own")
        self._keys = _derived(seed, "shares of own"), _derived(seed, "shares of masking")
        self._others: Sequence[PublicKeys] = ()
        self._held: dict[int, tuple[bytes, bytes]] = {}
        """By client, a share of its b and one of its masking key."""
        self._revealed = False

    @property
    def public(self) -> PublicKeys:
        """Its keys."""
        return PublicKeys(
            self._encryption.public_key().public_bytes_raw(), self._masking.public_key().public_bytes_raw()
        )

    def sealed(self, everybody: Sequence[PublicKeys]) -> list[bytes]:
        """What it tells each client, which the server cannot read; of itself, nothing. everybody: by client."""
        if len(everybody) != self._clients or everybody[self._number] != self.public:
            raise InputError(f"client {self._number} was not told its own keys among those of {self._clients} clients")
        if len({each.masking for each in everybody} | {each.encryption for each in everybody}) < 2 * self._clients:
            raise InputError("two clients have one key")
        self._others = everybody
        of_own = shared(self._own, self._clients, self._threshold, self._keys[0])
        of_masking = shared(self._masking.private_bytes_raw(), self._clients, self._threshold, self._keys[1])
        told = list(map(bytes.__add__, of_own, of_masking))
        self._held[self._number] = of_own[self._number], of_masking[self._number]
        return [self._box(self._number, other).encrypt(_ONCE, each, None) if other != self._number else b""
                for other, each in enumerate(told)]  # fmt: skip

    def opened(self, told: Sequence[bytes]) -> None:
        """Keep what the others have told it, by client. Raises `InputError`, which names whose word was changed."""
        for other, text in enumerate(told):
            if other != self._number:
                try:
                    plain = self._box(other, self._number).decrypt(_ONCE, text, None)
                except InvalidTag:
                    raise InputError(f"what client {other} told client {self._number} was changed on its way") from None
                self._held[other] = plain[:SHARE_BYTES], plain[SHARE_BYTES:]

    def masked(self, values: Words) -> Words:
        """y_u of x_u: without the masks of others it is uniformly random, whatever the values are."""
        return values + _mask(self._own, len(values)) + self._pairs(len(values))

    def revealed(self, present: Sequence[bool]) -> list[bytes]:
        """A share for each client: of b where it has sent its vector, else of its masking key. Once in a round.

        Raises `QuorumNotMetError` where fewer than t are present, `InputError` where it is asked again, or is absent.
        """
        if self._revealed or not present[self._number] or len(present) != self._clients:
            raise InputError(
                f"client {self._number} reveals shares once in a round, and only after it has sent its own"
            )
        check_quorum(sum(present), self._threshold)
        self._revealed = True
        return [self._held[other][0 if there else 1] for other, there in enumerate(present)]

    def _pairs(self, size: int) -> Words:
        total = np.zeros(size, np.uint64)
        for other, keys in enumerate(self._others):
            if other != self._number:
                total += _of_pair(self._masking, self._number, other, keys.masking, size)
        return total

    def _box(self, sender: int, receiver: int) -> ChaCha20Poly1305:
        other = receiver if sender == self._number else sender
        agreed = _agreed(self._encryption, self._others[other].encryption, other)
        return ChaCha20Poly1305(_derived(agreed, f"from {sender} to {receiver}"))


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────────


def unmasked(
    everybody: Sequence[PublicKeys],
    threshold: int,
    masked: Words,
    present: Sequence[bool],
    revealed: Mapping[int, Sequence[bytes]],
) -> Words:
    """Σ x_u over the clients that are present.

    everybody: keys by client; masked: Σ y_u over the present; revealed: by client, of `Client.revealed`. Raises
    `QuorumNotMetError` where fewer than t have revealed theirs, `InputError` where shares do not fit.
    """
    check_quorum(len(revealed), threshold)
    few = dict(sorted(revealed.items())[:threshold])
    total = masked.copy()
    for client, keys in enumerate(everybody):
        secret = recovered({holder: shares[client] for holder, shares in few.items()})
        if present[client]:
            total -= _mask(secret, len(total))
            continue
        masking = X25519PrivateKey.from_private_bytes(secret)
        if masking.public_key().public_bytes_raw() != keys.masking:
            raise InputError(f"the shares of client {client}'s key do not come to it")
        for other, there in enumerate(present):
            if there:  # what that one has added for it
                total += _of_pair(masking, client, other, everybody[other].masking, len(total))
    return total


def check_quorum(there: int, threshold: int) -> None:
    """Raise `QuorumNotMetError` where fewer clients are left than can take off the masks."""
    if there < threshold:
        raise QuorumNotMetError(
            f"{there} clients are left of the {threshold} that secure aggregation needs to take off the masks: "
            "nothing can be learnt of this round; run it again, with a lower `threshold` if clients drop out often"
        )


# ── keys and masks ───────────────────────────────────────────────────────────────────────────────────────────────────

_ONCE: Final = bytes(12)
"""A nonce: each key is of one text alone."""


def _derived(secret: bytes, purpose: str) -> bytes:
    return HKDF(hashes.SHA256(), _SECRET, salt=None, info=f"hansa secure sum: {purpose}".encode()).derive(secret)


def _agreed(mine: X25519PrivateKey, key: bytes, other: int) -> bytes:
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:  # of small order
        raise InputError(f"client {other} has no key that one could agree with") from None


def _stream(key: bytes, size: int) -> bytes:
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))


def _mask(secret: bytes, size: int) -> Words:
    stream: npt.NDArray[Any] = np.frombuffer(_stream(_derived(secret, "mask"), 8 * size), "<u8")
    return stream


def _of_pair(mine: X25519PrivateKey, number: int, other: int, key: bytes, size: int) -> Words:
    """What client `number` adds for another: the other adds as much the other way round."""
    mask = _mask(_agreed(mine, key, other), size)
    return mask if number < other else np.negative(mask)
