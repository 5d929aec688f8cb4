"""Whether an ID token was made by the provider, for this server, now, and for the login that is under way.

OpenID Connect Core 1.0, section 3.1.3.7. Only asymmetric signatures count: with a symmetric one, whoever knows the
public key or the client's secret could sign.
"""

import hmac
from collections.abc import Mapping
from typing import Any, Final

import jwt

from hansa.errors import AuthenticationError

__all__ = ["ALGORITHMS", "key_id", "public_keys", "verify_id_token"]

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
LEEWAY: Final = 60.0
"""Seconds by which the clocks of provider and server may differ."""
_LONGEST: Final = 64 << 10
"""Characters of a token."""
_REQUIRED: Final = ("iss", "sub", "aud", "exp", "iat")
_FLAWS: Final[Mapping[type[jwt.PyJWTError], str]] = {
    jwt.ExpiredSignatureError: "it has expired: log in again, and check the clocks of provider and server",
    jwt.ImmatureSignatureError: "it was issued in the future: check the clocks of provider and server",
    jwt.InvalidAudienceError: "it is for another audience: check HANSA_OIDC_CLIENT_ID",
    jwt.InvalidIssuerError: "it is of another issuer: check HANSA_OIDC_ISSUER",
    jwt.InvalidSignatureError: "its signature does not hold",
}


def key_id(token: str) -> tuple[str, str]:
    """(algorithm, id of the key, empty where it names none) of a token that is not verified yet.

    Raises `AuthenticationError` for what is no token, and for an algorithm that does not count.
    """
    if len(token) > _LONGEST:
        raise _refused("it is too long")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise _refused(f"it cannot be read ({error})") from error
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if algorithm not in ALGORITHMS:
        raise _refused(
            f"it is signed with {algorithm!r}; the provider must sign with one of {', '.join(sorted(ALGORITHMS))}"
        )
    return str(algorithm), str(kid)


def public_keys(document: Mapping[str, Any]) -> tuple[jwt.PyJWK, ...]:
    """The keys of a key set (RFC 7517) that can verify signatures; others are left out."""
    listed = document.get("keys")
    found = []
    for entry in listed if isinstance(listed, list) else ():
        if (
            not isinstance(entry, dict)
            or entry.get("use", "sig") != "sig"
            or entry.get("kty") not in {"RSA", "EC", "OKP"}
        ):
            continue
        try:
            found.append(jwt.PyJWK(entry))
        except jwt.PyJWTError:  # of a kind that is not known here
            continue
    return tuple(found)


def verify_id_token(
    token: str, keys: tuple[jwt.PyJWK, ...], *, issuer: str, client_id: str, nonce: str | None
) -> Mapping[str, Any]:
    """The claims of a token that holds. keys: those that it may be signed with; nonce: None: a flow that has none.

    Raises `AuthenticationError` that says what is wrong.
    """
    algorithm, _ = key_id(token)
    fitting = [key for key in keys if _fits(key, algorithm)]
    if not fitting:
        raise _refused("the provider shows no key that it can be signed with")
    claims = _verified(token, fitting, algorithm, issuer=issuer, client_id=client_id)
    audience, party = claims["aud"], claims.get("azp")
    if party is not None and party != client_id:
        raise _refused("it was issued to another client (azp)")
    if isinstance(audience, list) and len(audience) > 1 and party is None:
        raise _refused("it is for several audiences and does not say to whom it was issued (azp)")
    if not isinstance(claims["sub"], str) or not 1 <= len(claims["sub"]) <= 255 or not claims["sub"].isascii():  # noqa: PLR2004  # as the standard has it
        raise _refused("its subject is no text of 1 to 255 ASCII characters")
    if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
        raise _refused("its nonce is not that of this login")
    return claims


def _verified(token: str, keys: list[jwt.PyJWK], algorithm: str, *, issuer: str, client_id: str) -> Mapping[str, Any]:
    flaw: jwt.PyJWTError | None = None
    for key in keys:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=client_id,
                issuer=issuer,
                leeway=LEEWAY,
                options={"require": list(_REQUIRED)},
            )
        except jwt.InvalidSignatureError as error:  # perhaps another key's
            flaw = error
        except jwt.PyJWTError as error:
            raise _refused(_FLAWS.get(type(error), str(error))) from error
        else:
            return claims
    raise _refused(_FLAWS[jwt.InvalidSignatureError]) from flaw


def _fits(key: jwt.PyJWK, algorithm: str) -> bool:
    """Whether a key can have made a signature of this algorithm; one that names its algorithm makes no other."""
    kind = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}[algorithm[:2]]
    named = key._jwk_data.get("alg")  # noqa: SLF001  # `algorithm_name` is guessed where the key names none
    return key.key_type == kind and named in {None, algorithm}


def _refused(why: str) -> AuthenticationError:
    return AuthenticationError(f"the provider's ID token does not hold: {why}")
