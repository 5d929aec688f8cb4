"""`hansa algorithm` and `hansa version`: what is installed here."""

import inspect
import platform
import re
import sys
from typing import Any

import typer

from hansa.cli.options import Json
from hansa.cli.output import print_json, print_table, say

__all__ = ["commands", "version"]

commands = typer.Typer(no_args_is_help=True, help="Algorithms: what --algorithm can name here.")

_CITED = re.compile(r".*?arXiv:\d+\.\d+")
"""A paragraph that names a paper, up to the number of the first."""


@commands.command("list")
def list_algorithms(*, as_json: Json = False) -> None:
    """List the algorithms that are installed, with what each is and its options."""
    from hansa.run import names

    found = [_described(name) for name in names("hansa.algorithms")]
    columns = {
        "name": lambda a: str(a["name"]),
        "options": lambda a: " ".join(f"{key}={value}" for key, value in a["options"].items()),
        "paper": lambda a: str(a["paper"]),
    }
    print_table(found, columns, as_json=as_json, nothing="No algorithm is installed.")


def version(*, as_json: Json = False) -> None:
    """Print the version of hansa, and of what it runs on."""
    import hansa

    facts = {
        "hansa": hansa.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "path": sys.executable,
    }
    if as_json:
        print_json(facts)
    else:
        say(f"hansa {facts['hansa']} (Python {facts['python']}, {facts['platform']})")


def _described(name: str) -> dict[str, Any]:
    """Name, options with their defaults, and the line of the module that names the paper."""
    from hansa.run import options_of, plugin

    factory = plugin("hansa.algorithms", name)
    module = inspect.getmodule(factory)
    text = inspect.getdoc(module) or inspect.getdoc(factory) or ""
    lines = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    cited = [found[0] for line in lines if (found := _CITED.match(line)) is not None]
    options = {
        key: parameter.default
        for key, parameter in options_of("hansa.algorithms", name).items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {"name": name, "options": options, "paper": (cited or lines or [""])[0]}
