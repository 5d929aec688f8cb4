"""Runs a plan: what production code takes from the machine comes from the plan's seed meanwhile."""

import asyncio
import contextlib
import gc
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog

from dst.loop import VirtualLoop, current
from dst.schedule import Plan
from dst.world import World
from hansa.network import link as link_module
from hansa.network.client import outbox as outbox_module
from hansa.network.controller import broadcasts as broadcasts_module
from hansa.wire import chunks, tokens
from hansa.wire.tokens import Identity

__all__ = ["simulate"]

_EPOCH = 1.7e9
_CHUNK = 192
"""Bytes of a chunk: an update has three of them."""

_verify = tokens.verify


@cache
def _verified(public_key: str, token: str, audience: str = tokens.AUDIENCE) -> Identity:
    return _verify(public_key, token, audience)


def simulate(plan: Plan, scratch: Path, *, verbose: bool = False) -> World:
    """Run a plan to its end; what happened is in `history` and in `database`. scratch: a folder, best in memory."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    loop = VirtualLoop(random.Random(f"threads {plan.seed}"), thread_delay=plan.thread_delay, step=plan.step)  # noqa: S311 - a simulation
    world = World(plan, loop, folder, verbose=verbose)
    with _patched(world), contextlib.ExitStack() as undo:
        if gc.isenabled():  # it ends generators: what happens would depend on when it runs
            gc.disable()
            undo.callback(gc.enable)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        asyncio.set_event_loop(loop)
        undo.callback(asyncio.set_event_loop, None)
        try:
            loop.run_until_complete(world.run())
        except AssertionError as error:
            world.history.violated(loop.now, "I6", f"{type(error).__name__}: {error}")
        world.stored = {path.name for path in (folder / "objects").rglob("*") if path.is_file()}
        for error in (*loop.errors, *world.network.errors):
            world.history.violated(loop.now, "errors", error)
    return world


@contextlib.contextmanager
def _patched(world: World) -> Iterator[None]:
    """What production code takes from the machine comes from the seed: wall clock, ids, jitter; and small chunks."""
    plan, loop = world.plan, world.loop
    ids = random.Random(f"ids {plan.seed}")  # noqa: S311 - a simulation
    jitter = random.Random(f"jitter {plan.seed}")  # noqa: S311 - a simulation
    replaced: list[tuple[Any, str, Any]] = [
        (time, "time", lambda: _EPOCH + loop.now),
        (time, "monotonic", lambda: loop.now),
        (uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128))),
        (tempfile, "tempdir", str(world.folder)),
        (link_module, "random", SimpleNamespace(Random=lambda: random.Random(jitter.random()))),  # noqa: S311
        (tokens, "verify", _verified),
        (chunks, "INLINE_LIMIT", plan.inline),
        (chunks, "CHUNK", _CHUNK),
        (broadcasts_module, "INLINE_LIMIT", plan.inline),
        (outbox_module, "INLINE_LIMIT", plan.inline),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    structlog.configure(
        processors=[lambda _logger, level, event: _logged(world, level, event)],
        wrapper_class=structlog.make_filtering_bound_logger("info" if world.verbose else "error"),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.reset_defaults()
        for owner, name, value in before:
            setattr(owner, name, value)


_OF_HANSA_ITSELF = (
    "hansa itself",
    "a job of",
    "could not be stored",
    "nobody awaits",
    "could not go on",
    "left out",
)


def _logged(world: World, level: str, event: dict[str, Any]) -> str:
    said = str(event.get("event"))
    error = event.get("exc_info")
    about = f"{said}: {type(error).__name__}: {error}" if isinstance(error, BaseException) else f"{said} {event}"
    process = current()
    world.history.note(world.loop.now, process.name if process else "", "log", said=about)
    expected = world.history.faults["away"] and "could not be stored" in said
    expected = expected or "nothing was written: this process led" in about  # a former leader, which ends then
    if any(words in said for words in _OF_HANSA_ITSELF) and not expected:
        world.history.violated(world.loop.now, "errors", about)
    raise structlog.DropEvent
