"""`hansa login`: remember a server and a token."""

import sys
from typing import Annotated

import typer

from hansa.cli.options import Json
from hansa.cli.output import print_json, say

__all__ = ["login"]


def login(
    *,
    url: Annotated[
        str | None, typer.Option("--url", help="REST address of the controller; by default HANSA_URL.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", show_default=False,
            help="Your token; - reads it from standard input. By default HANSA_TOKEN, else you are asked for it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Check a token with a server, and save both for this user, in a file that nobody else can read."""
    from hansa.api.client import connect
    from hansa.api.credentials import Credentials, save_credentials
    from hansa.settings import Settings

    settings = Settings()
    secret = sys.stdin.readline().strip() if token == "-" else token  # noqa: S105 - a dash, by convention
    if not secret and settings.token is not None:
        secret = settings.token.get_secret_value()
    secret = secret or typer.prompt("Token", hide_input=True, err=True)
    with connect(url or settings.url, token=secret) as api:
        me = api.me()
        project = me.project or next(iter(me.roles), settings.project)
        path = save_credentials(settings.credentials, Credentials(api.url, str(secret), project))
    if as_json:
        print_json({"url": api.url, "name": me.name, "roles": me.roles, "project": project, "saved": path})
    else:
        roles = "; ".join(f"{role} in {name}" for name, role in me.roles.items()) or "a member of no project yet"
        say(f"You are {me.name} at {api.url}: {roles}. Saved in {path}.")
