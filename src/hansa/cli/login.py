"""`hansa login` and `hansa logout`: remember a server and a token, and forget them."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import CertificateAuthority, Json
from hansa.cli.output import print_json, say
from hansa.cli.passwords import PasswordStdin, asked_password

if TYPE_CHECKING:
    from hansa.settings import Settings
    from hansa.wire.tls import Trust

__all__ = ["login", "logout"]


def login(
    url: Annotated[
        str | None,
        typer.Argument(metavar="URL", help="REST address of the controller; by default HANSA_URL.", show_default=False),
    ] = None,
    *,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="Your name; you are asked for your password.")
    ] = None,
    password_stdin: PasswordStdin = False,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", show_default=False,
            help="A token in place of name and password; - reads it from standard input. By default HANSA_TOKEN, else "
            "you are asked for it.",
        ),
    ] = None,
    oidc: Annotated[
        bool, typer.Option("--oidc", help="In your browser, by the OpenID provider of the server.")
    ] = False,
    device: Annotated[
        bool, typer.Option("--device", help="With --oidc: with a code that you type in on another device's browser.")
    ] = False,
    ca: CertificateAuthority = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Log in with your name, by OpenID, or with a token, and save it in a file that nobody else can read."""
    from hansa.api.client import connect, log_in, trust_at
    from hansa.api.credentials import Credentials, save_credentials
    from hansa.settings import Settings

    settings = Settings()
    address = url or settings.url
    if (oidc or device) and (user is not None or token is not None):
        raise typer.BadParameter("give one of --oidc, --user and --token")
    if oidc or device:
        secret = _by_provider(address, trust_at(address, ca), device=device)
    elif user is not None:
        password = asked_password("Password", stdin=password_stdin)
        secret = log_in(address, user, password, trust_at(address, ca)).token
    else:
        secret = _given_token(token, settings)
    with connect(address, token=secret, ca=ca) as api:
        me = api.me()
        project = me.project or next(iter(me.roles), settings.project)
        known = Credentials(api.url, secret, project, api.trust.roots, api.trust.name)
        path = save_credentials(settings.credentials, known)
    if as_json:
        print_json({"url": api.url, "name": me.name, "roles": me.roles, "project": project, "saved": path})
    else:
        roles = "; ".join(f"{role} in {name}" for name, role in me.roles.items()) or "a member of no project yet"
        say(f"You are {me.name} at {api.url}: {roles}. Saved in {path}.")


def logout(*, as_json: Json = False) -> None:
    """Refuse the saved token from now on, and forget it."""
    from hansa.api.client import Client
    from hansa.api.credentials import forget_credentials, load_credentials
    from hansa.errors import AuthenticationError
    from hansa.settings import Settings

    settings = Settings()
    saved = load_credentials(settings.credentials)
    if saved is None:
        raise AuthenticationError(f"nobody is logged in: there is nothing in {settings.credentials}")
    try:
        with Client(saved.url, saved.token, saved.project, saved.trust) as api:
            api.log_out()
    except AuthenticationError:  # it holds no more: then there is nothing but to forget it
        pass
    forget_credentials(settings.credentials)
    if as_json:
        print_json({"url": saved.url})
    else:
        say(f"You are logged out of {saved.url}.")


def _by_provider(address: str, trust: "Trust", *, device: bool) -> str:
    import webbrowser

    from hansa.api.sign_on import DeviceLogin, log_in_by_browser, log_in_by_device

    def show(page: str) -> None:
        opened = webbrowser.open(page)
        said = (
            "Log in in your browser. If it does not open, go to:"
            if opened
            else "Log in with a browser on this machine:"
        )
        say(f"{said}\n  {page}", as_json=True)
        if not opened:
            say("Without one, stop this with Ctrl-C and use `hansa login --oidc --device`.", as_json=True)

    def show_code(login: DeviceLogin) -> None:
        say(f"Go to {login.verification_uri} and type in the code:\n  {login.user_code}", as_json=True)
        if login.verification_uri_complete:
            say(f"or to {login.verification_uri_complete}, and compare the code.", as_json=True)

    if device:
        return log_in_by_device(address, show_code, trust).token
    return log_in_by_browser(address, show, trust).token


def _given_token(token: str | None, settings: "Settings") -> str:
    secret = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - a dash, by convention
    if not secret and settings.token is not None:
        secret = settings.token.get_secret_value()
    return secret or str(typer.prompt("Token", hide_input=True, err=True))
