"""What a user writes: functions, gathered in an `App`; and how an app is loaded from a file or a folder."""

from hansa.app.app import App
from hansa.app.imports import modules_beside
from hansa.app.loading import find_app, load_app
from hansa.app.returned import remembered
from hansa.app.tracebacks import outer_frame, users_frame, users_traceback

__all__ = [
    "App",
    "find_app",
    "load_app",
    "modules_beside",
    "outer_frame",
    "remembered",
    "users_frame",
    "users_traceback",
]
