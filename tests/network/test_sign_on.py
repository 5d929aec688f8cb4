"""Logging in by an OpenID provider that answers over HTTP: what is refused, and what an account is bound to."""

import base64
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from openid_provider import CLIENT, SECRET, ScriptedProvider, elliptic, rsa_key, scripted_provider

from hansa.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    ConnectionFailedError,
    HansaError,
    InputError,
    NotFoundError,
    ThrottledError,
)
from hansa.network.controller.groups import Groups
from hansa.network.controller.openid import Provider, Registration
from hansa.network.controller.people import People
from hansa.network.controller.sign_on import SignOn, SignOnRules, _challenge_of
from hansa.store.ports import Query
from hansa.store.records import INSTALLATION, AuditRecord, ProjectRecord, ProjectRole
from hansa.store.sqlite import SqliteStore
from hansa.wire import tokens
from hansa.wire.authority import Authority

KEY = tokens.new_key()
REDIRECT = "http://127.0.0.1:49152/callback"
STUDIO = "https://fl.example.org:8470/ui/"
ADDRESS = "10.0.0.1"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Where people log in, and what is behind it."""

    def __init__(self, store: SqliteStore, there: ScriptedProvider) -> None:
        self.store, self.there, self.clock = store, there, Clock()
        self.people = People(store, KEY, set())
        self.sign_on = self.by(SignOnRules())

    def by(self, rules: SignOnRules, **registered: str) -> SignOn:
        known = {"issuer": self.there.issuer, "client_id": CLIENT, "client_secret": SECRET} | registered
        self.sign_on = SignOn(self.people, Provider(Registration(**known), self.clock), rules, self.clock)
        return self.sign_on

    async def browse(self, roots: str | None = None) -> dict[str, str]:
        """Begin, follow the redirect as a browser does, and give what is to be finished with."""
        verifier = secrets.token_urlsafe(48)
        begun = await self.sign_on.begin(REDIRECT, _challenge_of(verifier), ADDRESS)
        verify = ssl.create_default_context(cadata=roots)
        async with httpx.AsyncClient(trust_env=False, verify=verify, timeout=60) as browser:
            location = (await browser.get(begun.authorization_url)).headers["location"]
        assert location.startswith(f"{REDIRECT}?")
        came = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        return {"state": came["state"], "code": came["code"], "issuer": came["iss"], "verifier": verifier}

    async def finish(self, **came: Any) -> str:
        """The account of whom the token is that was issued."""
        token, record = await self.sign_on.finish(**came, address=ADDRESS)
        assert tokens.verify(tokens.public_key(KEY), token).name == record.account
        return record.account or ""

    async def log_in(self) -> str:
        return await self.finish(**await self.browse())

    async def lines(self) -> list[AuditRecord]:
        return list((await self.store.list(AuditRecord, Query(INSTALLATION, limit=1000))).items)


@pytest.fixture
def there() -> Iterator[ScriptedProvider]:
    with scripted_provider() as made:
        yield made


@pytest.fixture
async def desk(tmp_path: Path, there: ScriptedProvider) -> AsyncIterator[Desk]:
    store = SqliteStore(tmp_path / "hansa.db")
    await store.open()
    made = Desk(store, there)
    await made.people.create_account("ada", subject=(there.issuer, there.subject))
    yield made
    await made.sign_on.aclose()
    await store.close()


# ── what is let in ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_is_bound_logs_in_as_their_account_whatever_the_provider_calls_them(desk: Desk) -> None:
    desk.there.claims = {"preferred_username": "root", "email": "root@example.org"}
    assert await desk.log_in() == "ada"
    newest = (await desk.lines())[-1]
    assert (newest.actor, newest.action, newest.outcome) == ("ada", "login.oidc", "done")


async def test_a_public_client_sends_its_name_and_no_secret(desk: Desk) -> None:
    desk.by(SignOnRules(), client_secret="")
    with pytest.raises(AuthenticationError, match="refuses the code"):  # this provider wants the secret
        await desk.log_in()


async def test_a_new_key_is_asked_for_and_an_unknown_one_not_all_the_time(desk: Desk, there: ScriptedProvider) -> None:
    assert await desk.log_in() == "ada"
    assert await desk.log_in() == "ada"
    assert there.asked.count("/jwks") == 1
    there.kid = "two"
    for _ in range(3):
        with pytest.raises(AuthenticationError, match="no key"):
            await desk.log_in()
    assert there.asked.count("/jwks") == 1  # strangers can name any key: it is asked for again after a while
    desk.clock.now += 31
    there.shown.append(there.jwk("two"))
    assert await desk.log_in() == "ada"
    assert there.asked.count("/jwks") == 2
    assert there.asked.count("/.well-known/openid-configuration") == 1


async def test_clocks_may_differ_by_a_minute(desk: Desk, there: ScriptedProvider) -> None:
    there.id_token = lambda claims: there.signed(claims | {"exp": int(time.time()) - 30})
    assert await desk.log_in() == "ada"
    there.id_token = lambda claims: there.signed(claims | {"iat": int(time.time()) + 30})
    assert await desk.log_in() == "ada"


# ── ID tokens that do not hold ───────────────────────────────────────────────────────────────────────────────────────


def _unsigned(there: ScriptedProvider, claims: dict[str, Any]) -> str:
    del there
    return jwt.encode(claims, None, "none")


def _by_the_public_key(there: ScriptedProvider, claims: dict[str, Any]) -> str:
    """HS256, with what everybody knows in the place of a secret: made by hand, since PyJWT refuses to."""
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    public = rsa_key(there.kid).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    said = part({"alg": "HS256", "kid": there.kid}) + b"." + part(claims)
    seal = base64.urlsafe_b64encode(hmac.digest(public, said, hashlib.sha256)).rstrip(b"=")
    return (said + b"." + seal).decode()


def _without(name: str) -> Callable[[ScriptedProvider, dict[str, Any]], str]:
    return lambda there, claims: there.signed({key: value for key, value in claims.items() if key != name})


def _with(**changes: Any) -> Callable[[ScriptedProvider, dict[str, Any]], str]:
    return lambda there, claims: there.signed(claims | changes)


def _by_another_key(there: ScriptedProvider, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, rsa_key("a stranger's"), "RS256", {"kid": there.kid})


def _by_an_elliptic_key(there: ScriptedProvider, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, elliptic(), "ES256", {"kid": there.kid})


def _by_another_padding(there: ScriptedProvider, claims: dict[str, Any]) -> str:
    return jwt.encode(claims, rsa_key(there.kid), "PS256", {"kid": there.kid})


WRONG: dict[str, tuple[Callable[[ScriptedProvider, dict[str, Any]], str], str]] = {
    "audience": (_with(aud="another"), "another audience"),
    "issuer": (_with(iss="https://evil.example.org"), "another issuer"),
    "expired": (_with(exp=int(time.time()) - 120), "has expired"),
    "of the future": (_with(iat=int(time.time()) + 3600), "in the future"),
    "alg none": (_unsigned, "signed with 'none'"),
    "HS256 by the public key": (_by_the_public_key, "signed with 'HS256'"),
    "another key": (_by_another_key, "signature does not hold"),
    "another kind of key": (_by_an_elliptic_key, "no key that it can be signed with"),
    "another algorithm of the key": (_by_another_padding, "no key that it can be signed with"),
    "no nonce": (_without("nonce"), "its nonce"),
    "another nonce": (_with(nonce="guessed"), "its nonce"),
    "no subject": (_without("sub"), "sub"),
    "no expiry": (_without("exp"), "exp"),
    "no time of issue": (_without("iat"), "iat"),
    "no audience": (_without("aud"), "aud"),
    "another party": (_with(azp="another"), "azp"),
    "audiences without a party": (_with(aud=[CLIENT, "another"]), "azp"),
    "a subject that is none": (_with(sub="x" * 256), "its subject"),
    "no token": (lambda _there, _claims: "not.a.token", "cannot be read"),
    "a long one": (lambda _there, _claims: "x" * 70_000, "too long"),
}


@pytest.mark.parametrize("flaw", WRONG)
async def test_an_id_token_that_does_not_hold_lets_nobody_in(desk: Desk, flaw: str) -> None:
    forge, said = WRONG[flaw]
    desk.there.id_token = lambda claims: forge(desk.there, claims)
    with pytest.raises(AuthenticationError, match=said):
        await desk.log_in()
    newest = (await desk.lines())[-1]
    assert (newest.action, newest.outcome) == ("login.oidc", "failed")
    assert newest.detail.startswith(ADDRESS)


async def test_several_audiences_hold_when_the_party_is_this_server(desk: Desk, there: ScriptedProvider) -> None:
    there.id_token = lambda claims: there.signed(claims | {"aud": ["another", CLIENT], "azp": CLIENT})
    assert await desk.log_in() == "ada"


# ── answers that do not hold ─────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_is_of_use_once(desk: Desk) -> None:
    came = await desk.browse()
    assert await desk.finish(**came) == "ada"
    with pytest.raises(AuthenticationError, match="no such login"):
        await desk.finish(**came)


async def test_a_code_that_was_used_is_refused_by_the_provider_too(desk: Desk) -> None:
    first, second = await desk.browse(), await desk.browse()
    await desk.finish(**first)
    with pytest.raises(AuthenticationError, match=r"refuses the code \(invalid_grant\)"):
        await desk.finish(**(second | {"code": first["code"]}))


async def test_a_code_of_another_login_does_not_fit(desk: Desk) -> None:
    mine, theirs = await desk.browse(), await desk.browse()
    with pytest.raises(AuthenticationError, match="invalid_grant"):
        await desk.finish(**(mine | {"code": theirs["code"]}))


async def test_who_sees_the_answer_cannot_finish_without_the_verifier(desk: Desk) -> None:
    came = await desk.browse()
    asked = len(desk.there.asked)
    with pytest.raises(AuthenticationError, match="did not begin it"):
        await desk.finish(**(came | {"verifier": "x" * 43}))
    assert len(desk.there.asked) == asked
    with pytest.raises(AuthenticationError, match="no such login"):
        await desk.finish(**came)


@pytest.mark.parametrize("issuer", ["https://evil.example.org", None])
async def test_an_answer_of_another_provider_is_refused(desk: Desk, issuer: str | None) -> None:
    came = await desk.browse()
    with pytest.raises(AuthenticationError, match="another provider"):
        await desk.finish(**(came | {"issuer": issuer}))


async def test_a_login_that_took_too_long_is_over(desk: Desk) -> None:
    came = await desk.browse()
    desk.clock.now += 601
    with pytest.raises(AuthenticationError, match="no such login"):
        await desk.finish(**came)


@pytest.mark.parametrize(
    "redirect",
    [
        "https://evil.example.org/callback",
        "http://evil.example.org:80/callback",
        "http://127.0.0.1.evil.example.org:80/callback",
        "http://localhost:49152/callback",
        "http://127.0.0.1:49152@evil.example.org:80/callback",
        "http://me@127.0.0.1:49152/callback",
        "http://127.0.0.1:49152/callback?next=https://evil.example.org",
        "http://127.0.0.1:49152/callback#",
        "http://127.0.0.1:49152/other",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:99999/callback",
        "http://[::1/callback",
        "file:///callback",
        "",
    ],
)
async def test_a_redirect_to_anywhere_else_is_refused(desk: Desk, redirect: str) -> None:
    with pytest.raises(InputError, match="must lead back to the machine"):
        await desk.sign_on.begin(redirect, "x" * 43, ADDRESS)
    assert desk.there.asked == []


@pytest.mark.parametrize(
    "redirect",
    [
        "https://fl.example.org/ui/x",
        "https://fl.example.org/ui",
        "https://fl.example.org.evil.example/ui/",
        STUDIO + "?a=b",
    ],
)
async def test_a_redirect_to_the_studio_is_the_one_that_is_set(desk: Desk, redirect: str) -> None:
    desk.by(SignOnRules(redirect=STUDIO))
    assert (await desk.sign_on.begin(STUDIO, "x" * 43, ADDRESS)).state
    with pytest.raises(InputError, match="HANSA_OIDC_REDIRECT"):
        await desk.sign_on.begin(redirect, "x" * 43, ADDRESS)


@pytest.mark.parametrize(
    "redirect",
    [
        "http://fl.example.org/ui/",
        "https://fl.example.org/",
        "https://fl.example.org/ui/?next=x",
        "https://me@fl.example.org/ui/",
        "https:///ui/",
        "https://[::1/ui/",
        "javascript:alert(1)",
    ],
)
def test_the_studios_address_is_https_and_nothing_else(redirect: str) -> None:
    with pytest.raises(ConfigError, match="HANSA_OIDC_REDIRECT"):
        SignOnRules(redirect=redirect)
    assert SignOnRules(redirect="http://127.0.0.1:8470/ui/").redirect


async def test_a_redirect_may_lead_back_over_ipv6(desk: Desk) -> None:
    assert (await desk.sign_on.begin("http://[::1]:49152/callback", "x" * 43, ADDRESS)).state


async def test_one_address_begins_so_many_logins_and_no_more(desk: Desk) -> None:
    for _ in range(30):
        await desk.sign_on.begin(REDIRECT, "x" * 43, ADDRESS)
    with pytest.raises(ThrottledError, match="too many attempts"):
        await desk.sign_on.begin(REDIRECT, "x" * 43, ADDRESS)
    assert await desk.sign_on.begin(REDIRECT, "x" * 43, "10.0.0.2")
    desk.clock.now += 901
    assert await desk.sign_on.begin(REDIRECT, "x" * 43, ADDRESS)


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_who_is_not_bound_is_refused_and_told_what_to_ask_for(desk: Desk, there: ScriptedProvider) -> None:
    there.subject, there.claims = "666", {"preferred_username": "ada", "email": "ada@example.org"}
    with pytest.raises(AuthenticationError, match="hansa user link NAME --subject 666"):
        await desk.log_in()
    await desk.people.create_account("eve")
    await desk.people.bind("eve", there.issuer, "666")
    assert await desk.log_in() == "eve"


async def test_a_subject_has_one_account_and_an_account_one_subject(desk: Desk, there: ScriptedProvider) -> None:
    await desk.people.create_account("eve")
    with pytest.raises(ConflictError, match="is ada already"):
        await desk.people.bind("eve", there.issuer, there.subject)
    with pytest.raises(ConflictError, match="bound to"):
        await desk.people.bind("ada", there.issuer, "another")
    with pytest.raises(ConflictError, match="is ada already"):
        await desk.people.create_account("mia", subject=(there.issuer, there.subject))
    with pytest.raises(NotFoundError):
        await desk.people.account("mia")


async def test_the_same_subject_of_another_issuer_is_somebody_else(desk: Desk, there: ScriptedProvider) -> None:
    await desk.people.unbind("ada")
    await desk.people.bind("ada", "https://another.example.org", there.subject)
    with pytest.raises(AuthenticationError, match="no account is bound"):
        await desk.log_in()


async def test_who_is_unbound_or_disabled_is_out_at_once(desk: Desk) -> None:
    """With everything that they have made for themselves meanwhile: it may never have been them."""
    await desk.store.create(ProjectRecord("ward", "ward", 0.0))
    await desk.people.add_member("ward", "ada", ProjectRole.VIEWER)
    _, login = await desk.sign_on.finish(**await desk.browse(), address=ADDRESS)
    _, own = await desk.people.issue("ada", called="nightly", project="ward", bound=ProjectRole.VIEWER)
    await desk.people.unbind("ada")
    for record in (login, own):
        identity = tokens.Identity("ada", tokens.Role.PERSON, record.project, record.id)
        with pytest.raises(AuthenticationError, match="acts for nobody"):
            await desk.people.bounds(identity)
    await desk.people.bind("ada", desk.there.issuer, desk.there.subject)
    await desk.people.create_account("root", admin=True)
    await desk.people.disable("ada")
    with pytest.raises(AuthenticationError, match="is disabled"):
        await desk.log_in()


async def test_accounts_are_made_where_the_rules_say_so_and_never_taken_over(
    desk: Desk, there: ScriptedProvider
) -> None:
    desk.by(SignOnRules(create=True))
    there.subject, there.claims = "7", {"preferred_username": "ida@example.org"}
    assert await desk.log_in() == "ida-example.org"
    assert await desk.log_in() == "ida-example.org"
    there.subject, there.claims = "8", {"preferred_username": "ada"}
    with pytest.raises(AuthenticationError, match="a user 'ada' who is not bound"):
        await desk.log_in()
    there.claims = {}
    with pytest.raises(AuthenticationError, match="says no 'preferred_username'"):
        await desk.log_in()


async def test_groups_decide_about_the_projects_that_they_name_and_no_others(
    desk: Desk, there: ScriptedProvider
) -> None:
    for project in ("heart", "lung"):
        await desk.store.create(ProjectRecord(project, project, 0.0))
    await desk.people.create_account("root", admin=True)
    await desk.people.add_member("lung", "ada", ProjectRole.VIEWER)
    mapping = {"cn=cardio,dc=org": "heart:data-scientist", "leads": "heart:owner, absent:owner", "it": "admin"}
    desk.by(SignOnRules(groups=Groups.parse(mapping)))

    async def after(groups: Any) -> tuple[dict[str, Any], bool]:
        there.claims = {"groups": groups}
        await desk.log_in()
        places = {place: (await desk.people.members(place) or {}).get("ada") for place in ("heart", "lung")}
        return places, (await desk.people.account("ada")).admin

    lung = {"lung": ProjectRole.VIEWER}
    assert await after(["cn=cardio,dc=org", "others"]) == (lung | {"heart": ProjectRole.DATA_SCIENTIST}, False)
    assert await after(["cn=cardio,dc=org", "leads"]) == (lung | {"heart": ProjectRole.OWNER}, False)
    assert await after("it") == (lung | {"heart": None}, True)
    assert await after([]) == (lung | {"heart": None}, False)
    assert await after({"it": True}) == (lung | {"heart": None}, False)


async def test_no_group_takes_the_last_site_administrator(desk: Desk, there: ScriptedProvider) -> None:
    await desk.people.set_admin("ada", admin=True)
    desk.by(SignOnRules(groups=Groups.parse({"it": "admin"})))
    there.claims = {"groups": []}
    await desk.log_in()
    assert (await desk.people.account("ada")).admin


@pytest.mark.parametrize("grant", ["heart", "heart:king", "", "admin,,", ":owner"])
def test_a_mapping_that_cannot_be_is_refused(grant: str) -> None:
    with pytest.raises(ConfigError):
        Groups.parse({"leads": grant})


# ── the provider ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_provider_that_is_away_is_named_and_may_come_later(desk: Desk, there: ScriptedProvider) -> None:
    with scripted_provider() as other:
        gone = other.issuer
    desk.by(SignOnRules(), issuer=gone)
    with pytest.raises(ConnectionFailedError, match=f"{gone} cannot be reached.*log in with a password"):
        await desk.log_in()
    desk.by(SignOnRules(), issuer=there.issuer)
    assert await desk.log_in() == "ada"


async def test_a_provider_is_believed_by_its_certificate_alone(desk: Desk) -> None:
    """One of an authority that the operator names, and made out to where it is; nobody is asked anything before."""
    authority = Authority.new()
    for names, roots, said in (
        (["127.0.0.1"], authority.certificate, ""),
        (["127.0.0.1"], "", "unable to get local issuer certificate|self-signed certificate"),
        (["127.0.0.1"], Authority.new().certificate, "certificate verify failed"),
        (["id.example.org"], authority.certificate, "certificate is not valid for '127.0.0.1'"),
    ):
        with scripted_provider(authority.certify(names)) as there:
            desk.there = there
            desk.by(SignOnRules(create=True, name_claim="sub"), roots=roots)
            if said:
                with pytest.raises(ConnectionFailedError, match=said):
                    await desk.log_in()
                assert there.asked == []
            else:
                came = await desk.browse(authority.certificate)
                assert await desk.finish(**came) == there.subject
            await desk.sign_on.aclose()


async def test_a_provider_of_another_name_is_refused(desk: Desk, there: ScriptedProvider) -> None:
    there.document["issuer"] = "https://evil.example.org"
    with pytest.raises(ConfigError, match="calls itself"):
        await desk.log_in()


@pytest.mark.parametrize(
    "address", ["http://169.254.169.254/latest", "ftp://id.example.org/", "//x", "https://a:b@c/", 7]
)
async def test_an_endpoint_without_tls_is_sent_nothing(desk: Desk, there: ScriptedProvider, address: Any) -> None:
    there.document["token_endpoint"] = address
    came = await desk.browse()
    with pytest.raises(HansaError, match="token_endpoint"):
        await desk.finish(**came)


@pytest.mark.parametrize(
    "issuer", ["http://id.example.org", "id.example.org", "https://a/?b=c", "https://a/#b", "https://u@a"]
)
def test_an_issuer_that_cannot_be_is_refused(issuer: str) -> None:
    with pytest.raises(ConfigError, match="HANSA_OIDC_ISSUER"):
        Provider(Registration(issuer, CLIENT))


async def test_a_redirect_of_the_provider_is_not_followed(desk: Desk, there: ScriptedProvider) -> None:
    answer = there.answer
    there.answer = lambda path, *given: (302, "http://127.0.0.1:1/") if path == "/jwks" else answer(path, *given)  # type: ignore[method-assign]
    with pytest.raises(ConnectionFailedError, match="JSON that is no object"):
        await desk.log_in()


async def test_an_answer_without_end_is_not_read_to_it(desk: Desk, there: ScriptedProvider) -> None:
    there.document["more"] = "x" * (1 << 20)
    with pytest.raises(ConnectionFailedError, match="more than 1,048,576 bytes"):
        await desk.log_in()


# ── another device ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_person_approves_on_another_device(desk: Desk, there: ScriptedProvider) -> None:
    there.approvals = ["authorization_pending", "slow_down"]
    begun = await desk.sign_on.begin_device(ADDRESS)
    assert begun.user_code == "WDJB-MJHT"
    assert "of the device" not in repr(begun)
    ask = lambda: desk.sign_on.finish_device(begun.handle, ADDRESS)  # noqa: E731
    assert await ask() == 1.0  # too early: the provider is not asked
    assert there.asked.count("/token") == 0
    desk.clock.now += 1
    assert await ask() == 1.0
    desk.clock.now += 1
    assert await ask() == 6.0  # slow_down: 5 seconds more
    desk.clock.now += 6
    made = await ask()
    assert isinstance(made, tuple)
    assert made[1].account == "ada"
    with pytest.raises(AuthenticationError, match="no such login"):
        await ask()


async def test_a_person_refuses_on_another_device(desk: Desk, there: ScriptedProvider) -> None:
    there.approvals = ["access_denied"]
    begun = await desk.sign_on.begin_device(ADDRESS)
    desk.clock.now += 1
    with pytest.raises(AuthenticationError, match=r"refuses the login by device \(access_denied\)"):
        await desk.sign_on.finish_device(begun.handle, ADDRESS)
    assert (await desk.lines())[-1].outcome == "failed"


async def test_a_provider_without_the_device_grant_is_told(desk: Desk, there: ScriptedProvider) -> None:
    del there.document["device_authorization_endpoint"]
    with pytest.raises(ConfigError, match="has no device_authorization_endpoint"):
        await desk.sign_on.begin_device(ADDRESS)
