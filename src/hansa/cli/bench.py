"""`hansa bench`: recipes with published numbers, and whether they come out here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.experiment import watched
from hansa.cli.options import Json
from hansa.cli.output import print_json, print_table, relative, say

if TYPE_CHECKING:
    from hansa.experiments.recipes import Recipe

__all__ = ["commands"]

commands = typer.Typer(no_args_is_help=True, help="Recipes with published numbers: list them, run them, compare.")


def _complete(incomplete: str) -> list[str]:
    from hansa.experiments.recipes import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", autocompletion=_complete, show_default=False,
        help="A name that `hansa bench list` shows, or a .toml file of your own.",
    ),
]  # fmt: skip


@commands.command("list")
def list_recipes(*, as_json: Json = False) -> None:
    """List the recipes that come with hansa; time is what all of one takes on one idle core, about."""
    from hansa.experiments.recipes import load_recipe, recipe_names

    found = [_summary(load_recipe(name)) for name in recipe_names()]
    columns = {
        name: (lambda recipe, name=name: str(recipe[name]))
        for name in ("name", "rows", "runs", "time", "data", "title")
    }
    print_table(found, columns, as_json=as_json, nothing="There is no recipe.")


@commands.command("show")
def show(name: Name, *, as_json: Json = False) -> None:
    """Show a recipe: its source, its setting, what is expected, and what was last measured."""
    from hansa.experiments.recipes import last_measured, load_recipe
    from hansa.simulation.table import number

    recipe = load_recipe(name)
    known = last_measured(recipe.name)
    rows = [
        {
            "row": row.name,
            "number": target.name,
            "expected": target.expected,
            "tolerance": target.tolerance,
            "measured": known.get(row.name, {}).get(target.name, {}).get("measured", "not measured"),
            "seeds": row.seeds,
        }
        for row in recipe.rows
        for target in row.targets
    ]
    if as_json:
        print_json({**_summary(recipe), "source": recipe.source, "setting": recipe.setting, "targets": rows})
        return
    for line in (recipe.title, f"source   {recipe.source}", f"setting  {recipe.setting}", f"note     {recipe.note}"):
        if not line.endswith("     "):
            say(line)
    say(f"data     {recipe.data or 'none: they are generated'}")
    say(f"time     {recipe.time}")
    say("")
    columns = {column: (lambda row, column=column: number(row[column])) for column in rows[0]}
    print_table(rows, columns, as_json=False, nothing="")
    say("")
    say(f"hansa bench run {name}" + (" --data FOLDER" if recipe.data else ""))


@commands.command("run")
def run(
    name: Name,
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", file_okay=False, show_default=False,
            help="Folder of all data sets, in which the recipe's is; by default HANSA_DATASETS.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", file_okay=False, show_default=False,
            help="Folder for the records, the table and the report; by default bench/RECIPE.",
        ),
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option("--row", show_default=False, help="Only this row; may be repeated.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, show_default=False, help="In place of the recipe's own number.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, show_default=False, help="Processes at once; by default one per core."),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run a recipe, and say for each number whether it came out.

    What is finished stays: the same command goes on where it was stopped or killed. Exit code 1 when a number is
    outside its band, or could not be measured. With --json each number is one JSON object on a line.
    """
    from hansa.experiments import Verdict, load_recipe, run_recipe
    from hansa.experiments.bench import table_of
    from hansa.settings import Settings

    recipe = load_recipe(name)
    place = folder or Path("bench") / recipe.name
    with watched(f"{recipe.title}", as_json=as_json) as told:
        measured = run_recipe(
            recipe,
            folder=place,
            data=data or Settings().datasets,
            seeds=seeds,
            rows=row or (),
            jobs=jobs,
            told=told,
        )
    table = table_of(measured)
    if as_json:
        for line in table:
            print_json(line)
    else:
        from hansa.simulation.table import number

        shown = ("row", "number", "measured", "deviation", "expected", "tolerance", "seeds", "verdict")
        columns = {column: (lambda line, column=column: number(line[column])) for column in shown}
        say("")
        print_table(list(table), columns, as_json=False, nothing="")
        say("")
        say(f"report   {relative((place / 'report.html').resolve())}")
        say(f"table    {relative((place / 'table.csv').resolve())}")
    if any(each.verdict in {Verdict.OUTSIDE, Verdict.FAILED} for each in measured):
        raise typer.Exit(1)


def _summary(recipe: "Recipe") -> dict[str, object]:
    return {
        "name": recipe.name,
        "rows": len(recipe.rows),
        "runs": sum(row.seeds for row in recipe.rows),
        "time": recipe.time,
        "data": recipe.data or "—",
        "title": recipe.title,
    }
