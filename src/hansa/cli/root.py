"""The root of the command line: how it fails, and its exit codes."""

from typing import Any

import typer
from typer.core import TyperGroup

from hansa.cli import failures

__all__ = ["INTERRUPTED", "JSON_KEY", "Root"]

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM; 0: done, 1: failed, 2: the command cannot be understood."""
JSON_KEY = "hansa.json"
"""Where a command's context remembers `--json`, for whoever reports its failure."""


class Root(TyperGroup):
    """Turns what a command raises into a paragraph and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(INTERRUPTED) from interrupt
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:  # the outermost loop of a command: whatever it raised is reported
            if type(error).__module__.startswith(("click", "typer")):  # usage errors: Typer shows them
                raise
            failures.report(error, as_json=bool(ctx.meta.get(JSON_KEY)))
            raise typer.Exit(1) from error
