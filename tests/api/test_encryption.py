"""TLS of the REST port, seen by its callers."""

import socket
import ssl
from pathlib import Path

import pytest
from served import Served

from hansa.api.client import Client, connect
from hansa.api.encryption import server_context
from hansa.errors import ConnectionFailedError, InputError, UntrustedServerError
from hansa.network.controller.certificates import FromAuthority
from hansa.wire.authority import Authority
from hansa.wire.service import Shown

OTHER = Authority.new()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings and no saved credentials play a part."""
    for name in ("URL", "TOKEN", "PROJECT", "CA"):
        monkeypatch.delenv(f"HANSA_{name}", raising=False)
    monkeypatch.setenv("HANSA_CREDENTIALS", str(tmp_path / "none.json"))


def leaf(url: str) -> bytes:
    """The certificate that is shown in a handshake now, DER."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port))) as raw, context.wrap_socket(raw) as connection:
        shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return shown


def test_a_fingerprint_is_all_that_a_caller_needs(served: Served) -> None:
    assert served.url.startswith("https://")
    with connect(served.url, served.token(), ca=served.server.fingerprint) as api:
        assert api.me().name == "ada"


def test_another_fingerprint_is_refused_before_the_token_is_sent(served: Served) -> None:
    with pytest.raises(UntrustedServerError, match="is not a server of the network"):
        connect(served.url, served.token(), ca=OTHER.fingerprint)


def test_a_caller_that_knows_no_fingerprint_is_told_which_to_ask_for(served: Served) -> None:
    with connect(served.url, served.token()) as api, pytest.raises(UntrustedServerError, match="--ca or HANSA_CA"):
        api.me()


def test_the_authority_may_be_a_file_and_the_host_is_in_the_certificate(served: Served) -> None:
    file = Path(served.believed)
    with connect(served.url, served.token(), ca=str(file)) as api:
        assert api.me().name == "ada"


def test_http_to_a_port_with_tls_is_not_answered(served: Served) -> None:
    with (
        Client(served.url.replace("https", "http"), served.token(), "default") as api,
        pytest.raises(ConnectionFailedError),
    ):
        api.me()
    with pytest.raises(InputError, match="is without TLS"):
        connect(served.url.replace("https", "http"), served.token(), ca=OTHER.fingerprint)


def test_a_new_certificate_is_shown_to_the_next_caller_and_those_before_go_on(served: Served) -> None:
    api = served.client()
    assert api.me().name == "ada"
    before = leaf(served.url)
    shown = served.server.control.secure.shown
    assert shown is not None
    assert isinstance(shown.certificate, FromAuthority)
    shown.certificate._until = 0.0
    after = leaf(served.url)
    assert before != after == leaf(served.url)
    assert api.me().name == "ada"
    assert served.client().me().name == "ada"


def test_old_versions_of_tls_are_not_spoken() -> None:
    certificate = OTHER.certify(["localhost"])
    context = server_context(Shown(lambda: certificate))
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_server_may_want_to_see_a_certificate() -> None:
    certificate = OTHER.certify(["localhost"])
    context = server_context(Shown(lambda: certificate, OTHER.certificate))
    assert context.verify_mode is ssl.CERT_REQUIRED
