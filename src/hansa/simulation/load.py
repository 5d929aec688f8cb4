"""Loading an app whose file may itself start a simulation, which would load it again, and so on."""

from contextvars import ContextVar
from pathlib import Path

from hansa.app import App, load_app
from hansa.errors import AppError

__all__ = ["check_not_loading", "load"]

_loading: ContextVar[bool] = ContextVar("loading", default=False)


def load(path: str | Path) -> App:
    """As `load_app`."""
    token = _loading.set(True)
    try:
        return load_app(path)
    finally:
        _loading.reset(token)


def check_not_loading() -> None:
    """Raise `AppError` when an app is being loaded: a simulation must not start from there."""
    if _loading.get():
        raise AppError(
            'the app starts a simulation while it is loaded for one: put that call under `if __name__ == "__main__":`'
        )
