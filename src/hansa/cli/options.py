"""Options that several commands share, each declared once: a run's, a connection's, `--json`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from hansa.cli.root import JSON_KEY

if TYPE_CHECKING:
    from hansa.api.client import Client
    from hansa.app import App
    from hansa.messages import RunSpec, Value

__all__ = [
    "AppPath",
    "CertificateAuthority",
    "ConnectionOptions",
    "Json",
    "Limit",
    "SpecOptions",
    "app_name",
    "expand",
    "names_of",
    "pairs",
    "values",
]


def _remember_json(context: typer.Context, given: bool) -> bool:  # noqa: FBT001 - Typer's callback
    context.meta[JSON_KEY] = given
    return given


Json = Annotated[
    bool,
    typer.Option("--json", callback=_remember_json, help="Print JSON on standard output, and nothing else there."),
]

Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="The most that are listed.")]

CertificateAuthority = Annotated[
    str | None,
    typer.Option(
        "--ca", metavar="SHA256:…", show_default=False,
        help="Authority that the server's certificate must be of: the fingerprint that `hansa up` prints, or a file of "
        "certificates (PEM); by default HANSA_CA, else those that the world believes.",
    ),
]  # fmt: skip

AppPath = Annotated[
    Path,
    typer.Argument(metavar="APP", help="An app.py, a hansa.toml, or a folder with one of them.", show_default=False),
]


def names_of(group: str) -> Callable[[str], list[str]]:
    """Shell completion from what is registered in an entry-point group."""

    def complete(incomplete: str) -> list[str]:
        from importlib.metadata import entry_points

        return sorted({point.name for point in entry_points(group=group) if point.name.startswith(incomplete)})

    return complete


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take a dataclass of options as one parameter: on the command line it is its fields.

    So a group of options is declared once, whichever commands have it.
    """
    taken = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, type[Any]] = {}
    parameters = []
    for name, parameter in taken.items():
        if is_dataclass(parameter.annotation) and isinstance(parameter.annotation, type):
            groups[name] = parameter.annotation
            parameters += _parameters(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def called(**given: Any) -> None:
        made = {
            name: group(**{part.name: given.pop(part.name) for part in fields(group)}) for name, group in groups.items()
        }
        command(**given, **made)

    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what Typer reads
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _parameters(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    made = []
    for part in fields(group):
        default = part.default
        if part.default_factory is not MISSING:
            default = part.default_factory()
        empty = inspect.Parameter.empty if default is MISSING else default
        made.append(
            inspect.Parameter(part.name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=hints[part.name])
        )
    return made


@dataclass(frozen=True, slots=True)
class SpecOptions:
    """What decides the result of a run; `spec` is the only way from options to a `RunSpec`."""

    rounds: Annotated[int, typer.Option("--rounds", "-r", min=1, help="Rounds to commit.")] = 10
    algorithm: Annotated[
        str,
        typer.Option(
            "--algorithm", "-a", autocompletion=names_of("hansa.algorithms"),
            help="Algorithm, a name that `hansa algorithm list` shows.",
        ),
    ] = "fedavg"  # fmt: skip
    set_algorithm: Annotated[
        list[str],
        typer.Option("--set-algorithm", metavar="KEY=VALUE", help="An option of the algorithm; may be repeated."),
    ] = field(default_factory=list)
    aggregator: Annotated[
        str,
        typer.Option(
            "--aggregator", autocompletion=names_of("hansa.aggregators"),
            help="How the updates of a round become one: mean, median, krum, another built-in's name or a plug-in's.",
        ),
    ] = "mean"  # fmt: skip
    set_aggregator: Annotated[
        list[str],
        typer.Option(
            "--set-aggregator", metavar="KEY=VALUE",
            help="An option of the aggregator, for example uniform=true; may be repeated.",
        ),
    ] = field(default_factory=list)  # fmt: skip
    transform: Annotated[
        list[str],
        typer.Option(
            "--transform", "-t", metavar="NAME:KEY=VALUE,…", autocompletion=names_of("hansa.transforms"),
            help="What each update goes through before it leaves the client, for example clip:norm=1.0 or "
            "quantize:bits=4; may be repeated, in the order that is given.",
        ),
    ] = field(default_factory=list)  # fmt: skip
    set_config: Annotated[
        list[str],
        typer.Option(
            "--set", "-s", metavar="KEY=VALUE", help="A setting of the app, in `task.config`; may be repeated."
        ),
    ] = field(default_factory=list)
    select: Annotated[
        str | None,
        typer.Option(
            "--select", autocompletion=names_of("hansa.policies"),
            help="Who is invited to a round: all, count, fraction, cyclic or a plug-in's name; by default all, or what "
            "--count or --fraction implies.",
        ),
    ] = None  # fmt: skip
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Clients invited to a round, with --select count.")
    ] = None
    fraction: Annotated[
        float | None,
        typer.Option(
            "--fraction", min=0, max=1, help="Share of the connected clients invited to a round, above 0 to 1."
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every random number of the run.")] = 0
    min_clients: Annotated[
        int, typer.Option("--min-clients", min=1, help="Connected clients that a round waits for before it opens.")
    ] = 1
    quorum: Annotated[int, typer.Option("--quorum", min=1, help="Updates without which a round fails.")] = 1
    enough: Annotated[
        int | None,
        typer.Option(
            "--enough", min=1, help="Updates that close a round at once; by default it waits for all invited."
        ),
    ] = None
    deadline: Annotated[
        float, typer.Option("--deadline", help="Seconds after which a round closes with its quorum, or fails.")
    ] = 3600.0
    lease: Annotated[
        float, typer.Option("--lease", help="Seconds without progress after which a client loses its place.")
    ] = 60.0
    replace_failed: Annotated[
        bool,
        typer.Option(
            "--replace-failed/--no-replace-failed", help="Invite another client in the place of one that fails."
        ),
    ] = True
    only: Annotated[
        list[str],
        typer.Option("--only", metavar="CLIENT", help="Invite no other clients than those named; may be repeated."),
    ] = field(default_factory=list)
    label: Annotated[
        list[str],
        typer.Option(
            "--label", "-l", metavar="KEY=VALUE",
            help="Invite only clients with this label; may be repeated: of one key any of its values, of several all.",
        ),
    ] = field(default_factory=list)  # fmt: skip
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", min=0, help="Evaluate after every n-th round and the last; 0: never.")
    ] = 1
    evaluate_fraction: Annotated[
        float,
        typer.Option(
            "--evaluate-fraction", min=0, max=1, help="Share of the connected clients that evaluate, above 0 to 1."
        ),
    ] = 1.0
    max_weight: Annotated[
        int, typer.Option("--max-weight", min=1, help="The most examples that a round may sum, a power of two.")
    ] = 2**24
    range_bits: Annotated[
        int,
        typer.Option("--range-bits", min=0, help="A client may change a value by 2^range-bits of the tensor's scale."),
    ] = 6

    def spec(self, name: str = "run", project: str = "default") -> "RunSpec":
        """The run that these options describe; raises `ConfigError` for a pair that is none."""
        from hansa.messages import EvaluationRules, RoundRules, RunSpec

        implied = "count" if self.count is not None else "fraction" if self.fraction is not None else "all"
        rules = RoundRules(
            selection=self.select or implied,
            count=self.count,
            fraction=self.fraction,
            min_clients=self.min_clients,
            quorum=self.quorum,
            enough=self.enough,
            deadline=self.deadline,
            lease=self.lease,
            replace_failed=self.replace_failed,
            only=tuple(self.only),
            labels=tuple(self.label),
        )
        return RunSpec(
            name=name,
            project=project,
            algorithm=self.algorithm,
            algorithm_options=values(self.set_algorithm, "--set-algorithm"),
            aggregator=self.aggregator,
            aggregator_options=values(self.set_aggregator, "--set-aggregator"),
            rounds=self.rounds,
            seed=self.seed,
            rules=rules,
            evaluation=EvaluationRules(every=self.evaluate_every, fraction=self.evaluate_fraction),
            max_weight=self.max_weight,
            range_bits=self.range_bits,
            config=values(self.set_config, "--set"),
            transforms=tuple(self.transform),  # type: ignore[arg-type]  # as text: RunSpec reads them
        )


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Which controller a command talks to, and about which project."""

    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="REST address of the controller; by default HANSA_URL, or where you last logged in."
        ),
    ] = None
    project: Annotated[
        str | None, typer.Option("--project", "-p", help="Project; by default HANSA_PROJECT, else the token's own.")
    ] = None

    def connect(self) -> "Client":
        """The API client, with the token of HANSA_TOKEN or of `hansa login`."""
        from hansa.api.client import connect

        return connect(self.url, project=self.project)


def app_name(path: Path, app: "App | None" = None) -> str:
    """What a run of this app is called where nobody named it: its folder, or its file if that says more."""
    del app
    resolved = path.resolve()
    stem = resolved.stem if resolved.suffix in {".py", ".toml"} else resolved.name
    name = resolved.parent.name if stem in {"app", "hansa"} and resolved.suffix else stem
    safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)
    return safe.strip("._-")[:100] or "run"


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """KEY=VALUE texts as a dictionary; raises `ConfigError` for one without a `=`."""
    from hansa.errors import ConfigError

    made = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{option} {text!r} has no value: write {option} {key or 'key'}=value")
        made[key.strip()] = value
    return made


def values(given: Iterable[str], option: str) -> "Mapping[str, Value]":
    """KEY=VALUE texts, each value read as JSON where it is JSON (0.1, true, null, [1, 2]) and else as text."""
    from hansa.messages import value_from

    return {key: value_from(text) for key, text in pairs(given, option).items()}
