"""The root of the command line: how it fails, and its exit codes."""

import re
from typing import Any

import typer
from typer.core import TyperGroup

from hansa.cli import failures

__all__ = ["INTERRUPTED", "JSON_KEY", "Root"]

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM; 0: done, 1: failed, 2: the command cannot be understood."""
JSON_KEY = "hansa.json"
"""Where a command's context remembers `--json`, for whoever reports its failure."""


_RENAMED = {"--save": "--output", "--out": "--output", "--to": "--output"}
"""Options that had another name once, for whoever still writes it."""

_PHRASES = (
    (re.compile(r"^Value error, "), ""),
    (re.compile(r"^Input should be a valid integer.*"), "it must be a whole number"),
    (re.compile(r"^Input should be a valid number.*"), "it must be a number"),
    (re.compile(r"^Input should be greater than or equal to "), "it must be at least "),
    (re.compile(r"^Input should be less than or equal to "), "it must be at most "),
    (re.compile(r"^Input should be "), "it must be "),
)
"""What the library that reads values says of them, and what is said here."""


class Root(TyperGroup):
    """Turns what a command raises into a paragraph and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(INTERRUPTED) from interrupt
        except typer.BadParameter as error:
            for pattern, plainly in _PHRASES:
                error.message = pattern.sub(plainly, error.message)
            raise
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:  # the outermost loop of a command: whatever it raised is reported
            if type(error).__module__.startswith(("click", "typer")):  # usage errors: Typer shows them
                if (now := _RENAMED.get(getattr(error, "option_name", ""))) is not None:
                    vars(error)["possibilities"] = [now]
                raise
            failures.report(error, as_json=bool(ctx.meta.get(JSON_KEY)))
            raise typer.Exit(1) from error
