"""Secure aggregation: a server learns the sum of what clients send, and of no client its own.

A scheme has five steps, in each of which clients may be lost: clients tell their public keys; each tells each other a
secret, sealed; each sends its vector, masked; those that are left are told who has sent one; they reveal what takes
off the masks of the sum. `hansa.protocols.secagg` and `hansa.protocols.lightsecagg` are two, of the same shape; here is
what they share: keys, what clients tell each other through a server that cannot read it, and how many must be left.

Everything is pure: what a client draws comes from one seed of 32 bytes, which it must draw anew in each round. The
server is curious and follows the protocol; against one that cheats, clients sign (`hansa.protocols.consistency`).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

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
    "KEY_BYTES",
    "SEED_BYTES",
    "Client",
    "Scheme",
    "Sealing",
    "Server",
    "Words",
    "agreed",
    "check_hiding",
    "check_masked",
    "check_present",
    "check_quorum",
    "derived",
    "least_threshold",
    "listed",
    "stream",
]

Words: TypeAlias = npt.NDArray[np.uint64]
"""A vector modulo 2^64; int64 is the same bits."""

SEED_BYTES: Final = 32
KEY_BYTES: Final = 32
"""Of a public key."""


class Client(Protocol):
    """One client in one round."""

    @property
    def public(self) -> bytes:
        """What it tells all others, through the server: the key that others seal with, and others of its scheme."""

    def sealed(self, everybody: Mapping[int, bytes]) -> dict[int, bytes]:
        """What it tells each other client, of as many bytes each. everybody: public keys, its own too, by client."""

    def opened(self, told: Mapping[int, bytes]) -> None:
        """Keep what others have told it, by client; may be called again. `InputError` names whose word was changed."""

    def forget(self, others: Collection[int]) -> None:
        """As if these had told it nothing; before `masked`."""

    def masked(self, values: Words) -> npt.NDArray[Any]:
        """Its vector: without what others know it is uniformly random, whatever the values are."""

    def revealed(self, present: Collection[int]) -> bytes:
        """What takes off the masks. present: who has sent a vector. Once in a round.

        Raises `QuorumNotMetError` where too few are present, `InputError` where it is asked again, or is absent.
        """


class Server(Protocol):
    """The server in one round."""

    def add(self, client: int, masked: npt.NDArray[Any]) -> None:
        """Add a client's vector; `InputError` where it has another shape."""

    def unmasked(self, revealed: Mapping[int, bytes]) -> Words:
        """The sum over the clients that were added. revealed: by client, of `Client.revealed`.

        Raises `QuorumNotMetError` where too few have revealed theirs, `InputError` where what they reveal does not fit.
        """


class Scheme(Protocol):
    """How vectors are masked, and how masks come off."""

    @property
    def clients(self) -> int:
        """How many there are."""

    @property
    def threshold(self) -> int:
        """How many must be left to take off the masks."""

    def client(self, number: int, size: int, seed: bytes) -> Client:
        """A client, from 0. size: of its vector; seed: 32 bytes that nobody else knows, of this round alone."""

    def server(self, size: int, everybody: Mapping[int, bytes], sharers: Collection[int]) -> Server:
        """The server. everybody: public keys by client; sharers: who of these has told others a secret."""


# ── what clients tell each other ─────────────────────────────────────────────────────────────────────────────────────


class Sealing:
    """What a client tells others through a server that cannot read it: X25519, HKDF, ChaCha20-Poly1305."""

    def __init__(self, number: int, seed: bytes) -> None:
        """number: of the client; seed: 32 bytes."""
        if len(seed) != SEED_BYTES:
            raise ConfigError(f"the seed has {len(seed)} bytes; it must have {SEED_BYTES}, drawn at random")
        self._number = number
        self._key = X25519PrivateKey.from_private_bytes(derived(seed, "encryption"))
        self._secrets: dict[int, bytes] = {}

    @property
    def public(self) -> bytes:
        """Its key, of 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def meet(self, public: bytes, everybody: Mapping[int, bytes]) -> None:
        """Agree with each other one. public: what this client has told; everybody: what all have, by client."""
        if everybody.get(self._number) != public:
            raise InputError(
                f"client {self._number} was not told its own keys among those of {len(everybody)} clients: "
                "the server has changed them"
            )
        keys = [each[at : at + KEY_BYTES] for each in everybody.values() for at in range(0, len(each), KEY_BYTES)]
        if any(len(each) != len(public) for each in everybody.values()) or len(set(keys)) < len(keys):
            raise InputError("two clients have one key, or one has no key: each must draw its own")
        self._secrets = {
            other: agreed(self._key, key[:KEY_BYTES], other)
            for other, key in everybody.items()
            if other != self._number
        }

    def seal(self, receiver: int, plain: bytes) -> bytes:
        """For one that it has met; once in a round."""
        return self._box(self._number, receiver, self._secrets[receiver]).encrypt(_ONCE, plain, None)

    def open(self, sender: int, text: bytes, size: int) -> bytes:
        """What another one has sealed for it, which must be of so many bytes."""
        if sender not in self._secrets:
            raise InputError(f"client {self._number} was told something by client {sender}, whom it has not met")
        try:
            plain = self._box(sender, self._number, self._secrets[sender]).decrypt(_ONCE, text, None)
        except InvalidTag:
            raise InputError(f"what client {sender} told client {self._number} was changed on its way") from None
        if len(plain) != size:
            raise InputError(
                f"client {sender} told client {self._number} {len(plain)} bytes, not {size}: "
                "all must run the same program, with the same settings, on the same model"
            )
        return plain

    @staticmethod
    def _box(sender: int, receiver: int, secret: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(derived(secret, f"from {sender} to {receiver}"))


_ONCE: Final = bytes(12)
"""A nonce: each key is of one text alone."""


def derived(secret: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose."""
    return HKDF(hashes.SHA256(), SEED_BYTES, salt=None, info=f"hansa secure sum: {purpose}".encode()).derive(secret)


def agreed(mine: X25519PrivateKey, key: bytes, other: int) -> bytes:
    """The secret of two clients; `InputError` names the other, where its key is none."""
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:  # of small order
        raise InputError(f"client {other} has no key that one could agree with") from None


def stream(key: bytes) -> Callable[[int], bytes]:
    """The next so many random bytes of a key, by ChaCha20."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return lambda size: cipher.update(bytes(size))


# ── how many must be left ────────────────────────────────────────────────────────────────────────────────────────────


def least_threshold(clients: int) -> int:
    """More than half, so that no two disjoint groups of clients can each take off masks."""
    return clients // 2 + 1


def check_hiding(clients: int, threshold: int) -> None:
    """Raise `ConfigError` for what hides nothing."""
    if clients < 3:  # noqa: PLR2004 - the sum of two tells each of them the other's
        raise ConfigError(f"{clients} clients cannot hide in their sum; there must be at least 3")
    if not least_threshold(clients) <= threshold <= clients:
        raise ConfigError(
            f"threshold is {threshold}; of {clients} clients it must be {least_threshold(clients)} to {clients}"
        )


def check_quorum(there: Collection[int], scheme: Scheme) -> None:
    """Raise `QuorumNotMetError` where fewer clients are left than can take off the masks; it names the others."""
    if len(there) < scheme.threshold:
        gone = listed(sorted(set(range(scheme.clients)) - set(there)))
        raise QuorumNotMetError(
            f"{len(there)} clients are left of the {scheme.threshold} that secure aggregation needs to take off the "
            f"masks; missing: {gone}. Nothing can be learnt of this round: run it again when they are there, or with a "
            "lower `threshold` if clients drop out often"
        )


def check_present(number: int, present: Collection[int], sharers: Collection[int], scheme: Scheme) -> None:
    """What a client asks before it reveals anything: it has sent its own, and so have enough of those it knows."""
    if number not in present or not set(present) <= set(sharers):
        raise InputError(
            f"client {number} reveals shares once in a round, and only after it has sent its own, of those who have "
            "shared theirs"
        )
    check_quorum(present, scheme)


def check_masked(client: int, masked: npt.NDArray[Any], shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    """Raise `InputError` where a client's vector is of another shape."""
    if masked.shape != shape or masked.dtype != np.dtype(dtype):
        raise InputError(
            f"client {client} has sent {masked.dtype} of shape {masked.shape}, not {np.dtype(dtype)} of shape {shape}: "
            "does it run the same program, on the same model?"
        )


def listed(clients: Iterable[int]) -> str:
    """Clients in words, the first dozen."""
    names = [str(each) for each in clients]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""  # noqa: PLR2004 - a dozen
    return f"client{'s' * (len(names) != 1)} {', '.join(names[:12])}{more}"
