"""Logging in by a certified OpenID provider, which runs here from npm; its pages are filled in as a browser does."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
from openid_provider import CLIENT, SECRET
from served import Served

from hansa.api.sign_on import DeviceLogin, log_in_by_browser, log_in_by_device

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGE = "oidc-provider@9.13.3"
PROGRAM = Path(__file__).parents[1] / "openid_certified.mjs"


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("certified")
    shutil.copy(PROGRAM, folder)
    install = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    subprocess.run(install, check=True, capture_output=True, cwd=folder, timeout=200)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([node, PROGRAM.name, str(port), SECRET], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, issuer: str) -> Iterator[Served]:
    monkeypatch.setenv("HANSA_OIDC_ISSUER", issuer)
    monkeypatch.setenv("HANSA_OIDC_CLIENT_ID", CLIENT)
    monkeypatch.setenv("HANSA_OIDC_CLIENT_SECRET", SECRET)
    monkeypatch.setenv("HANSA_OIDC_CREATE", "true")
    made = Served(tmp_path)
    yield made
    made.close()


class Browser:
    """Fills in every form that it is shown, until a page has none."""

    def __init__(self, **fields: str) -> None:
        self._fields = {"login": "ida", "password": "any"} | fields
        self.last = ""

    def open(self, address: str) -> None:
        with httpx.Client(trust_env=False, follow_redirects=True, timeout=60) as http:
            page = http.get(address)
            while found := re.search(r"<form[^>]*action=\"([^\"]+)\"[^>]*>(.*?)</form>", page.text, re.DOTALL):
                named = re.findall(r"<input[^>]*name=\"([^\"]+)\"(?:[^>]*value=\"([^\"]*)\")?", found[2])
                filled = {name: self._fields.get(name, unescape(value)) for name, value in named}
                page = http.post(urljoin(str(page.url), unescape(found[1])), data=filled)
            self.last = page.text


def test_a_person_logs_in_and_has_an_account(served: Served) -> None:
    issued = log_in_by_browser(served.url, Browser().open, served.server.trust)
    assert issued.record.account == "ida"
    assert served.client(token=issued.token).me().name == "ida"
    again = log_in_by_browser(served.url, Browser().open, served.server.trust)
    assert (again.record.account, again.record.id != issued.record.id) == ("ida", True)


def test_a_person_logs_in_on_another_device(served: Served) -> None:
    browser = Browser()

    def show(login: DeviceLogin) -> None:
        browser.open(login.verification_uri_complete)

    issued = log_in_by_device(served.url, show, served.server.trust)
    assert issued.record.account == "ida", browser.last
