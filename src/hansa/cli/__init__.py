"""The command line: one module per noun, the same nouns as the REST API and the Python client.

A module here imports nothing heavy until its command runs, so that `hansa --help` and shell completion answer at once.
"""

from collections.abc import Sequence

import typer

from hansa.cli import (
    algorithm,
    audit,
    backup,
    bench,
    client,
    combiner,
    data,
    event,
    importing,
    keys,
    model,
    node,
    package,
    prediction,
    project,
    run,
    session,
    token,
    user,
)
from hansa.cli.decentralize import decentralize
from hansa.cli.demo import demo
from hansa.cli.login import login, logout
from hansa.cli.metrics import metrics
from hansa.cli.parity import parity
from hansa.cli.privacy import privacy
from hansa.cli.prune import prune
from hansa.cli.replay import replay
from hansa.cli.root import INTERRUPTED, Root
from hansa.cli.running import interrupt_on_sigterm
from hansa.cli.simulate import simulate
from hansa.cli.studio import studio
from hansa.cli.sweep import sweep
from hansa.cli.up import up
from hansa.cli.verify import verify

__all__ = ["app", "main"]

app = typer.Typer(
    name="hansa",
    cls=Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Federated learning: the same file in a simulation and on a network, to the same bits.",
)

_ALONE = "On this machine"
_NETWORK = "A network"
_RECORD = "What happens on it"

for _command in (demo, simulate, replay, sweep, decentralize, parity, privacy):
    app.command(rich_help_panel=_ALONE)(_command)
app.command(rich_help_panel=_NETWORK)(up)
app.command(rich_help_panel=_NETWORK)(studio)
app.command(rich_help_panel=_NETWORK)(login)
app.command(rich_help_panel=_NETWORK)(logout)
for _name, _noun in (
    ("client", client),
    ("combiner", combiner),
    ("node", node),
    ("token", token),
    ("project", project),
    ("user", user),
    ("keys", keys),
    ("backup", backup),
):
    app.add_typer(_noun.commands, name=_name, rich_help_panel=_NETWORK)
for _name, _noun in (
    ("session", session),
    ("model", model),
    ("prediction", prediction),
    ("package", package),
    ("event", event),
    ("audit", audit),
    ("import", importing),
):
    app.add_typer(_noun.commands, name=_name, rich_help_panel=_RECORD)
app.command(rich_help_panel=_RECORD)(metrics)
app.command(rich_help_panel=_RECORD)(verify)
app.command(rich_help_panel=_RECORD)(prune)
app.add_typer(run.commands, name="run", rich_help_panel=_ALONE)
app.add_typer(bench.commands, name="bench", rich_help_panel=_ALONE)
app.add_typer(algorithm.commands, name="algorithm", rich_help_panel=_ALONE)
app.add_typer(data.commands, name="data", rich_help_panel=_ALONE)
app.command(rich_help_panel=_ALONE)(algorithm.version)


@app.callback()
def _hansa() -> None:
    """Federated learning: the same file in a simulation and on a network, to the same bits."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; arguments: without the program's name, by default those of this process."""
    interrupt_on_sigterm()
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="hansa")
    except KeyboardInterrupt:  # before there is a command that could tidy up
        raise SystemExit(INTERRUPTED) from None
