"""What clients of secure aggregation sign, so that a server that cheats is found out.

The server passes on who is there, with which keys, and from which model they train. It could put a key of its own in
the middle, or tell clients different things. So each signs, with a key that the others know beforehand,

    roster  = text("hansa secure roster 1") number(round) text(digest of the model)
              number(clients), then for each number(client) text(its public keys, in hexadecimal digits)
    present = text("hansa secure present 1") text(digest of the roster) number(clients), then each number(client)

with `text` and `number` of `hansa.statements`, and digests by blake3. A client masks nothing before all that have told
it a share have signed its roster, and it reveals nothing before as many as the threshold have signed its list of who is
present. It draws keys anew in each round and signs no roster without its own, so that no roster of another round or
session can pass for one.

Bonawitz et al.: CCS 2017, figure 4, the steps against a server that does not follow the protocol. The model is in it
since a server that tells each another one can single a client out (Pasquini et al., arXiv:2111.07380).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hansa.arrays import Arrays
from hansa.errors import ConfigError, InputError
from hansa.statements import number, text

__all__ = ["SIGNATURE_BYTES", "Signer", "check_signers", "present_statement", "roster_statement"]

SIGNATURE_BYTES: Final = 64
_PREFIX: Final = "ed25519:"


class Signer:
    """A client that signs, and knows with which keys the others do."""

    def __init__(self, client: int, private: str, signers: Sequence[str]) -> None:
        """private: its Ed25519 key, in PEM; signers: public keys by client, `ed25519:` and 64 hexadecimal digits."""
        self._client, self._signers = client, signers
        self._private = _private(private, client)
        own = _PREFIX + self._private.public_key().public_bytes_raw().hex()
        if signers[client] != own:
            raise ConfigError(
                f"client {client} signs with the key {own}, and `signers` says {signers[client]}: "
                "name the other one, or give it the key that belongs to this"
            )

    def sign(self, statement: bytes) -> bytes:
        """Its signature."""
        return self._private.sign(statement)

    def check(self, statement: bytes, signatures: Mapping[int, bytes], needed: Collection[int], what: str) -> None:
        """Raise `InputError` unless each of `needed` has signed; it names the first who has not."""
        for client in needed:
            try:
                _public(self._signers[client]).verify(signatures.get(client, b""), statement)
            except InvalidSignature:
                raise InputError(
                    f"client {client} has not signed {what} that client {self._client} was told: the server tells "
                    "clients different things, or has changed what they say; nothing is sent to it"
                ) from None


def check_signers(signers: Sequence[str], clients: int) -> None:
    """Raise `ConfigError` unless there is a key for each client."""
    if len(signers) != clients:
        raise ConfigError(f"`signers` has {len(signers)} keys; it must have one for each of {clients} clients")
    for client, key in enumerate(signers):
        try:
            _public(key)
        except ValueError:
            raise ConfigError(
                f"the key of client {client} in `signers` is {key!r}; it must be {_PREFIX} and 64 hexadecimal digits, "
                "as `hansa package key FILE` prints it"
            ) from None
    if len(set(signers)) < clients:
        raise ConfigError("two clients have one key in `signers`: each must have its own")


def roster_statement(round_number: int, model: Arrays, keys: Mapping[int, bytes]) -> bytes:
    """What clients sign of keys. keys: public ones, by client."""
    told = b"".join(number(client) + text(each.hex()) for client, each in sorted(keys.items()))
    return text("hansa secure roster 1") + number(round_number) + text(_digest(model)) + number(len(keys)) + told


def present_statement(roster: bytes, present: Collection[int]) -> bytes:
    """What clients sign of who is present. roster: its statement."""
    told = b"".join(map(number, sorted(present)))
    return text("hansa secure present 1") + text(blake3(roster).hexdigest()) + number(len(present)) + told


def _digest(model: Arrays) -> str:
    hashed = blake3(number(len(model)))
    for name, array in model.items():
        hashed.update(text(name) + text(array.dtype.str) + number(array.ndim) + b"".join(map(number, array.shape)))
        hashed.update(array.tobytes())
    return hashed.hexdigest()


def _private(pem: str, client: int) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the signing key of client {client} is no private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the signing key of client {client} is a {type(key).__name__}, not one of Ed25519")
    return key


def _public(key: str) -> Ed25519PublicKey:
    """Raises `ValueError` for what is none."""
    if not key.startswith(_PREFIX):
        raise ValueError(key)
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.removeprefix(_PREFIX)))
