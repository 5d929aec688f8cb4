"""How commands come by a password: from the keyboard, unseen, or from standard input; never from the command line."""

import sys
from typing import Annotated

import typer

__all__ = ["PasswordStdin", "asked_password"]

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the next line of standard input.")
]


def asked_password(what: str, *, stdin: bool, new: bool = False) -> str:
    """A password. what: as the question names it; new: ask twice, so that a slip is noticed."""
    if stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return str(typer.prompt(what, hide_input=True, confirmation_prompt=new, err=True))
