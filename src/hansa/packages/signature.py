"""Who stands behind a package: an Ed25519 signature (RFC 8032) over its digest, with the signer's public key.

A public key is written `ed25519:` and 64 hexadecimal digits.
"""

import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hansa.errors import AppError, InputError

__all__ = ["SIGNATURE", "Signature", "new_key", "public_key", "read_key", "sign"]

SIGNATURE: Final = "hansa-signature.json"
"""The signature's name in the archive."""
_PREFIX: Final = "ed25519:"
_KEY: Final = re.compile(_PREFIX + r"[0-9a-f]{64}")
_SIGNED: Final = re.compile(r"[0-9a-f]{128}")
_PURPOSE: Final = b"hansa package 1\n"
"""What is signed begins with it, so that no signature made for another purpose with the same key holds here."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature as it lies in an archive: whether it holds, `verify` says."""

    public_key: str
    """`ed25519:` and 64 hexadecimal digits."""
    value: str
    """128 hexadecimal digits."""

    def encode(self) -> bytes:
        """The file in the archive."""
        return (json.dumps({"public_key": self.public_key, "signature": self.value}, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, raw: bytes) -> "Signature":
        """Read a signature. Raises `AppError` for what is none."""
        try:
            document = json.loads(raw)
            signature = cls(document["public_key"], document["signature"])
            well = _KEY.fullmatch(signature.public_key) and _SIGNED.fullmatch(signature.value)
        except (ValueError, TypeError, KeyError, RecursionError):
            well = None
        if not well or signature.encode() != raw:
            raise AppError(f"the package's {SIGNATURE} is no signature: sign it again with `hansa package sign`")
        return signature

    def verify(self, digest: str) -> str:
        """The signer's public key. Raises `AppError` where the signature is not one over this digest."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see `_cryptography`

        _, ed25519 = _cryptography()
        try:
            ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key.removeprefix(_PREFIX))).verify(
                bytes.fromhex(self.value), _PURPOSE + digest.encode()
            )
        except (InvalidSignature, ValueError) as error:
            raise AppError(
                f"the package's signature does not hold: {self.public_key} has not signed the package {digest[:12]}…; "
                "it was changed after it was signed, or the signature is another package's"
            ) from error
        return self.public_key


def sign(digest: str, private_pem: str) -> Signature:
    """A signature over a package's digest."""
    key = _private(private_pem)
    return Signature(public_key(private_pem), key.sign(_PURPOSE + digest.encode()).hex())


def public_key(private_pem: str) -> str:
    """The public half of a private key: `ed25519:` and 64 hexadecimal digits; not a secret."""
    serialization, _ = _cryptography()
    raw: bytes = (
        _private(private_pem).public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    )
    return _PREFIX + raw.hex()


def new_key(path: Path) -> str:
    """Make a private key in a new file that its owner alone can read; returns the public one.

    Raises `InputError` where there is a file already.
    """
    serialization, ed25519 = _cryptography()
    pem: bytes = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"there is a file {path} already; a key is never written over: name another file") from error
    except OSError as error:
        raise InputError(f"no key can be written to {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return public_key(pem.decode())


def read_key(path: Path) -> str:
    """A private key as PEM. Raises `InputError` where there is none, or where others can read it."""
    try:
        mode = path.stat().st_mode
        pem = path.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise InputError(f"the key {path} cannot be read: {error}; `hansa package key {path}` makes one") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"others on this machine can read the key {path}: chmod 600 it if nobody has, else make another with "
            "`hansa package key`"
        )
    _private(pem)
    return pem


def _private(pem: str) -> Any:
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise InputError("the key that signs packages is not an Ed25519 private key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"the key that signs packages is a {type(key).__name__}, not an Ed25519 private key")
    return key


def _cryptography() -> tuple[Any, Any]:
    """(serialization, ed25519), loaded when a key is used: a command that needs none starts without."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as said
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - the same

    return serialization, ed25519
