import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.main import get_command
from typer.testing import Result

from hansa import __version__, cli
from hansa.cli import app

HEAVY = {"numpy", "grpc", "pydantic", "httpx", "sqlalchemy", "fastapi", "structlog", "torch", "blake3", "hansa.arrays"}


def test_the_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from hansa.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_ctrl_c_before_there_is_a_command_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    monkeypatch.setattr(cli, "interrupt_on_sigterm", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 130


@pytest.mark.parametrize("noun", [[], ["session"], ["client"], ["model"], ["token"]])
def test_a_noun_without_a_verb_shows_its_verbs(hansa: Callable[..., Result], noun: list[str]) -> None:
    done = hansa(*noun)
    assert done.exit_code == 2
    assert "--help" in done.output


def test_every_command_takes_json() -> None:
    assert [path for path, command in leaves(get_command(app)) if "--json" not in spelled(command)] == []


def test_every_option_says_what_it_is() -> None:
    for path, command in leaves(get_command(app)):
        assert command.help, path
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{path} {parameter.name}"


def test_an_unknown_command_and_an_unknown_option_are_usage_errors(hansa: Callable[..., Result]) -> None:
    assert hansa("federate").exit_code == 2
    assert hansa("version", "--loudly").exit_code == 2


def test_algorithms_complete_by_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hansa.cli"],
        capture_output=True,
        text=True,
        check=False,
        env={
            "_HANSA_COMPLETE": "complete_bash",
            "COMP_WORDS": "hansa simulate app.py --algorithm feda",
            "COMP_CWORD": "4",
            "PATH": "",
        },
    )
    assert {"fedadam", "fedavg", "fedadagrad"} <= set(done.stdout.split())
    assert "fedprox" not in done.stdout


def test_version_is_the_package_version(hansa: Callable[..., Result]) -> None:
    assert __version__ in hansa("version").stdout


def test_every_algorithm_is_listed_with_its_paper(hansa: Callable[..., Result]) -> None:
    shown = hansa("algorithm", "list").stdout
    assert "1602.05629" in next(line for line in shown.splitlines() if line.startswith("fedavg "))
    assert "mu=0.01" in next(line for line in shown.splitlines() if line.startswith("fedprox "))


def leaves(command: object, path: str = "hansa") -> list[tuple[str, object]]:
    children = getattr(command, "commands", {})
    if not children:
        return [(path, command)]
    return [leaf for name, child in children.items() for leaf in leaves(child, f"{path} {name}")]


def spelled(command: object) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}
