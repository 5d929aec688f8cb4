"""Writes the generated parts of docs/reference from the code itself, so that what is documented is what there is.

A page holds blocks between `<!-- begin NAME -->` and `<!-- end NAME -->`; `python tools/reference.py` fills them all.
A test compares every block with what this module would write, so a new command, setting, route or plug-in fails it.
"""

import ast
import dataclasses
import inspect
import math
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import EnumType
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "reference"

_NEED_A_SERVER = frozenset({"connect"})
"""Public names whose example no test can run by itself."""

_BLOCK = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


def main() -> int:
    """Fill every block of every page, and say which pages changed."""
    for path in sorted(PAGES.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


def filled(page: str) -> str:
    """The page with each block written anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{BLOCKS[block['name']]().strip()}\n\n{block[3]}", page)


def block_names(page: str) -> list[str]:
    """The blocks of a page, in order."""
    return [block["name"] for block in _BLOCK.finditer(page)]


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def commands(*, groups: bool = False) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, command) of each command of `hansa` that runs something, in the order of the help; groups: them too."""
    root = import_module("typer.main").get_command(import_module("hansa.cli").app)

    def walk(path: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        children: Mapping[str, Any] = getattr(command, "commands", {})
        if not children or groups:
            yield path, command
        for name, child in children.items():
            if not child.hidden:
                yield from walk((*path, name), child)

    return walk((), root)


def options(command: Any) -> list[Any]:
    """The named parameters of a command that its help shows."""
    return [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]


def _cli() -> str:
    return "\n\n".join(_command(path, command) for path, command in commands())


def _command(path: tuple[str, ...], command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(["hansa", *path, *(_usage(argument) for argument in arguments)])
    rows = [(f"`{_usage(argument)}`", "", _sentence(getattr(argument, "help", ""))) for argument in arguments]
    kinds = get_type_hints(command.callback)
    rows += [(_spelling(o, kinds.get(o.name)), _default(o), _sentence(o.help)) for o in options(command)]
    table = _table(("", "default", ""), rows) if rows else ""
    return f"### `{usage}`\n\n{_prose(command.help)}\n\n{table}".rstrip()


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]") + ("…" if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _values(kind: Any) -> Iterable[Any]:
    """What an option of this type takes: one of several values, or any of the type."""
    return get_args(kind) if get_origin(kind) is Literal else kind if isinstance(kind, EnumType) else [kind]


def _spelling(option: Any, annotation: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    kinds = [kind for kind in get_args(annotation) or [annotation] if kind is not type(None)]
    choices = [value for kind in kinds for value in _values(kind)]
    words = [_kind(c) if isinstance(c, type) else str(getattr(c, "value", c)) for c in choices]
    return f"{names} {option.metavar or ' | '.join(words).lower()}"


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if callable(value) or value is False or value in (None, "", (), []):
        return ""
    return _code(value)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def settings() -> list[tuple[str, Any]]:
    """(environment variable, pydantic field) of each setting."""
    model = import_module("hansa.settings").Settings
    prefix = model.model_config.get("env_prefix", "")
    delimiter = model.model_config.get("env_nested_delimiter") or "__"

    def walk(fields: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
        for name, field in fields.items():
            variable = str(field.validation_alias or before + name).upper()
            nested = getattr(field.annotation, "model_fields", None)
            if nested is None:
                yield variable, field
            else:
                yield from walk(nested, variable + delimiter)

    return list(walk(model.model_fields, prefix))


def _settings() -> str:
    rows = [
        (f"`{variable}`", _kind(field.annotation), _field_default(field), _sentence(field.description))
        for variable, field in settings()
    ]
    return _table(("variable", "type", "default", ""), rows)


def _field_default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value in (None, "") else _code(value)


def _run_spec() -> str:
    messages = import_module("hansa.messages")
    parts = [("", messages.RunSpec), ("rules", messages.RoundRules), ("evaluation", messages.EvaluationRules)]
    return "\n\n".join(
        f"#### {f'`{prefix}`: ' if prefix else ''}`{part.__name__}`\n\n{_fields(part)}" for prefix, part in parts
    )


def _fields(kind: type) -> str:
    source = _field_source(kind)
    rows = [
        (f"`{f.name}`", *source[f.name][:1], _dataclass_default(f), _sentence(source[f.name][1]))
        for f in dataclasses.fields(kind)
        if not f.name.startswith("_")
    ]
    return _table(("field", "type", "default", ""), rows)


def _dataclass_default(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        return "" if field.default == "" or callable(field.default) else _code(field.default)
    if field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default_factory()
    return _code(value) if not dataclasses.is_dataclass(value) else f"{type(value).__name__}()"


# ── routes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the server."""
    document: dict[str, Any] = import_module("hansa.api.server").openapi()
    return document


def routes() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(METHOD, path, operation) of each route, by path."""
    for path, item in sorted(openapi()["paths"].items()):
        for method in ("get", "post", "put", "patch", "delete"):
            if method in item:
                yield method.upper(), path, item[method]


def _routes() -> str:
    schemas = openapi().get("components", {}).get("schemas", {})
    shapes = [f"### `{name}`\n\n{_shape(schema)}" for name, schema in sorted(schemas.items())]
    return "\n\n".join([*(_route(*route, schemas) for route in routes()), "## Shapes", *shapes])


def _shape(schema: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", _schema_kind(part), _sentence(part.get("description", "")))
        for name, part in schema.get("properties", {}).items()
    ]
    values = ", ".join(f"`{value}`" for value in schema.get("enum", []))
    text = _prose(schema.get("description", ""))
    return "\n\n".join(part for part in (text, values, _table(("", "type", ""), rows) if rows else "") if part)


def _route(method: str, path: str, operation: dict[str, Any], schemas: Mapping[str, Any]) -> str:
    text = _prose(operation.get("description") or operation.get("summary", ""))
    rows = [
        (f"`{p['name']}`", p["in"], _schema_kind(p.get("schema", {})), _sentence(p.get("description", "")))
        for p in operation.get("parameters", [])
    ]
    content = operation.get("requestBody", {}).get("content", {})
    for media, body in content.items():
        rows += _body_rows(media, body.get("schema", {}), schemas)
    answers = ", ".join(
        f"{status} {_answer(answer)}".strip() for status, answer in sorted(operation.get("responses", {}).items())
    )
    table = _table(("", "in", "type", ""), rows) + "\n\n" if rows else ""
    needs = f"Needs the permission to {operation['x-permission']}."
    return f"### `{method} {path}`\n\n{text}\n\n{needs}\n\n{table}Answers: {answers}."


def _answer(answer: Mapping[str, Any]) -> str:
    for body in answer.get("content", {}).values():
        reference = body.get("schema", {}).get("$ref", "")
        if reference:
            return f"`{reference.rsplit('/', 1)[-1]}`"
    return ""


def _body_rows(media: str, schema: dict[str, Any], schemas: Mapping[str, Any]) -> list[tuple[str, ...]]:
    if "$ref" not in schema:
        return [("the body", media, _schema_kind(schema), "")]
    resolved = schemas[schema["$ref"].rsplit("/", 1)[-1]]
    required = resolved.get("required", [])
    return [
        (
            f"`{name}`",
            "body",
            _schema_kind(part),
            _sentence(part.get("description", "") or "") or _needed(name, required),
        )
        for name, part in resolved.get("properties", {}).items()
    ]


def _needed(name: str, required: Iterable[str]) -> str:
    return "Required." if name in required else ""


def _schema_kind(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return f"`{schema['$ref'].rsplit('/', 1)[-1]}`"
    if schema.get("type") == "array":
        return f"array of {_schema_kind(schema.get('items', {}))}"
    kinds = [_schema_kind(part) for part in schema.get("anyOf", []) if part.get("type") != "null"]
    kind = " or ".join(kinds) or str(schema.get("type", "any"))
    default = schema.get("default")
    return kind if default is None else f"{kind}, default {_code(default)}"


def _permissions() -> str:
    table = import_module("hansa.api.permissions")
    people = import_module("hansa.store.records").ProjectRole
    nodes = import_module("hansa.wire.frames").Role
    columns = [*people, nodes.CLIENT, nodes.COMBINER]
    rows = []
    for permission in table.Permission:
        granted = table.ROLES[permission]
        everybody = nodes.PERSON in granted
        marks = ["yes" if role in granted or (everybody and role in people) else "" for role in columns]
        rows.append((permission.value, *marks, "yes"))
    return _table(("", *(role.value for role in columns), "site administrator"), rows)


# ── plug-ins, public names, errors, dtypes, messages ─────────────────────────────────────────────────────────────────


def entry_points() -> dict[str, dict[str, str]]:
    """Group → name → module:object, of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups: dict[str, dict[str, str]] = project.get("entry-points", {})
    return groups


def _entry_points() -> str:
    return "\n\n".join(f"### `{group}`\n\n{_registered(points)}" for group, points in entry_points().items())


def _registered(points: Mapping[str, str]) -> str:
    modules = [target.partition(":")[0] for target in points.values()]
    rows = []
    for name, target in points.items():
        module, _, attribute = target.partition(":")
        loaded = getattr(import_module(module), attribute)
        text = _first_paragraph(inspect.getdoc(loaded))
        if modules.count(module) == 1:  # one paper, one module: its first paragraph is the update
            text = f"{_first_paragraph(import_module(module).__doc__)} {text}"
        rows.append((f"`{name}`", _options(loaded), text, f"`{target}`"))
    return _table(("name", "options", "", "in"), rows)


_OF_THE_RUN = frozenset({"max_weight", "range_bits"})
"""What aggregators are given by the run's own settings."""


def _options(factory: Callable[..., Any]) -> str:
    parameters = inspect.signature(factory).parameters.values()
    return ", ".join(f"`{_option(p)}`" for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _OF_THE_RUN)


def _option(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"


def public_names() -> list[str]:
    """What `hansa` exports."""
    return [name for name in import_module("hansa").__all__ if not name.startswith("_")]


def _public_names() -> str:
    package = import_module("hansa")
    return "\n\n".join(_public(name, getattr(package, name)) for name in public_names())


def _public(name: str, value: Any) -> str:
    text = _prose(inspect.getdoc(value))
    if name in _NEED_A_SERVER:
        text = text.replace("```python\n", "<!-- not run: it needs a server -->\n\n```python\n")
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        return f"### `hansa.{name}`\n\n{text}\n\n{_fields(value)}"
    if inspect.isclass(value):
        return f"### `hansa.{name}`\n\n{text}\n\n{_methods(value)}".rstrip()
    return f"### `hansa.{name}{_signature(value)}`\n\n{text}"


def _methods(kind: type) -> str:
    rows = []
    for name, found in vars(kind).items():
        member = getattr(kind, name) if isinstance(found, classmethod) else found
        bound = inspect.ismethod(member)
        if not name.startswith("_") and (bound or inspect.isfunction(member) or isinstance(member, property)):
            called = "" if isinstance(member, property) else _signature(member)
            text = _first_paragraph(inspect.getdoc(member))
            rows.append((f"`{name}{called.replace('(self, ', '(').replace('(self)', '()')}`", text))
    return _table(("", ""), rows) if rows else ""


def _signature(function: Any) -> str:
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    return str(inspect.Signature(parameters))


def _errors() -> str:
    errors = import_module("hansa.errors")
    doc = errors.__doc__ or ""
    tree = doc[doc.index("HansaError") : doc.index("Every message")].strip()
    reasons = _field_source(errors.Reason)
    rows = [(f"`{reason.value}`", _sentence(reasons[reason.name][1])) for reason in errors.Reason]
    return f"```text\n{tree}\n```\n\n### Why an update is not counted\n\n{_table(('reason', ''), rows)}"


def _dtypes() -> str:
    arrays = import_module("hansa.arrays")
    names = ", ".join(f"`{name}`" for name in arrays.DTYPES)
    rules = (arrays.__doc__ or "").partition("in one place, here:\n\n")[2]
    return f"By their safetensors names: {names}.\n\n{inspect.cleandoc(rules)}"


def _messages() -> str:
    files = sorted((ROOT / "proto" / "hansa").rglob("*.proto"))
    return "\n\n".join(
        f"### `{path.name}`\n\n```proto\n{path.read_text(encoding='utf-8').strip()}\n```" for path in files
    )


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _field_source(kind: type) -> dict[str, tuple[str, str]]:
    """Name → (annotation, the string below it) of each attribute in the class's source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body = getattr(definition, "body", [])
    found = {}
    for field, note in zip_longest(body, body[1:]):
        target = field.target if isinstance(field, ast.AnnAssign) else getattr(field, "targets", [None])[0]
        if isinstance(target, ast.Name):
            annotation = ast.unparse(field.annotation) if isinstance(field, ast.AnnAssign) else ""
            noted = isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant)
            found[target.id] = (annotation, str(note.value.value) if noted else "")
    return found


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    used = [i for i in range(len(head)) if head[i] != "default" or any(row[i] for row in rows)]
    lines = [[head[i] for i in used], ["---"] * len(used), *([_cell(row[i]) for i in used] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def _code(value: object) -> str:
    plain = getattr(value, "value", value)
    text = str(plain).replace(str(Path.home()), "~")
    return f"`{text}`"


def _kind(annotation: Any) -> str:
    text = getattr(annotation, "__name__", "") if "[" not in str(annotation) else ""
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text or str(annotation))


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _prose(text: str | None) -> str:
    """A docstring as Markdown: the entries of `Args:` and its like become a list."""
    clean = inspect.cleandoc((text or "").split("\f", maxsplit=1)[0])
    listed = re.sub(r"^ {4}(\S[^:\n]*): ", r"- `\1`: ", clean, flags=re.MULTILINE)
    return re.sub(r"^(Args|Raises|Returns|Yields):\n", r"\1:\n\n", listed, flags=re.MULTILINE)


def _first_paragraph(text: str | None) -> str:
    return _sentence((text or "").split("\n\n", maxsplit=1)[0])


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _benchmarks() -> str:
    recipes = import_module("hansa.experiments.recipes")
    return "\n\n".join(_recipe(recipes, recipes.load_recipe(name)) for name in recipes.recipe_names())


def _recipe(recipes: Any, recipe: Any) -> str:
    known = recipes.last_measured(recipe.name)
    rows = []
    for row in recipe.rows:
        for target in row.targets:
            measured = known.get(row.name, {}).get(target.name, {})
            median = ", median" if target.statistic == "median" else ""
            value = _measured(measured)
            published = "–" if target.expected is None else f"{target.expected:g}"
            band = "" if None in {target.tolerance, target.expected} else f" ± {target.tolerance:g}"
            rows.append((row.name, target.name + median, published + band, value, str(measured.get("seeds", "–"))))
    data = " --data FOLDER" if recipe.data else ""
    time = "" if recipe.time == "minutes" else f" About {recipe.time} on one idle core."
    note = f"\n\n{recipe.note}" if recipe.note else ""
    told = f"`hansa bench run {recipe.name}{data}`. {recipe.setting}.{time}\n\nSource: {recipe.source}.{note}"
    return f"## {recipe.title}\n\n{told}\n\n{_table(('row', 'number', 'expected', 'measured', 'seeds'), rows)}"


def _measured(known: Mapping[str, float]) -> str:
    if not known:
        return "not measured"
    if math.isinf(known["measured"]):
        return "not reached"
    digits = 1 if known["measured"] >= 10 else 4  # noqa: PLR2004 - rounds have one digit, shares four
    deviation = "" if math.isnan(known["deviation"]) else f" ± {known['deviation']:.{digits}f}"
    return f"{known['measured']:.{digits}f}{deviation}"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "benchmarks": _benchmarks,
    "cli": _cli,
    "dtypes": _dtypes,
    "entry-points": _entry_points,
    "errors": _errors,
    "messages": _messages,
    "permissions": _permissions,
    "public-names": _public_names,
    "routes": _routes,
    "run-spec": _run_spec,
    "settings": _settings,
}
"""What can be written, by the name of its block."""

if __name__ == "__main__":
    sys.exit(main())
