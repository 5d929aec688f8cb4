"""The Python client: the nouns and verbs of the REST API and of the command line, for scripts and notebooks."""

from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from hansa.api.credentials import Credentials, load_credentials
from hansa.api.documents import from_document
from hansa.api.nouns import (
    Audit,
    Clients,
    Combiners,
    Events,
    Members,
    Metrics,
    Models,
    Nodes,
    Packages,
    Projects,
    Rounds,
    Samples,
    Tokens,
    Users,
)
from hansa.api.predictions import Predictions
from hansa.api.results import IssuedToken, LoginCode, Me, ServerInfo
from hansa.api.sessions import Sessions
from hansa.api.transport import Transport
from hansa.errors import AuthenticationError, InputError
from hansa.network.controller.retention import PruneReport
from hansa.settings import Settings
from hansa.wire.tls import CONTROLLER, WORLD, Trust, read_pair, roots_of, trust_in
from hansa.wire.tokens import holder

__all__ = ["Client", "connect", "log_in", "trust_at"]


class Client:
    """One server, as one identity, in one project. `with` closes its connections; so does `close`."""

    def __init__(
        self, url: str, token: str, project: str, trust: Trust = WORLD, *, package_key: Path | None = None
    ) -> None:
        """url: the server's REST address, for example https://127.0.0.1:8470; trust: how the server is known.

        package_key: signs packages.
        """
        self._transport = Transport(url, token, trust)
        self.url = self._transport.url
        self.trust = trust
        self.project = project
        place = (self._transport, f"/projects/{project}")
        self.models = Models(*place)
        self.packages = Packages(*place, key=package_key)
        self.rounds = Rounds(*place)
        self.metrics = Metrics(*place)
        self.events = Events(*place)
        self.clients = Clients(*place)
        self.combiners = Combiners(*place)
        self.tokens = Tokens(*place)
        self.nodes = Nodes(*place)
        self.projects = Projects(*place)
        self.members = Members(*place)
        self.users = Users(*place)
        self.audit = Audit(*place)
        self.samples = Samples(*place)
        self.sessions = Sessions(*place, models=self.models, packages=self.packages, events=self.events)
        self.predictions = Predictions(*place, models=self.models, packages=self.packages, sessions=self.sessions)

    def me(self) -> Me:
        """Whom the server takes the holder of the token for."""
        return from_document(Me, self._transport.json("GET", "/me"))

    def login_code(self) -> LoginCode:
        """A code that logs oneself in, once and within ten minutes: for a link that opens the Studio."""
        return from_document(LoginCode, self._transport.json("POST", "/login/codes"))

    def log_out(self) -> None:
        """Refuse this client's own token from now on."""
        self._transport.json("POST", "/logout")

    def change_password(self, current: str, password: str) -> None:
        """Another password for oneself; what else was logged in with the current one is logged out."""
        self._transport.json("PUT", "/me/password", body={"current": current, "password": password})

    def server(self) -> ServerInfo:
        """The server's version, uptime and gRPC address."""
        return from_document(ServerInfo, self._transport.json("GET", "/server"))

    def prune(self, *, dry_run: bool = False, grace: float = 86_400.0) -> PruneReport:
        """Remove what the policies of the project's sessions give up, and the objects that no record names any more.

        grace: seconds for which an object that no record names is left alone.
        """
        body = {"dry_run": dry_run, "grace": grace}
        return from_document(PruneReport, self._transport.json("POST", f"/projects/{self.project}/prune", body=body))

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def __repr__(self) -> str:
        """Without the token."""
        return f"Client(url={self.url!r}, project={self.project!r})"


def log_in(url: str, name: str, password: str, trust: Trust = WORLD) -> IssuedToken:
    """A token of a server for a name and a password; it holds for some hours."""
    transport = Transport(url, "", trust)
    try:
        body = {"name": name, "password": password}
        return from_document(IssuedToken, transport.json("POST", "/login", body=body))
    finally:
        transport.close()


def connect(
    url: str | None = None, token: str | None = None, project: str | None = None, ca: str | None = None
) -> Client:
    """A client of a server. ca: `sha256:…`, the fingerprint that `hansa up` prints, or a file of certificates (PEM).

    ```python
    client = hansa.connect("https://127.0.0.1:8470", token="…", ca="sha256:…")
    session = client.sessions.start("app.py", rounds=20)
    print(client.sessions.wait(session.id).cause)
    ```

    What is not given comes from the environment (HANSA_URL, HANSA_TOKEN, HANSA_PROJECT, HANSA_CA), and then from the
    file that `hansa up` saved. Nothing is sent yet, but that a fingerprint's certificate is asked for. Raises
    `AuthenticationError` when there is no token anywhere, `UntrustedServerError` when no certificate is shown that has
    this fingerprint.
    """
    settings = Settings()
    saved = load_credentials(settings.credentials)
    given = settings.model_fields_set
    address = url or (saved.url if saved is not None and "url" not in given else settings.url)
    here = saved is not None and saved.url.rstrip("/") == address.rstrip("/")
    secret = token or (settings.token.get_secret_value() if settings.token is not None else "")
    if not secret and saved is not None and here:
        secret = saved.token
    if not secret:
        raise AuthenticationError(
            f"there is no token for {address}: log in with `hansa login {address}`, set HANSA_TOKEN, or run `hansa up` "
            "there, which saves one"
        )
    trust = _known(address, ca, settings, saved)
    key = settings.package_key.expanduser()
    return Client(address, secret, project or _project(settings, secret, saved), trust, package_key=key)


def trust_at(url: str, ca: str | None) -> Trust:
    """How a server is known: as is said, else by the environment, else as was saved for this URL.

    ca: as of `connect`. A fingerprint's certificate is asked for there.
    """
    settings = Settings()
    return _known(url, ca, settings, load_credentials(settings.credentials))


def _known(url: str, ca: str | None, settings: Settings, saved: Credentials | None) -> Trust:
    own = read_pair(settings.tls_cert, settings.tls_key)
    if ca is None and "ca" not in settings.model_fields_set and saved is not None and saved.url == url.rstrip("/"):
        return replace(saved.trust, own=own)
    trust = trust_in(settings.ca if ca is None else ca, own)
    if not trust.fingerprint:
        return trust
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise InputError(f"{url} is without TLS: it has no authority; write https://, or leave out the fingerprint")
    host = parts.hostname or ""
    address = f"[{host}]:{parts.port or 443}" if ":" in host else f"{host}:{parts.port or 443}"
    return Trust(roots=roots_of(address, trust.fingerprint), name=CONTROLLER, own=own)


def _project(settings: Settings, token: str, saved: Credentials | None) -> str:
    """The environment's project, or the one that the token is for, or the one that was saved with it."""
    if "project" in settings.model_fields_set:
        return settings.project
    remembered = saved.project if saved is not None and saved.token == token else ""
    return holder(token).project or remembered or settings.project
