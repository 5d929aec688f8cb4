"""`hansa parity`: the same run in many ways, which must give the same model, to the bit."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hansa.cli.options import AppPath, Json, SpecOptions, app_name, expand
from hansa.cli.output import counted, in_terminal, print_json, say, span
from hansa.cli.running import log_to

if TYPE_CHECKING:
    from hansa.simulation import Variant, Way

__all__ = ["parity"]


@expand
def parity(
    app: AppPath,
    spec: SpecOptions,
    *,
    clients: Annotated[int, typer.Option("--clients", "-n", min=1, help="Clients, client-0 … client-(n−1).")] = 4,
    network: Annotated[
        bool, typer.Option("--network/--no-network", help="Also run it on networks, over TCP; that takes longer.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Run an app in many ways, in simulations and on networks, and compare the models: one hash, or what differs first.

    Exit code 1 when a model differs; the first tensor that differs is named. With --json every way is one JSON object
    on a line, and the last line sums up.
    """
    from hansa.simulation import check_parity, differences

    log_to(sys.stderr, level="error")

    given = spec.spec(app_name(app))
    if not as_json:
        size = f"{counted(clients, 'client')}, {counted(given.rounds, 'round')}"
        say(f"{given.name}: {given.algorithm}, {size}, seed {given.seed}\n")
    variants: list[Variant] = []
    for way in _ways(network=network):
        began = time.perf_counter()
        variants += check_parity(app, given, clients, [way])
        differs = differences([variants[0], variants[-1]]).get(way.name)
        _show(variants[-1], differs, time.perf_counter() - began, as_json=as_json)
    found = differences(variants)
    same = not found
    if as_json:
        print_json({"same": same, "model_hash": variants[0].model_hash, "ways": len(variants), "differences": found})
    elif same:
        say(f"\nOne model in {len(variants)} ways: {variants[0].model_hash}")
    else:
        _explain(found, variants[0].name)
    if not same:
        raise typer.Exit(1)


def _ways(*, network: bool) -> "list[Way]":
    """Those of a simulation, then those of a network."""
    from hansa.errors import MissingExtraError
    from hansa.simulation import Way
    from hansa.simulation.parity import WAYS

    if not network:
        return list(WAYS)
    try:
        import hansa.store.sqlite  # noqa: F401  # before the first way: the others take a while
    except ModuleNotFoundError as error:
        raise MissingExtraError("a network, which --no-network leaves out,", "server") from error
    from hansa.network import ways

    return [
        *WAYS,
        Way("network: one combiner", ways.one_combiner),
        Way("network: five combiners in three tiers", ways.three_tiers),
        Way("network: arrival order shuffled", ways.shuffled),
        Way("network: connections reset, clients retry", ways.retrying),
    ]


def _show(variant: "Variant", differs: str | None, seconds: float, *, as_json: bool) -> None:
    if as_json:
        shown: dict[str, Any] = {"way": variant.name, "model_hash": variant.model_hash, "same": differs is None}
        print_json({**shown, "first_difference": differs, "seconds": seconds})
        return
    mark, colour = ("✔", "green") if differs is None else ("✘", "red")
    mark = typer.style(mark, fg=colour) if in_terminal() else mark
    tail = "" if differs is None else f"  first difference in {differs}"
    say(f"  {mark} {variant.name:42} {variant.model_hash[:16]}  {span(seconds):>8}{tail}")


def _explain(found: dict[str, str], first: str) -> None:
    way, tensor = next(iter(found.items()))
    say(
        f"\nThe models differ: {len(found)} ways did not give the model of '{first}'; of '{way}' the tensor {tensor!r} "
        "is the first that differs.\nUsual causes: random numbers that are not drawn from task.rng, a framework with "
        "more than one thread, and state that is kept between calls."
    )
