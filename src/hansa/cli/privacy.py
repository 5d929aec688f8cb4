"""`hansa privacy`: what the rounds of a run will have spent of a privacy budget."""

from typing import TYPE_CHECKING, Annotated

import typer

from hansa.cli.options import Json, SpecOptions, expand
from hansa.cli.output import print_table, say

if TYPE_CHECKING:
    from hansa.privacy.accounting import Spent

__all__ = ["privacy", "sentence"]


@expand
def privacy(
    spec: SpecOptions,
    *,
    delta: Annotated[
        float, typer.Option("--delta", help="δ: well below 1 over the number of clients, above 0 and below 1.")
    ] = 1e-5,
    as_json: Json = False,
) -> None:
    """Compute what a run with these options spends: (ε, δ) after 1, 2, 5, 10 … rounds. Nothing is run.

    For example: hansa privacy --rounds 100 --transform clip:norm=1 --transform gaussian-noise:multiplier=8
    """
    from hansa.privacy.accounting import spent
    from hansa.run import resolve

    run = resolve(spec.spec())
    found = [spent(run.pipeline.noises, rounds, delta) for rounds in _milestones(spec.rounds)]
    columns = {
        "rounds": lambda s: f"{s.rounds:,}",
        "epsilon": lambda s: f"{s.epsilon:.4g}",
        "delta": lambda s: f"{s.delta:g}",
    }
    print_table(found, columns, as_json=as_json, nothing="")
    say(f"\nProtected is {found[-1].protects}.", as_json=as_json)


def sentence(last: "Spent") -> str:
    """For example "privacy: ε = 3.2 at δ = 1e-05 for a client's update, …"."""
    return f"privacy: ε = {last.epsilon:.4g} at δ = {last.delta:g} for {last.protects}"


def _milestones(rounds: int) -> list[int]:
    """1, 2, 5, 10 … below, and `rounds`."""
    steps = (digit * 10**power for power in range(len(str(rounds))) for digit in (1, 2, 5))
    return [*(step for step in steps if step < rounds), rounds]
