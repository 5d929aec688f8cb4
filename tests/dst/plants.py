"""Known bugs, put into the real code, which the simulation must find."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dst.schedule import ASYNCHRONOUS
from hansa.aggregators import mean
from hansa.network.client.agent import Agent
from hansa.network.combiner.children import Children
from hansa.network.combiner.node import CombinerNode
from hansa.network.combiner.offers import Offers
from hansa.network.combiner.phase import Phase
from hansa.network.controller import commit as commit_module
from hansa.network.controller import session as session_module
from hansa.network.controller import tree as tree_module
from hansa.network.controller.retention import Removed, Retention
from hansa.network.controller.session import SessionRunner
from hansa.rounds.intake import Admit, Intake
from hansa.rounds.round import Round
from hansa.run import Run
from hansa.store.retention import Best, Direction

__all__ = ["PLANTS", "Plant"]

Bug = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug."""

    about: str
    patches: tuple[tuple[Any, str, Bug], ...]
    """(owner, name, bug): `bug(original, *arguments)` is called in place of what has that name."""
    within: int = 200
    """Seeds within which it must be found."""
    first: int = 0
    """Of these seeds."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The product with this bug."""
        originals = [(owner, name, owner.__dict__[name]) for owner, name, _ in self.patches]
        for (owner, name, original), (_, _, bug) in zip(originals, self.patches, strict=True):
            setattr(owner, name, _around(original, bug))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)


def _around(original: Any, bug: Bug) -> Any:
    def patched(*arguments: Any, **options: Any) -> Any:
        return bug(original, *arguments, **options)

    return patched


def _nothing(*_: Any, **__: Any) -> None:
    """Do not."""


# ── what the bugs do ─────────────────────────────────────────────────────────────────────────────────────────────────


def _admit_again(original: Any, self: Intake, client: str, num_examples: int, digest: str) -> Any:
    """A repetition of what was accepted is taken once more."""
    if self._accepted.get(client) == digest:
        self._receiving[client] = digest
        return Admit(client, digest)
    return original(self, client, num_examples, digest)


def _check_new(original: Any, partial: Any, clients: Any) -> None:
    """A sum takes everybody, however often."""


async def _verdict_before_fold(original: Any, self: Offers, taking: Any, fold: Any) -> bool:
    """An update is settled as accepted, and its numbers are never added."""
    if fold == taking.phase.accumulate:
        return True
    return bool(await original(self, taking, fold))


def _forget_when_accepted(original: Any, self: Agent, verdict: Any) -> None:
    """The client drops its update as soon as a server says that it has taken it."""
    if verdict.accepted:
        self._outbox.forget(verdict.key)
    original(self, verdict)


def _forget_when_late(original: Any, self: Agent, verdict: Any) -> None:
    """The client drops its update for a refusal that is about the round alone."""
    original(self, verdict)
    if not verdict.accepted:
        self._outbox.forget(verdict.key)


def _close_before_commit(
    original: Any, self: SessionRunner, state: Any, number: int, opened: float, trained: Any
) -> Any:
    """Clients are told that the round is committed before it is."""
    if self._phase is not None:
        self._around.hub.receive_from_parent(
            session_module.Closed(self._phase.plan.key, tuple(trained.outcome.contributors), "")
        )
    return original(self, state, number, opened, trained)


def _close_before_end(original: Any, self: SessionRunner, state: Any, cause: str) -> Any:
    """Clients are told that a session has ended before that is stored."""
    if self._phase is not None:
        self._close(self._phase, (), cause)
    return original(self, state, cause)


def _count_rejected(original: Any, session: Any, outcomes: Any, previous: str) -> Any:
    """What was refused moves the denominator."""
    made = original(session, outcomes, previous)
    return replace(made, round=replace(made.round, weight=made.round.weight + made.round.rejected))


def _report_adrift(original: Any, self: Any, plan: Any, partial: Any) -> Any:
    """The denominator is not the weight of what was summed."""
    return original(self, plan, replace(partial, weight=partial.weight + 1))


def _merge_twice(original: Any, self: Phase, offer: Any, data: Any) -> None:
    """A combiner's sum is added again when it comes again."""
    original(self, offer, bytes(data))
    if self._handed_up or len(self.combiners) > 1:
        partial = self.partial
        if partial is not None:
            right = mean.WeightedMean.merge
            kept = dict(partial.contributions)
            partial.contributions.clear()
            decoded = commit_module.codec.decode_partial(bytes(data), offer.contributions, offer.weight)
            self.partial = right(self.aggregator, self._plan, partial, decoded)
            self.partial.contributions.update(kept)


def _skip_a_round(original: Any, self: SessionRunner) -> Any:
    """A controller that comes back goes on one round too late."""
    if self.session.round:
        self.row.session = replace(self.session, round=self.session.round + 1)
    return original(self)


async def _new_optimizer(original: Any, session: Any, run: Any, store: Any, objects: Any) -> Any:
    """A controller that comes back starts the optimizer anew."""
    state = await original(session, run, store, objects)
    return replace(run.start(state.params), round=state.round)


def _no_lease(original: Any, self: Round) -> Iterator[Any]:
    """A silent client keeps its place for ever."""
    self._soonest = self._over_at
    yield from ()


def _never_paid(original: Any, self: Phase, combiner: str) -> None:
    """A seal waits for a combiner that has gone."""


def _keep_sums(original: Any, self: CombinerNode, why: str) -> None:
    """A combiner that has lost its parent keeps what it held, and the parent is told nothing."""


def _no_memory(original: Any, *arguments: Any) -> Any:
    """Who was counted before is forgotten when the controller comes back."""

    async def nobody() -> dict[str, Any]:
        return {}

    return nobody()


def _one_way(original: Any, self: Children, child: Any, names: Any) -> Any:
    """A node that left one server is forgotten, wherever else it has come."""
    for name in list(names):
        ways = self._ways.get(name, {})
        if next(reversed(ways), "") == child.name:
            for other in list(ways)[:-1]:
                del ways[other]
    return original(self, child, names)


async def _impatient(original: Any, ask: Any, **_: Any) -> Any:
    """The root asks a store once."""
    return await ask()


async def _remove_all(original: Any, self: Retention, claimed: frozenset[str]) -> Removed:
    """What is claimed is removed, whoever needs it."""
    for digest in claimed:
        await self._remove_one(digest)
    return Removed(len(claimed))


async def _other_best(original: Any, self: Retention, session: Any, best: Best) -> Any:
    """The worst round is kept in the place of the best one."""
    other = Direction.MIN if best.direction is Direction.MAX else Direction.MAX
    return await original(self, session, replace(best, direction=other))


def _as_new(original: Any, self: Run, plan: Any, update: Any, _staleness: int, base: Any, current: Any) -> Any:
    """Whatever the age of its model, an update counts in full."""
    return original(self, plan, update, 0, base, current)


PLANTS: dict[str, Plant] = {
    "fold-twice": Plant(
        "an update that is offered again is folded again",
        ((Intake, "offer", _admit_again), (mean, "check_new", _check_new)),
        within=600,
    ),
    "settle-unfolded": Plant("an update is accepted and not folded", ((Offers, "_fold", _verdict_before_fold),)),
    "forget-at-verdict": Plant("a client forgets at the verdict", ((Agent, "_judged", _forget_when_accepted),)),
    "forget-when-late": Plant("a client forgets what came late", ((Agent, "_judged", _forget_when_late),)),
    "tell-before-commit": Plant(
        "clients hear of a commit before it", ((SessionRunner, "_commit", _close_before_commit),)
    ),
    "tell-before-end": Plant(
        "clients hear of a session's end before it is stored",
        ((SessionRunner, "_end", _close_before_end),),
    ),
    "count-rejected": Plant(
        "a refused update counts in the denominator", ((session_module, "round_commit", _count_rejected),)
    ),
    "weight-adrift": Plant(
        "the denominator is not the weight of the sum", ((mean.WeightedMean, "report", _report_adrift),)
    ),
    "merge-twice": Plant("the sum of a combiner is added twice", ((Phase, "merge", _merge_twice),)),
    "resume-too-late": Plant("a controller resumes one round too late", ((SessionRunner, "_rounds", _skip_a_round),)),
    "new-optimizer": Plant(
        "a controller resumes with a new optimizer", ((session_module, "state_of", _new_optimizer),)
    ),
    "lease-for-ever": Plant("a silent client keeps its place", ((Round, "_end_leases", _no_lease),), within=1000),
    "never-paid": Plant("a seal waits for a lost combiner", ((Phase, "paid", _never_paid),)),
    "keep-sums": Plant("a combiner without a parent keeps its sums", ((CombinerNode, "detached", _keep_sums),)),
    "one-way": Plant("a client is known by one way alone", ((Children, "_without", _one_way),), within=3000),
    "impatient-root": Plant("the root asks a store that is away once", ((tree_module, "patiently", _impatient),)),
    "no-memory": Plant("who was counted is forgotten", ((session_module, "last_counted", _no_memory),)),
    "remove-all": Plant("objects are removed that a row needs", ((Retention, "_remove", _remove_all),)),
    "stale-as-new": Plant(
        "an update counts as if its model were the newest", ((Run, "counted", _as_new),), first=ASYNCHRONOUS
    ),
    "other-best": Plant("the worst round is kept, not the best", ((Retention, "_best", _other_best),)),
}
"""By name."""
