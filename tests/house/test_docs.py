"""What is documented is what there is: reference pages against the code, examples run, commands parsed."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/README.md")])

HOME = {
    "benchmarks": "benchmarks.md",
    "cli": "cli.md",
    "dtypes": "numbers.md",
    "entry-points": "plug-ins.md",
    "errors": "errors.md",
    "messages": "wire.md",
    "permissions": "permissions.md",
    "public-names": "python.md",
    "routes": "rest.md",
    "run-spec": "run.md",
    "settings": "settings.md",
}
"""Block → its page."""

_FENCE = re.compile(
    r"^(?P<mark><!-- not run: (?P<why>[^\n]+) -->\n\n?)?```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Example:
    """One fenced block of a page."""

    page: Path
    language: str
    title: str
    code: str
    not_run: str
    """Why it is not run; empty when it is."""


def examples(page: Path) -> Iterator[Example]:
    for fence in _FENCE.finditer(page.read_text(encoding="utf-8")):
        info = fence["info"].strip()
        title = _TITLE.search(info)
        yield Example(page, info.split(" ")[0], title[1] if title else "", fence["code"], (fence["why"] or "").strip())


@pytest.fixture(scope="module")
def reference(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("reference")


# ── reference pages ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_page_of_the_site_is_in_its_navigation():
    listed = re.findall(r'= "([^"]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8"))
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages) == sorted(listed)


@pytest.mark.parametrize("block", sorted(HOME))
def test_a_reference_page_says_what_the_code_says(reference: ModuleType, block: str) -> None:
    page = (REFERENCE / HOME[block]).read_text(encoding="utf-8")
    assert block in reference.block_names(page), f"docs/reference/{HOME[block]} has no block {block}"
    written = re.search(rf"<!-- begin {block} -->\n(.*?)<!-- end {block} -->", page, re.DOTALL)
    assert written is not None
    assert written[1].strip() == reference.BLOCKS[block]().strip(), "run `make docs` and commit the page"


def test_every_block_that_can_be_written_has_a_page(reference: ModuleType) -> None:
    assert sorted(reference.BLOCKS) == sorted(HOME)


def test_every_command_and_every_option_has_a_sentence_of_help(reference: ModuleType) -> None:
    commands = list(reference.commands())
    assert len(commands) > 10
    for path, command in commands:
        assert command.help, f"hansa {' '.join(path)} has no help"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"hansa {' '.join(path)}: {parameter.name} has no help"


def test_every_setting_has_a_sentence_of_its_own(reference: ModuleType) -> None:
    settings = reference.settings()
    assert len(settings) > 5
    assert [variable for variable, field in settings if not field.description] == []


def test_every_route_says_what_it_does(reference: ModuleType) -> None:
    routes = list(reference.routes())
    assert len(routes) > 10
    for method, path, operation in routes:
        assert operation.get("description"), f"{method} {path} has no docstring"


def test_every_entry_point_group_is_explained_and_every_name_in_it_loads(reference: ModuleType) -> None:
    page = (REFERENCE / "plug-ins.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "hansa").rglob("*.py"))
    groups = {*reference.entry_points(), *re.findall(r'plugin\(\s*"(hansa\.\w+)"', source)}
    assert "hansa.algorithms" in groups
    for group in groups:
        assert reference.entry_points().get(group), f"nothing is registered in {group}"
        assert f"| `{group}` |" in page, f"{group} has no row in docs/reference/plug-ins.md"


def test_every_error_of_the_tree_is_a_class_and_every_class_is_in_the_tree() -> None:
    errors = sys.modules.get("hansa.errors") or __import__("hansa.errors", fromlist=["errors"])
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
    assert set(re.findall(r"\b[A-Z]\w+Error\b", errors.__doc__ or "")) == classes


def test_every_public_name_has_a_docstring(reference: ModuleType) -> None:
    package = __import__("hansa")
    names = reference.public_names()
    assert len(names) <= 30
    assert [name for name in names if not getattr(package, name).__doc__] == []


# ── examples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


LONG = frozenset({
    "pytorch.md", "jax.md", "simulate-fast.md", "split-and-vertical.md", "experiments.md", "statistics-and-trees.md",
})  # fmt: skip
"""Pages whose examples compile, or train in many processes, or for seconds."""


def pages_with(language: str) -> list[Any]:
    found = [page for page in PAGES if any(example.language == language for example in examples(page))]
    marks = dict.fromkeys(LONG, pytest.mark.slow)
    return [pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks.get(page.name, ())) for page in found]


@pytest.mark.parametrize("page", pages_with("python"))
def test_every_python_example_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, in order, as one program; a block with a title is also a file beside it."""
    program = []
    for example in examples(page):
        if example.title:
            (tmp_path / example.title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / example.title).write_text(example.code, encoding="utf-8")
        if example.language == "python" and not example.not_run:
            program.append(example.code)
    if "import torch" in "".join(program):
        pytest.importorskip("torch")
    script = tmp_path / "page_examples.py"
    script.write_text("\n".join(program), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", pages_with("toml"))
def test_every_toml_example_parses(page: Path) -> None:
    for example in examples(page):
        if example.language == "toml":
            assert tomllib.loads(example.code)


@pytest.mark.parametrize("page", pages_with("sh"))
def test_every_hansa_command_of_a_page_exists_with_its_options(page: Path, reference: ModuleType) -> None:
    known = dict(reference.commands(groups=True))
    for line in hansa_lines(page):
        words = line[1:]
        path = next(tuple(words[:n]) for n in range(len(words), -1, -1) if tuple(words[:n]) in known)
        command = known[path]
        is_group = bool(getattr(command, "commands", {}))
        assert not is_group or words[len(path) :] == ["--help"], f"{page.name}: there is no command {shlex.join(line)}"
        spelled = {name for option in command.params for name in [*option.opts, *option.secondary_opts]} | {"--help"}
        given = {word.partition("=")[0] for word in words[len(path) :] if re.match(r"--?[a-z]", word)}
        assert given <= spelled, f"{page.name}: hansa {' '.join(path)} has no option {sorted(given - spelled)}"


def hansa_lines(page: Path) -> Iterator[list[str]]:
    """The words of each line that starts with `hansa`, up to a pipe or a comment."""
    for example in examples(page):
        if example.language == "sh":
            for line in example.code.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words[:1] == ["hansa"]:
                    yield words[: min((words.index(mark) for mark in ("|", ">", "&") if mark in words), default=None)]


def test_every_example_names_a_language_that_a_test_reads_or_shows_plain_text() -> None:
    known = {"python", "toml", "sh", "text", "json", "proto", "c", "yaml", "dockerfile", "ini"}
    unknown = {(str(e.page.relative_to(ROOT)), e.language) for page in PAGES for e in examples(page)}
    assert sorted((page, language) for page, language in unknown if language not in known) == []


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_a_page_knows_no_machine_of_its_author(page: Path) -> None:
    assert re.findall(r"/work/|/root/|/opt/|\.\./shared", page.read_text(encoding="utf-8")) == []
