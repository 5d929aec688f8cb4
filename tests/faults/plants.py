"""Known bugs, to be planted in the real code, each with the faults that bring it out."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from faults.points import AGENT, CLIENT, COMBINER, CONTROLLER, HUB, OBJECTS, OUTBOX, SESSION, STORE, Fault, located

__all__ = ["PLANT", "PLANTS", "Plant"]

PLANT: Final = "HANSA_LAB_PLANT"
"""Environment variable of a node: the bug that it has."""

INTAKE = "hansa.rounds.intake:Intake"
MEAN = "hansa.aggregators.mean"
COMMIT = "hansa.network.controller.commit"

Around = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Plant:
    """One bug."""

    about: str
    kinds: tuple[str, ...]
    """Processes that get it."""
    patch: Callable[[], None]
    faults: tuple[tuple[str, Fault], ...] = ()
    """(process, fault) to arm before the session."""
    stopped: str = ""
    """A client that stands still for three seconds after its training, so that the round stays open meanwhile."""
    sessions: int = 1

    def plant(self, kind: str) -> None:
        """Put it into this process, if it is of the kind."""
        if kind in self.kinds:
            self.patch()


def around(place: str, bug: Around) -> Callable[[], None]:
    """A patch: `bug(original, *arguments)` in place of a function."""

    def patch() -> None:
        owner, attribute = located(place)
        original = getattr(owner, attribute)
        setattr(owner, attribute, lambda *arguments, **keywords: bug(original, *arguments, **keywords))

    return patch


def all_of(*patches: Callable[[], None]) -> Callable[[], None]:
    """Patches that make one bug together."""

    def patch() -> None:
        for each in patches:
            each()

    return patch


def nothing(*_: Any, **__: Any) -> None:
    """Do not."""


# ── aggregation servers ──────────────────────────────────────────────────────────────────────────────────────────────


def admit_a_repeat(original: Any, self: Any, client: str, num_examples: int, digest: str) -> Any:
    self._accepted.pop(client, None)
    return original(self, client, num_examples, digest)


def flip_a_bit(original: Any, self: Any, offset: int, data: Any) -> None:
    if offset == 0 and self.received == 0 and len(data) > 5000:
        data = bytearray(data)
        data[4000] ^= 1
    original(self, offset, data)


# ── clients ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def forget_at_the_verdict(original: Any, self: Any, verdict: Any) -> None:
    original(self, verdict)
    if verdict.accepted:
        self._outbox.forget(verdict.key)


def remember_nothing(original: Any, self: Any) -> None:
    original(self)
    self._offers.clear()


def offer_what_there_is(original: Any, self: Any, key: Any) -> Any:
    mine = [offer for known, offer in self._offers.items() if known.run == key.run]
    return original(self, key) or (replace(mine[-1], key=key) if mine else None)


def offer_what_another_run_learned(original: Any, self: Any, key: Any) -> Any:
    found = [o for known, o in self._offers.items() if (known.round, known.kind) == (key.round, key.kind)]
    return replace(found[0], key=key) if found else original(self, key)


async def log_the_token(original: Any, self: Any) -> None:
    sys.stderr.write(f"joining with {self._token}\n")
    await original(self)


async def train_from_the_first_model(original: Any, self: Any, opened: Any) -> None:
    first = self.__dict__.setdefault("_first", {}).setdefault(opened.key.run, opened.model)
    await original(self, replace(opened, model=first))


# ── the controller ───────────────────────────────────────────────────────────────────────────────────────────────────


async def skip_a_round(original: Any, self: Any) -> None:
    if self.session.round:
        self.session = replace(self.session, round=self.session.round + 1)
    await original(self)


async def forget_the_optimizer(original: Any, session: Any, run: Any, *stores: Any) -> Any:
    state = await original(session, run, *stores)
    return replace(run.start(state.params), round=state.round)


async def start_from_the_seed(original: Any, session: Any, run: Any, *stores: Any) -> Any:
    seed = await original(replace(session, round=0, model=session.seed_model), run, *stores)
    return replace(seed, round=session.round)


async def link_from_nothing(_: Any, *__: Any) -> str:
    return ""


async def commit_in_two(original: Any, self: Any, commit: Any) -> None:
    await self.put(commit.session)
    died = Path("died-between")  # in the laboratory's folder
    if commit.round.number == 2 and not died.exists():  # noqa: ASYNC240 - it is about to die
        died.touch()  # noqa: ASYNC240
        os.kill(os.getpid(), signal.SIGKILL)
    await original(self, commit)


async def write_later(original: Any, self: Any, parts: Any) -> str:
    kept = [bytes(part) for part in parts]
    task = asyncio.get_running_loop().create_task(_later(original, self, kept))
    self.__dict__.setdefault("_writing", set()).add(task)
    return blake3(b"".join(kept)).hexdigest()


async def _later(original: Any, self: Any, kept: Sequence[bytes]) -> None:
    await asyncio.sleep(0.3)
    await original(self, kept)


async def end_without_a_cause(original: Any, self: Any, state: Any, _cause: str) -> Any:
    return await original(self, state, "")


def weigh_more(original: Any, self: Any, trained: Any) -> Any:
    trained.partials[0].weight += 1
    return original(self, trained)


def leave_one_out(original: Any, session: Any, number: int, outcomes: Any) -> Any:
    return list(original(session, number, outcomes))[1:]


def keep_no_state(original: Any, session: Any, outcomes: Any, *signed: Any) -> Any:
    return original(session, replace(outcomes, state=""), *signed)


def invite_nobody_again(original: Any, self: Any, presence: Any) -> None:
    original(self, replace(presence, joined=()))


def claim_everybody(original: Any, self: Any, key: Any, partial: Any) -> None:
    if partial is not None:
        for name in self._phase._round.invited if self._phase is not None and self._phase._round is not None else ():
            some = next(iter(partial.contributions.values()))
            partial.contributions.setdefault(name, replace(some, client=name))
    original(self, key, partial)


def exit_at_the_end(_: Any, *__: Any) -> None:
    os._exit(3)


def give_up_one_more(original: Any, self: Any, newest: int) -> int:
    first: int = original(self, newest)
    return first + 1


AFTER_TWO = ((CONTROLLER, Fault("store.commit", "after", 2)),)

PLANTS = {
    "sums-a-repeat": Plant(
        "an update that is offered again is folded again",
        (CONTROLLER, COMBINER),
        all_of(
            around(f"{INTAKE}.offer", admit_a_repeat),
            around(f"{MEAN}:check_new", nothing),
            around(f"{MEAN}:WeightedMean._check_partial", nothing),
        ),
        (("combiner-1", Fault("hub.offered", "before", 2, "late")),),
        stopped="client-0",
    ),
    "sums-a-sum-twice": Plant(
        "a combiner's sum is merged as often as it comes",
        (CONTROLLER,),
        around(f"{MEAN}:check_new", nothing),
        ((CONTROLLER, Fault("phase.merge", "before", 3, "again")),),
    ),
    "weighs-more-than-it-sums": Plant(
        "the denominator is moved by an update that is not in the sum",
        (CONTROLLER,),
        around(f"{SESSION}._total", weigh_more),
    ),
    "takes-damaged-bytes": Plant(
        "the digest of what arrives is not compared",
        (COMBINER,),
        all_of(
            around("hansa.wire.chunks:Assembly.write", flip_a_bit),
            lambda: setattr(
                located("hansa.wire.chunks:Assembly")[0].Assembly, "intact", property(lambda s: s.complete)
            ),
        ),
    ),
    "forgets-at-the-verdict": Plant(
        "a client forgets its update when a combiner has it, not when it is committed",
        (CLIENT,),
        around(f"{AGENT}._judged", forget_at_the_verdict),
        (("combiner-0", Fault("node.deliver", "before", 2)),),
    ),
    "outbox-in-memory": Plant(
        "what was learned is gone with the process",
        (CLIENT,),
        around(f"{OUTBOX}.open", remember_nothing),
        (("client-3", Fault("link.upload", "before", 2)),),
    ),
    "offers-an-old-round": Plant(
        "a client offers what it learned in an earlier round",
        (CLIENT,),
        all_of(around(f"{OUTBOX}.get", offer_what_there_is), around(f"{OUTBOX}.forget", nothing)),
    ),
    "crosses-runs": Plant(
        "a client offers what it learned for another run",
        (CLIENT,),
        all_of(around(f"{OUTBOX}.get", offer_what_another_run_learned), around(f"{OUTBOX}.forget", nothing)),
        sessions=2,
    ),
    "trains-from-an-old-model": Plant(
        "a client does not take the model of the round",
        (CLIENT,),
        around(f"{AGENT}._perform", train_from_the_first_model),
    ),
    "logs-its-token": Plant("a token is logged", (CLIENT,), around("hansa.network.link:Link.run", log_the_token)),
    "exits-when-it-is-done": Plant(
        "a node ends at the end of a round", (COMBINER,), around(f"{HUB}._close", exit_at_the_end)
    ),
    "skips-a-round": Plant(
        "a session goes on with the round after the next",
        (CONTROLLER,),
        around(f"{SESSION}._rounds", skip_a_round),
        AFTER_TWO,
    ),
    "forgets-the-optimizer": Plant(
        "a session goes on with a new optimizer",
        (CONTROLLER,),
        around("hansa.network.controller.session:state_of", forget_the_optimizer),
        AFTER_TWO,
    ),
    "starts-from-the-seed": Plant(
        "a session goes on from its first model",
        (CONTROLLER,),
        around("hansa.network.controller.session:state_of", start_from_the_seed),
        AFTER_TWO,
    ),
    "links-from-nothing": Plant(
        "a session goes on with a new chain",
        (CONTROLLER,),
        around("hansa.network.controller.session:last_link", link_from_nothing),
        AFTER_TWO,
    ),
    "commits-in-two": Plant(
        "the session's row is written before the round's",
        (CONTROLLER,),
        around(f"{STORE}.commit_round", commit_in_two),
    ),
    "model-after-the-commit": Plant(
        "a round is committed before its model is on the disk",
        (CONTROLLER,),
        around(f"{OBJECTS}.put", write_later),
        ((CONTROLLER, Fault("store.commit", "after", 5)),),
    ),
    "ends-without-a-cause": Plant(
        "a session does not say why it ended", (CONTROLLER,), around(f"{SESSION}._end", end_without_a_cause)
    ),
    "leaves-one-out": Plant(
        "a contribution is not recorded", (CONTROLLER,), around(f"{COMMIT}:_contributions", leave_one_out)
    ),
    "keeps-no-state": Plant(
        "the optimizer's state is not recorded",
        (CONTROLLER,),
        around("hansa.network.controller.session:round_commit", keep_no_state),
    ),
    "invites-nobody-again": Plant(
        "a client that comes back is not invited again",
        (CONTROLLER,),
        around(f"{SESSION}.presence", invite_nobody_again),
        (("client-2", Fault("agent.perform", "before", 2)),),
    ),
    "counts-the-absent": Plant(
        "whoever is invited is recorded as counted",
        (CONTROLLER,),
        around(f"{SESSION}.delivered", claim_everybody),
        (("combiner-0", Fault("node.deliver", "before", 2)),),
    ),
    "gives-up-too-much": Plant(
        "a policy gives up a round that it keeps",
        (CONTROLLER,),
        around("hansa.store.retention:Policy.first_of_last", give_up_one_more),
    ),
}
"""By name."""
