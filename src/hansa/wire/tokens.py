"""Who is calling: a JSON Web Token, signed with Ed25519 (RFC 7519, RFC 8037), that names an identity, role and project.

Whoever has the private key issues tokens; the public key alone verifies them, so combiners need no secret. Revocation
is the issuer's affair, by `Identity.token_id`. A client only carries its token, and `holder` reads what it says.

A node gets a join token once, and with it makes a key of its own known; its access tokens hold for some minutes, and
are given to who signs with that key (`node_key`).
"""

import base64
import binascii
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from hansa.errors import AuthenticationError, InputError
from hansa.wire.frames import CENTRAL, Role

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = [
    "AUDIENCE",
    "JOINING",
    "Identity",
    "holder",
    "issue",
    "new_key",
    "public_key",
    "public_keys_in_hex",
    "verify",
]

AUDIENCE: Final = "hansa"
"""What tokens are for; one of another system, signed with the same key, does not hold here."""
JOINING: Final = "hansa-join"
"""What a join token is for, and for nothing else."""

_ALGORITHM: Final = "EdDSA"
_REQUIRED: Final = ("sub", "role", "project", "jti", "iat", "aud")
_LEEWAY: Final = 30.0
"""Seconds by which the clocks of issuer and verifier may differ."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_MAX_TOKEN: Final = 8192
"""Characters; ours have about 300."""
_END: Final = "-----END PUBLIC KEY-----"
_FLAWS: Final = {
    "ExpiredSignatureError": "the token has expired: ask for a new one",
    "ImmatureSignatureError": "the token was issued in the future: check the clocks of both machines",
    "InvalidAudienceError": "the token is for another audience: use one that this network issued",
    "InvalidAlgorithmError": f"the token is not signed with {_ALGORITHM}: use one that this network issued",
    "InvalidSignatureError": "the token's signature does not hold: another network issued it, or it was changed",
}
"""By the names of PyJWT's errors, which is not imported here."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token was issued to."""

    name: str
    """Unique in its project."""
    role: Role
    project: str
    """Empty: a person's, in every project that they are a member of."""
    token_id: str
    """What a revocation names: a node's access tokens all have that of their grant."""
    key: str = ""
    """Of a node's access token: the public key that it signs with."""
    former: str = ""
    """The one before, while what it has signed may be on its way; empty: there is none."""

    @property
    def keys(self) -> frozenset[str]:
        """Public keys whose signatures are this node's."""
        return frozenset({self.key, self.former} - {""})


def new_key() -> str:
    """A fresh private key, as PEM: keep it where only the server reads it."""
    serialization, ed25519 = _cryptography()
    pem: bytes = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def public_key(private_pem: str) -> str:
    """The public half of a private key, as PEM: not a secret. Raises `InputError` for anything else."""
    serialization, _ = _cryptography()
    pem: bytes = (
        _private(private_pem)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem.decode()


def public_keys_in_hex(public_pem: str) -> list[str]:
    """Each of these keys as `ed25519:` and 64 hexadecimal digits. public_pem: as for `verify`."""
    return ["ed25519:" + key.public_bytes_raw().hex() for key in _public_keys(public_pem)]


def issue(
    private_pem: str,
    name: str,
    role: Role,
    project: str,
    expires_in: float | None = None,
    *,
    audience: str = AUDIENCE,
    grant: str = "",
    key: str = "",
    former: str = "",
) -> tuple[str, str]:
    """(token, its id). expires_in: seconds from now; None: it holds until it is revoked.

    grant, key, former: of a node's access token: what all that are given to one process have in common, the node's own
    public key, and the one before.

    Raises `InputError` for a name that could not be a file's name or that is reserved.
    """
    for what, text in (("name", name), ("project", project)):
        if not _NAME.fullmatch(text) and not (what == "project" and _everywhere(role.value, text)):
            raise InputError(
                f"the {what} {text[:140]!r} cannot be used: take 1 to 128 of A-Z a-z 0-9 . _ @ -, "
                "a letter or digit first"
            )
    if name == CENTRAL:
        raise InputError(f"the name {CENTRAL!r} is reserved for evaluation beside the server: take another")
    import jwt  # noqa: PLC0415 - loads cryptography, see `_cryptography`

    now = datetime.now(UTC).timestamp()
    token_id = secrets.token_hex(16)
    claims: dict[str, Any] = {
        "sub": name,
        "role": role.value,
        "project": project,
        "jti": token_id,
        "iat": int(now),
        "aud": audience,
    }
    claims |= {name: value for name, value in (("grant", grant), ("key", key), ("former", former)) if value}
    if expires_in is not None:
        claims["exp"] = int(now + expires_in)
    return jwt.encode(claims, _private(private_pem), algorithm=_ALGORITHM), token_id


def verify(public_pem: str, token: str, audience: str = AUDIENCE) -> Identity:
    """Whom the token was issued to. Raises `AuthenticationError` that says what is wrong with it.

    public_pem: one key or several, one after another: the newest, then those that signed before it.
    Whether it has been revoked is not known here: ask the issuer for `token_id`.
    """
    import jwt  # noqa: PLC0415 - loads cryptography, see `_cryptography`

    if len(token) > _MAX_TOKEN:
        raise AuthenticationError(f"{len(token)} characters are too many for a token")
    *former, last = _public_keys(public_pem)
    for key in (*former, last):
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=audience,
                leeway=_LEEWAY,
                options={"require": list(_REQUIRED), "strict_aud": True},
            )
        except jwt.InvalidSignatureError as error:
            if key is last:
                raise AuthenticationError(_flaw(error)) from error
        except jwt.PyJWTError as error:
            raise AuthenticationError(_flaw(error)) from error
        else:
            return _identity(claims)
    raise AssertionError("there is a last key")


def holder(token: str) -> Identity:
    """What a token says of its own holder. Nothing is verified: never decide by it what another may do.

    Raises `AuthenticationError` for what is not a token at all.
    """
    try:
        payload = token.split(".")[1].encode("ascii")
        claims = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (IndexError, ValueError, binascii.Error, RecursionError) as error:
        raise AuthenticationError("this is not a hansa token: copy it whole, as it was printed") from error
    if not isinstance(claims, dict):
        raise AuthenticationError("this is not a hansa token: it has no claims")
    return _identity(claims)


def _identity(claims: dict[str, Any]) -> Identity:
    everywhere = _everywhere(claims.get("role"), claims.get("project"))
    for claim in ("sub", "role", "project", "jti"):
        value = claims.get(claim)
        if not isinstance(value, str) or not (value or (claim == "project" and everywhere)):
            raise AuthenticationError(f"the token's claim {claim!r} is missing or not text: ask for a new token")
    for claim in ("sub", "project"):
        if not _NAME.fullmatch(claims[claim]) and not (claim == "project" and everywhere):
            raise AuthenticationError(f"the token's {claim!r} cannot be used as a name: ask for a new token")
    try:
        role = Role(claims["role"])
    except ValueError as error:
        known = ", ".join(Role)
        raise AuthenticationError(f"the token has the role {claims['role'][:40]!r}; known are {known}") from error
    more = {claim: claims.get(claim, "") for claim in ("grant", "key", "former")}
    for claim, value in more.items():
        if not isinstance(value, str):
            raise AuthenticationError(f"the token's claim {claim!r} is not text: ask for a new token")
    return Identity(claims["sub"], role, claims["project"], more["grant"] or claims["jti"], more["key"], more["former"])


def _everywhere(role: object, project: object) -> bool:
    """Whether a token is a person's, for all their projects; a node is always in one."""
    return role == Role.PERSON and project == ""


def _flaw(error: Exception) -> str:
    """One sentence for the holder of a token that does not hold."""
    if type(error).__name__ == "MissingRequiredClaimError":
        return f"the token lacks {error}: ask for a new one"
    return _FLAWS.get(type(error).__name__, f"this is not a valid token ({error}): copy it whole, as it was printed")


def _private(pem: str) -> Any:
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise InputError(
            "the signing key is not an Ed25519 private key in PEM: it is damaged, or another file"
        ) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"the signing key is a {type(key).__name__}, not an Ed25519 private key")
    return key


@lru_cache(maxsize=16)
def _public_keys(pems: str) -> "tuple[Ed25519PublicKey, ...]":
    return tuple(_public(part + _END) for part in pems.split(_END)[:-1]) or (_public(pems),)


def _public(pem: str) -> "Ed25519PublicKey":
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise InputError("the verification key is not an Ed25519 public key in PEM") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise InputError(f"the verification key is a {type(key).__name__}, not an Ed25519 public key")
    return cast("Ed25519PublicKey", key)


def _cryptography() -> tuple[Any, Any]:
    """(serialization, ed25519): loaded by who needs them, because many commands do not."""
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - see above

    return serialization, ed25519
