"""What of an error is an app's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception
from types import TracebackType

from hansa.app.module import MODULE
from hansa.errors import HansaError

__all__ = ["noting_names", "outer_frame", "users_frame", "users_traceback"]


def users_frame(error: BaseException) -> TracebackType | None:
    """The first frame in an app's own file; None: it has none."""
    frame = error.__traceback__
    while frame is not None:
        if str(frame.tb_frame.f_globals.get("__name__", "")).startswith(MODULE):
            return frame
        frame = frame.tb_next
    return None


def outer_frame(error: BaseException) -> TracebackType | None:
    """The first frame below hansa's last: what a library was doing that a trainer called; else hansa's last."""
    frame = last = error.__traceback__
    while frame is not None:
        if str(frame.tb_frame.f_globals.get("__name__", "")).startswith("hansa."):
            last = frame if frame.tb_next is None else frame.tb_next
        frame = frame.tb_next
    return last


def users_traceback(error: BaseException) -> str:
    """Of what an app has raised, from its own first frame on; empty for an error of hansa's that says all itself.

    One that hansa raised because of what a party's program did has the traceback of that.
    """
    frame, cause = users_frame(error), error.__cause__
    if frame is None and isinstance(error, HansaError):
        return users_traceback(cause) if cause is not None and users_frame(cause) is not None else ""
    if frame is None:
        return "".join(format_exception(type(error), error, outer_frame(error)))
    return "".join(format_exception(type(error), error, frame))


@contextmanager
def noting_names() -> Iterator[None]:
    """Where PyTorch misses names in a model that an app's function loads, a note of the weights that have several."""
    try:
        yield
    except RuntimeError as error:
        if "Missing key(s) in state_dict" in str(error):
            error.add_note(
                "hansa: tied weights travel once, by the first of their names: load a model by "
                "hansa.training.torch.load_into_module(module, model), which knows the others"
            )
        raise
