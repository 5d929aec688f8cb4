"""What a person sees when a command fails: one paragraph, and of user code its traceback from the user's own frame."""

import json
import sys
import traceback
from types import TracebackType

import typer

__all__ = ["report"]

_IN_A_TASK = "hansa: raised while"
"""How the note begins that a simulation adds."""


def report(error: BaseException, *, as_json: bool) -> None:
    """Say it on standard error; with `--json` also as an object on standard output."""
    name, message = type(error).__name__, _message(error)
    if as_json:
        typer.echo(json.dumps({"error": {"type": name, "message": message}}))
    told = _traceback(error)
    if told:
        typer.echo(told.rstrip(), err=True)
    label = typer.style("error:", fg="red", bold=True) if sys.stderr.isatty() else "error:"
    typer.echo(f"{label} {message}", err=True)


def _message(error: BaseException) -> str:
    """What happened, in the words of the error."""
    from hansa.errors import HansaError

    if isinstance(error, HansaError):
        return str(error)
    if _users_frame(error) is not None or isinstance(error, SyntaxError):
        return f"the app raised {type(error).__name__}: {error}"
    if _raised_in_a_task(error):
        return (
            f"the app's trainer raised {type(error).__name__}: {error}; see that its model, its settings and its data "
            "fit together"
        )
    if _is_of_a_path(error):
        return f"{error.filename}: {error.strerror}; give a path that this user may use"  # type: ignore[attr-defined]
    return f"hansa itself failed with {type(error).__name__}: {error}; this is a bug, please report it"


def _traceback(error: BaseException) -> str:
    """From the user's first frame; nothing where no user code is to blame."""
    from hansa.app import outer_frame
    from hansa.errors import HansaError

    frame = _users_frame(error)
    if isinstance(error, HansaError):
        told = [getattr(error, "traceback", ""), *getattr(error, "__notes__", ())]
        own = "" if frame is None or _is_ours(error) or any(told) else _formatted(error, frame)
        return "\n".join(part for part in (*told, own) if part)
    if frame is None and _is_of_a_path(error):
        return ""
    if frame is None and _raised_in_a_task(error):
        return _formatted(error, outer_frame(error))
    if isinstance(error, SyntaxError) and frame is None:
        return "".join(traceback.format_exception_only(error))
    return _formatted(error, frame if frame is not None else error.__traceback__)


def _raised_in_a_task(error: BaseException) -> bool:
    """Whether a client's task raised it: of a trainer that hansa brings no frame is the app's, and the model is."""
    return any(note.startswith(_IN_A_TASK) for note in getattr(error, "__notes__", ()))


def _is_of_a_path(error: BaseException) -> bool:
    """Whether the system refuses a file or a folder: that is no bug, whoever named it."""
    return isinstance(error, OSError) and error.filename is not None and bool(error.strerror)


def _formatted(error: BaseException, start: TracebackType | None) -> str:
    return "".join(traceback.format_exception(type(error), error, start, chain=False))


def _is_ours(error: BaseException) -> bool:
    """Whether the last frame is hansa's: then the message says all."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and str(last.tb_frame.f_globals.get("__name__", "")).startswith("hansa.")


def _users_frame(error: BaseException) -> TracebackType | None:
    """The first frame in the app's own file; `hansa.app` is loaded where there is one."""
    from hansa.app import users_frame

    return users_frame(error)
