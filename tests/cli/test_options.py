from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from hansa.cli import app as command_line
from hansa.cli.joining import JoinOptions
from hansa.cli.options import SpecOptions, app_name, expand, pairs, values
from hansa.errors import ConfigError
from hansa.messages import EvaluationRules, RoundRules, RunSpec, TransformSpec


def test_no_option_is_the_default_run() -> None:
    assert SpecOptions().spec() == RunSpec()


def test_every_option_reaches_its_field_of_the_spec() -> None:
    options = SpecOptions(
        rounds=3, algorithm="fedprox", set_algorithm=["mu=0.5"], set_config=["lr=0.1"], select="count", count=7, seed=9,
        min_clients=5, quorum=4, enough=6, deadline=11.5, lease=2.5, replace_failed=False, evaluate_every=2,
        evaluate_fraction=0.5, max_weight=1024, range_bits=3, aggregator="median", set_aggregator=["uniform=true"],
        only=["north"], label=["region=eu"], transform=["clip:norm=0.5,order=1", "quantize"],
    )  # fmt: skip
    assert options.spec("n", "p") == RunSpec(
        name="n", project="p", algorithm="fedprox", algorithm_options={"mu": 0.5}, rounds=3, seed=9,
        rules=RoundRules("count", 7, None, 5, 4, 6, 11.5, 2.5, False, ("north",), ("region=eu",)),
        evaluation=EvaluationRules(every=2, fraction=0.5), max_weight=1024, range_bits=3, config={"lr": 0.1},
        aggregator="median", aggregator_options={"uniform": True},
        transforms=(TransformSpec("clip", {"norm": 0.5, "order": 1}), TransformSpec("quantize")),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "selection"),
    [
        ({}, "all"),
        ({"count": 3}, "count"),
        ({"fraction": 0.5}, "fraction"),
        ({"select": "cyclic", "count": 3}, "cyclic"),
    ],
)
def test_a_count_or_a_fraction_says_how_to_select(given: dict[str, object], selection: str) -> None:
    assert replace(SpecOptions(), **given).spec().rules.selection == selection


def test_values_are_json_where_they_can_be_and_text_elsewhere() -> None:
    given = ["a=1", "b=0.5", "c=true", "d=null", "e=[1, 2]", "f=text", "g=a=b", "h="]
    assert values(given, "--set") == {
        "a": 1, "b": 0.5, "c": True, "d": None, "e": [1, 2], "f": "text", "g": "a=b", "h": "",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["mu", "=3"])
def test_a_pair_without_a_key_or_an_equals_sign_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=f"--set '{text}' has no value"):
        pairs([text], "--set")


@pytest.mark.parametrize(
    ("path", "name"),
    [("digits/app.py", "digits"), ("digits", "digits"), ("one two/app.py", "one-two"), ("ward.py", "ward")],
)
def test_a_run_is_named_after_its_folder_or_its_file(tmp_path: Path, path: str, name: str) -> None:
    assert app_name(tmp_path / path) == name


def test_a_group_of_options_is_declared_once_for_all_commands() -> None:
    seen: list[object] = []
    app = typer.Typer()

    @app.command()
    @expand
    def first(spec: SpecOptions, *, loud: Annotated[bool, typer.Option(help="x")] = False) -> None:
        """Take a spec."""
        seen.append((spec, loud))

    done = CliRunner().invoke(app, ["--rounds", "4", "--set", "a=1", "--set", "b=2", "--loud"])
    assert done.exit_code == 0, done.output
    assert seen == [(SpecOptions(rounds=4, set_config=["a=1", "b=2"]), True)]


def test_labels_of_a_node_are_those_of_the_environment_and_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSA_LABELS", "region=eu, gpu=yes")
    assert JoinOptions("host:1", label=["region=us"]).labels == {"region": "us", "gpu": "yes"}
    monkeypatch.setenv("HANSA_LABELS", "region")
    with pytest.raises(ConfigError, match="HANSA_LABELS 'region' has no value"):
        _ = JoinOptions("host:1").labels


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate", "app.py", "--clients", "2.5"], "Invalid value for '--clients' / '-n': it must be a whole number"),
        (["simulate", "app.py", "--clients", "0"], "Invalid value for '--clients' / '-n': it must be at least 1"),
        (["privacy", "--delta", "small"], "Invalid value for '--delta': it must be a number"),
        (["simulate", "app.py", "--engine", "gpu"], "Invalid value for '--engine': 'gpu' is not one of 'inline',"),
        (["simulate", "app.py", "--save", "model"], "No such option: --save (Possible options: --output)"),
        (["model", "download", "m", "--to", "model"], "No such option: --to (Possible options: --output)"),
        (["run", "init", "app.py", "--out", "model"], "No such option: --out (Possible options: --output)"),
    ],
)
def test_a_value_that_cannot_be_is_told_in_plain_words(arguments: list[str], said: str) -> None:
    told = CliRunner().invoke(command_line, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert told.exit_code == 2
    assert said in " ".join(told.output.replace("│", " ").split())


def test_a_key_that_is_none_is_refused_before_a_bundle_is_opened(tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").write_bytes(b"")
    for given, named in (
        (["--server-key", "abc"], "--server-key"),
        (["--client-key", "n=ed25519:0"], "--client-key n"),
    ):
        told = CliRunner().invoke(command_line, ["verify", "--bundle", str(tmp_path / "bundle.zip"), *given])
        assert told.exit_code == 1
        assert f"{named}: {given[1].removeprefix('n=')!r} is no public key" in " ".join(told.output.split())
