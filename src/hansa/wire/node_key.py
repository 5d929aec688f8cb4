"""A node's own key, Ed25519 (RFC 8032): made where the node runs, and never sent.

With it the node proves who it is, to get access tokens, and signs what it hands in. A public key is written
`ed25519:` and 64 hexadecimal digits, a signature as 128.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from hansa.errors import AuthenticationError, InputError
from hansa.messages import Signature

__all__ = [
    "ASSERTION_LIFETIME",
    "Assertion",
    "NodeKey",
    "check_proof",
    "checked_public_key",
    "holds",
    "read_assertion",
]

ASSERTION_LIFETIME: Final = 60
"""Seconds for which a node's own word holds; it is used at once, and only once."""
_AUDIENCE: Final = "hansa-node"
_ALGORITHM: Final = "EdDSA"
_LEEWAY: Final = 30.0
"""Seconds by which the clocks of a node and the controller may differ."""
_REQUIRED: Final = ("sub", "project", "instance", "jti", "iat", "exp", "aud")
_MAX_ASSERTION: Final = 8192
_PREFIX: Final = "ed25519:"
_PUBLIC: Final = re.compile(_PREFIX + r"[0-9a-f]{64}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_ENROLL: Final = b"hansa enroll 1\n"
"""What is signed begins with its purpose, so that no signature made for another one holds here."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """What a node says of itself, signed with its key."""

    name: str
    project: str
    instance: str
    """Of its process, as in `Hello`."""
    id: str
    """Never used twice."""


class NodeKey:
    """The private key."""

    def __init__(self, private: ed25519.Ed25519PrivateKey) -> None:
        self._private = private
        raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public: Final = _PREFIX + raw.hex()

    @classmethod
    def new(cls) -> "NodeKey":
        """A fresh one."""
        return cls(ed25519.Ed25519PrivateKey.generate())

    @classmethod
    def of_pem(cls, pem: bytes) -> "NodeKey":
        """The key in a file; raises `InputError` for what is none."""
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise InputError("this is no private key in PEM") from error
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise InputError(f"this is a {type(private).__name__}, not an Ed25519 private key")
        return cls(private)

    @property
    def pem(self) -> bytes:
        """What to keep where the node alone reads it."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def prove(self, join_token: str) -> str:
        """A signature that shows that who has the join token has the private key too."""
        return self._private.sign(_ENROLL + join_token.encode()).hex()

    def sign(self, statement: bytes) -> Signature:
        """A signature over a statement (`hansa.statements`)."""
        return Signature(self.public, self._private.sign(statement).hex())

    def assertion(self, name: str, project: str, instance: str) -> str:
        """A token of the node's own making (a JWT), to be sent at once: see `calls.proto`."""
        now = int(datetime.now(UTC).timestamp())
        claims: dict[str, Any] = {
            "sub": name,
            "project": project,
            "instance": instance,
            "jti": secrets.token_hex(16),
            "iat": now,
            "exp": now + ASSERTION_LIFETIME,
            "aud": _AUDIENCE,
        }
        return jwt.encode(claims, self._private, algorithm=_ALGORITHM)


def checked_public_key(text: str) -> str:
    """The text, where it is a public key; raises `AuthenticationError` for anything else."""
    if not _PUBLIC.fullmatch(text):
        raise AuthenticationError("a node's public key is `ed25519:` and 64 hexadecimal digits")
    return text


def check_proof(public_key: str, proof: str, join_token: str) -> None:
    """Raise `AuthenticationError` unless the proof was made with the private half of a key, for this join token."""
    key = _public(checked_public_key(public_key))
    try:
        key.verify(bytes.fromhex(proof) if _SIGNATURE.fullmatch(proof) else b"", _ENROLL + join_token.encode())
    except InvalidSignature as error:
        raise AuthenticationError("the proof does not show that the node has the private half of its key") from error


def holds(signature: Signature, statement: bytes) -> bool:
    """Whether the signer has signed this statement. Whether it is the right signer is another question."""
    if not _PUBLIC.fullmatch(signature.signer) or not _SIGNATURE.fullmatch(signature.value):
        return False
    key = _public(signature.signer)
    try:
        key.verify(bytes.fromhex(signature.value), statement)
    except InvalidSignature:
        return False
    return True


def read_assertion(token: str, public_key: str | None = None) -> Assertion:
    """What a node says of itself. public_key: its own, and the signature holds; None: nothing is verified yet.

    Raises `AuthenticationError`.
    """
    if len(token) > _MAX_ASSERTION:
        raise AuthenticationError(f"{len(token)} characters are too many for a node's own token")
    key: Any = ""
    options: Any = {"require": list(_REQUIRED), "strict_aud": True}
    if public_key is None:
        options = {**options, "verify_signature": False}
    else:
        key = _public(public_key)
    try:
        claims = jwt.decode(token, key, [_ALGORITHM], options, audience=_AUDIENCE, leeway=_LEEWAY)
    except jwt.PyJWTError as error:
        raise AuthenticationError(
            f"the token that this node has signed does not hold ({error}): check the clocks of both machines; with a "
            "new join token (`hansa token create`) the node can be enrolled anew"
        ) from error
    texts = [claims.get(name) for name in ("sub", "project", "instance", "jti")]
    if not all(isinstance(text, str) and text and len(text) <= 128 for text in texts):  # noqa: PLR2004 - as names
        raise AuthenticationError("the token that this node has signed lacks what it must say of the node")
    if public_key is not None and claims["exp"] - claims["iat"] > ASSERTION_LIFETIME:
        raise AuthenticationError(f"a node's own token holds for {ASSERTION_LIFETIME} seconds at most")
    return Assertion(*(str(text) for text in texts))


def _public(text: str) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text[len(_PREFIX) :]))
