"""Tokens: one that holds names its holder, and each way not to hold is said."""

import base64
import hashlib
import hmac
import json
import sys
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hansa.errors import AuthenticationError, InputError
from hansa.wire import tokens
from hansa.wire.frames import Role

KEY = tokens.new_key()
PUBLIC = tokens.public_key(KEY)
RSA = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)


def crafted(key: str = KEY, **changes: Any) -> str:
    """A token that is right but for its changes; None takes a claim out."""
    claims = {"sub": "client-0", "role": "client", "project": "default", "jti": "1", "aud": "hansa", "iat": time.time()}
    claims |= changes
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm="EdDSA")


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("role", Role)
def test_a_token_names_its_holder(role: Role):
    token, token_id = tokens.issue(KEY, "alice@hospital-1.example", role, "stroke")
    expected = tokens.Identity("alice@hospital-1.example", role, "stroke", token_id)
    assert tokens.verify(PUBLIC, token) == expected
    assert tokens.holder(token) == expected


def test_a_persons_token_may_be_for_every_project_and_a_nodes_may_not():
    token, token_id = tokens.issue(KEY, "ada", Role.PERSON, "")
    assert tokens.verify(PUBLIC, token) == tokens.holder(token) == tokens.Identity("ada", Role.PERSON, "", token_id)
    with pytest.raises(InputError, match="the project ''"):
        tokens.issue(KEY, "ward", Role.CLIENT, "")


def test_every_token_has_an_id_of_its_own():
    assert len({tokens.issue(KEY, "a", Role.CLIENT, "p")[1] for _ in range(20)}) == 20


def test_a_token_with_an_end_holds_until_then():
    token, _ = tokens.issue(KEY, "a", Role.CLIENT, "p", expires_in=60)
    assert tokens.verify(PUBLIC, token).name == "a"


def test_clocks_may_differ_by_half_a_minute():
    assert tokens.verify(PUBLIC, crafted(exp=time.time() - 10)).name == "client-0"
    assert tokens.verify(PUBLIC, crafted(iat=time.time() + 10)).name == "client-0"


def unsigned() -> str:
    _, payload, _ = crafted().split(".")
    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}."


def signed_with_the_public_key_as_a_secret() -> str:
    payload = crafted().split(".")[1]
    text = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{payload}"
    return f"{text}.{part(hmac.digest(PUBLIC.encode(), text.encode(), hashlib.sha256))}"


def promoted() -> str:
    header, payload, signature = crafted().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return f"{header}.{part({**claims, 'role': 'person'})}.{signature}"


BAD = {
    "expired": (crafted(exp=time.time() - 60), "has expired"),
    "from the future": (crafted(iat=time.time() + 3600), "issued in the future"),
    "another key": (crafted(tokens.new_key()), "signature does not hold"),
    "promoted": (promoted(), "signature does not hold"),
    "alg none": (unsigned(), "not signed with EdDSA"),
    "alg confusion": (signed_with_the_public_key_as_a_secret(), "not signed with EdDSA"),
    "another audience": (crafted(aud="another"), "another audience"),
    "several audiences": (crafted(aud=["hansa", "another"]), "another audience"),
    "unknown role": (crafted(role="king"), "the role 'king'; known are client, combiner, person"),
    "the role of an older version": (crafted(role="admin"), "the role 'admin'; known are"),
    "a node of every project": (crafted(project=""), "claim 'project' is missing"),
    "role is no text": (crafted(role=["person"]), "claim 'role' is missing or not text"),
    "name is a path": (crafted(sub="../../root"), "'sub' cannot be used as a name"),
    "project is a path": (crafted(project="a/b"), "'project' cannot be used as a name"),
    "empty name": (crafted(sub=""), "claim 'sub' is missing"),
    "not a token": ("hello", "not a valid token"),
    "nothing": ("", "not a valid token"),
    "three dots": ("...", "not a valid token"),
    "not ASCII": ("é.é.é", "not a valid token"),
    "half a token": (crafted()[:-10], "not a valid token|signature does not hold"),
    "a novel": ("a" * 10_000, "10000 characters are too many"),
} | {
    f"without {claim}": (crafted(**{claim: None}), f"lacks .*{claim}")
    for claim in ("sub", "role", "project", "jti", "aud", "iat")
}


@pytest.mark.parametrize("name", BAD)
def test_a_token_that_does_not_hold_is_refused_with_its_flaw(name: str):
    token, says = BAD[name]
    with pytest.raises(AuthenticationError, match=says) as caught:
        tokens.verify(PUBLIC, token)
    assert not token or token not in str(caught.value), "a token never reaches a log"


@pytest.mark.parametrize("token", ["", "hello", "a.b.c", "é.é.é", f"x.{part([1])}.x", f"x.{part(b'[' * 100_000)}.x"])
def test_what_is_no_token_has_no_holder(token: str):
    with pytest.raises(AuthenticationError, match="not a hansa token"):
        tokens.holder(token)


@pytest.mark.parametrize("name", ["", "-", "../a", "a/b", "a b", ".hidden", "x" * 129, "ä", "a\n", "a\0"])
def test_a_name_that_could_not_be_a_files_name_is_not_issued(name: str):
    with pytest.raises(InputError, match="cannot be used"):
        tokens.issue(KEY, name, Role.CLIENT, "default")
    with pytest.raises(InputError, match="the project"):
        tokens.issue(KEY, "client-0", Role.CLIENT, name)


def test_the_name_of_central_evaluation_is_nobodys():
    with pytest.raises(InputError, match="'central' is reserved"):
        tokens.issue(KEY, "central", Role.CLIENT, "default")


def test_another_key_than_ed25519_is_refused():
    with pytest.raises(InputError, match="RSAPrivateKey, not an Ed25519"):
        tokens.public_key(RSA)
    for damaged in ("", "not a key", PUBLIC):
        with pytest.raises(InputError, match="not an Ed25519 private key in PEM"):
            tokens.issue(damaged, "a", Role.CLIENT, "p")
    with pytest.raises(InputError, match="verification key is not an Ed25519 public key"):
        tokens.verify("not a key", crafted())


def test_what_a_token_says_is_read_without_what_verifies_it(monkeypatch: pytest.MonkeyPatch):
    """Commands read tokens, and should not wait for cryptography."""
    token = crafted()
    monkeypatch.setitem(sys.modules, "jwt", None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    assert tokens.holder(token).name == "client-0"
