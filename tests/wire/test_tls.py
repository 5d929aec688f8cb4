"""TLS on a real port: who is believed, and by what."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from hansa.errors import ConnectionFailedError, HansaError, InputError, UntrustedServerError
from hansa.wire import channel, service, tls, tokens
from hansa.wire.authority import Authority, check, expires_at, new_request
from hansa.wire.calls import AccessToken, Assignment, AssignRequest, Enrolled, EnrollRequest, RotateRequest
from hansa.wire.frames import Role
from hansa.wire.service import Shown
from hansa.wire.tls import CONTROLLER, Certificate, Scheme, Trust
from hansa.wire.tokens import Identity

KEY = tokens.new_key()
TOKEN = tokens.issue(KEY, "ward", Role.CLIENT, "default")[0]
NETWORK = Authority.new()
OTHER = Authority.new()
KNOWN = Trust(roots=NETWORK.certificate, name=CONTROLLER)


class Server:
    """A controller's port that answers where to go, and counts who came so far."""

    def __init__(self) -> None:
        self.asked = 0
        self.shown = NETWORK.certify([CONTROLLER, "127.0.0.1"])
        self.address = ""

    async def authenticate(self, token: str) -> Identity:
        self.asked += 1
        return tokens.verify(tokens.public_key(KEY), token)

    async def enroll(self, _token: str, _request: EnrollRequest) -> Enrolled:
        raise AssertionError("nobody joins here")

    async def access(self, _assertion: str) -> AccessToken:
        raise AssertionError("nobody has joined here")

    async def rotate(self, _assertion: str, _request: RotateRequest) -> Enrolled:
        raise AssertionError("nobody has joined here")

    async def assign(self, _identity: Identity, _request: AssignRequest) -> Assignment:
        return Assignment("root", "")

    async def certify(self, identity: Identity, request: str) -> str:
        return NETWORK.sign(request, tls.server_name(identity.project, identity.name))

    async def ask(self, trust: Trust | None) -> Assignment:
        """As a node does that knows the server so."""
        dialled = channel.open_channel(self.address, trust)
        try:
            return await channel.assign(dialled, TOKEN, AssignRequest(), timeout=10.0)
        finally:
            await dialled.close()


@asynccontextmanager
async def serving(client_roots: str = "", *, plain: bool = False) -> AsyncGenerator[Server, None]:
    made = Server()
    server = service.create_server(
        service.directory_handler(
            made.enroll, made.access, made.rotate, made.assign, made.certify, authenticate=made.authenticate
        )
    )
    shown = None if plain else Shown(lambda: made.shown, client_roots)
    made.address = f"127.0.0.1:{service.bind(server, '127.0.0.1:0', shown)}"
    await server.start()
    try:
        yield made
    finally:
        await server.stop(None)


def serial(chain: str) -> int:
    return x509.load_pem_x509_certificate(chain.encode()).serial_number


async def test_a_server_of_the_network_is_believed_by_its_name_and_by_its_host() -> None:
    async with serving() as server:
        assert await server.ask(KNOWN) == Assignment("root", "")
        assert await server.ask(Trust(roots=NETWORK.certificate)) == Assignment("root", "")


@pytest.mark.parametrize(
    "trust",
    [
        pytest.param(Trust(roots=OTHER.certificate, name=CONTROLLER), id="another authority"),
        pytest.param(Trust(roots=NETWORK.certificate, name=tls.server_name("default", "west")), id="another server"),
        pytest.param(tls.WORLD, id="the world's authorities"),
        pytest.param(None, id="no TLS"),
    ],
)
async def test_a_caller_that_does_not_know_the_server_says_nothing_to_it(trust: Trust | None) -> None:
    async with serving() as server:
        with pytest.raises(ConnectionFailedError):
            await server.ask(trust)
        assert server.asked == 0


async def test_no_token_goes_to_a_server_that_does_not_speak_tls() -> None:
    async with serving(plain=True) as server:
        with pytest.raises(ConnectionFailedError, match="does not speak TLS"):
            await server.ask(KNOWN)
        assert server.asked == 0


async def test_a_certificate_that_has_ended_is_not_believed() -> None:
    async with serving() as server:
        server.shown = NETWORK.certify([CONTROLLER], datetime.now(UTC) - timedelta(days=91))
        with pytest.raises(ConnectionFailedError, match="expired"):
            await server.ask(KNOWN)


async def test_a_fingerprint_brings_the_authority_that_the_server_shows() -> None:
    async with serving() as server:
        assert tls.roots_of(server.address, NETWORK.fingerprint) == NETWORK.certificate
        with pytest.raises(UntrustedServerError, match="is not a server of the network sha256:"):
            tls.roots_of(server.address, OTHER.fingerprint)


async def test_a_fingerprint_is_not_that_of_the_server_itself() -> None:
    """Whoever showed the authority's certificate without its key would be found out by the handshake that follows."""
    async with serving() as server:
        stolen = OTHER.certify([CONTROLLER])
        server.shown = Certificate(stolen.chain.replace(OTHER.certificate, NETWORK.certificate), stolen.key)
        roots = tls.roots_of(server.address, NETWORK.fingerprint)
        with pytest.raises(ConnectionFailedError):
            await server.ask(Trust(roots=roots, name=CONTROLLER))
        assert server.asked == 0


async def test_where_nobody_serves_or_not_tls_a_fingerprint_says_so() -> None:
    async with serving(plain=True) as server:
        with pytest.raises(ConnectionFailedError, match="does not speak TLS"):
            tls.roots_of(server.address, NETWORK.fingerprint)
    with pytest.raises(ConnectionFailedError, match="cannot reach"):
        tls.roots_of(server.address, NETWORK.fingerprint)


async def test_a_new_certificate_is_shown_without_a_restart_and_breaks_no_connection() -> None:
    async with serving() as server:
        before = channel.open_channel(server.address, KNOWN)
        await channel.assign(before, TOKEN, AssignRequest())
        server.shown = OTHER.certify([CONTROLLER])
        await channel.assign(before, TOKEN, AssignRequest())
        await before.close()
        assert await server.ask(Trust(roots=OTHER.certificate, name=CONTROLLER)) == Assignment("root", "")


async def test_a_server_may_want_to_see_its_callers_certificate() -> None:
    async with serving(client_roots=OTHER.certificate) as server:
        with pytest.raises(HansaError):
            await server.ask(KNOWN)
        assert server.asked == 0
        stranger = Trust(roots=NETWORK.certificate, name=CONTROLLER, own=NETWORK.certify(["ward"]))
        with pytest.raises(HansaError):
            await server.ask(stranger)
        assert server.asked == 0


async def test_a_combiner_gets_a_certificate_for_its_own_name_whatever_it_asks_for() -> None:
    async with serving() as server:
        dialled = channel.open_channel(server.address, KNOWN)
        key, request = new_request()
        chain = await channel.certify(dialled, TOKEN, request)
        await dialled.close()
        found = x509.load_pem_x509_certificate(chain.encode())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [tls.server_name("default", "ward")]
        check(Certificate(chain, key))
        server.shown = Certificate(chain, key)
        assert await server.ask(Trust(roots=NETWORK.certificate, name=tls.server_name("default", "ward")))
        with pytest.raises(ConnectionFailedError):
            await server.ask(KNOWN)


@pytest.mark.parametrize("request_", ["", "nonsense", NETWORK.certificate])
def test_what_is_no_request_is_not_signed(request_: str) -> None:
    with pytest.raises(InputError, match="no request for a certificate"):
        NETWORK.sign(request_, "west")


def test_a_request_that_was_changed_is_not_signed() -> None:
    _, one = new_request()
    _, two = new_request()
    lines, others = one.splitlines(), two.splitlines()
    with pytest.raises(InputError):
        NETWORK.sign("\n".join([*lines[:-3], *others[-3:]]), "west")


def test_a_key_of_another_certificate_is_refused() -> None:
    one, other = NETWORK.certify(["west"]), NETWORK.certify(["west"])
    with pytest.raises(InputError, match="for another key"):
        check(Certificate(one.chain, other.key))


def test_certificates_last_ninety_days_and_no_two_are_the_same() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    one, other = NETWORK.certify(["west"], now), NETWORK.certify(["west"], now)
    assert expires_at(one.chain) == (now + timedelta(days=90)).timestamp()
    assert serial(one.chain) != serial(other.chain)


def test_keys_are_not_shown_where_a_certificate_is_printed() -> None:
    made = NETWORK.certify(["west"])
    assert "PRIVATE" not in repr(made) + repr(NETWORK) + repr(Trust(own=made))


@pytest.mark.parametrize("text", ["sha256:", "sha256:" + "g" * 64, "a" * 64, "md5:" + "a" * 64, "sha256:" + "A" * 64])
def test_a_fingerprint_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no fingerprint"):
        Trust(fingerprint=text)


def test_an_address_says_how_it_is_dialled() -> None:
    assert tls.address_of("10.0.0.5:8471") == (Scheme.NETWORK, "10.0.0.5:8471")
    assert tls.address_of("tcp://10.0.0.5:8471") == (Scheme.PLAIN, "10.0.0.5:8471")
    assert tls.address_of("tls://hansa.example.org:443") == (Scheme.TLS, "hansa.example.org:443")
    with pytest.raises(InputError, match="no address"):
        tls.address_of("https://hansa.example.org:443")


def test_names_of_servers_differ_by_project_and_combiner_and_are_names_that_a_certificate_may_have() -> None:
    names = [tls.server_name(*pair) for pair in (("a", "b/c"), ("a/b", "c"), ("a", "west@site"), ("b", "west@site"))]
    assert len(set(names)) == len(names) - 1  # a project's name has no slash
    assert all(len(label) <= 63 and label.isalnum() for name in names for label in name.split("."))


def test_an_authority_is_a_fingerprint_a_file_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "authorities.pem"
    file.write_text(NETWORK.certificate)
    assert tls.trust_in(NETWORK.fingerprint) == Trust(fingerprint=NETWORK.fingerprint)
    assert tls.trust_in(str(file)) == Trust(roots=NETWORK.certificate)
    assert tls.trust_in("") == tls.WORLD
    file.write_text(NETWORK.key)
    with pytest.raises(InputError, match="holds no certificate"):
        tls.trust_in(str(file))
    with pytest.raises(InputError, match="cannot be read"):
        tls.trust_in(str(tmp_path / "nowhere"))
