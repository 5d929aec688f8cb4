"""A client of the simulation: the real agent, watched, and the real worker's half of a task in virtual time."""

import asyncio
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hansa
from dst.schedule import ENDED, HARMLESS, is_asynchronous
from hansa.arrays import Arrays
from hansa.errors import UserCodeError
from hansa.messages import ClientInfo, Kind, Update
from hansa.network.client.agent import Agent
from hansa.network.client.memory import Memory
from hansa.network.client.outbox import leave, update_file
from hansa.network.client.worker import Worker
from hansa.testing.linear import LinearTrainer, make_examples
from hansa.wire import codec, packing
from hansa.wire.frames import Closed, Evaluated, FromNode, Offer, OpenRound, Progress, ToNode, Verdict

if TYPE_CHECKING:
    from dst.world import World

__all__ = ["Bench", "WatchedAgent", "app_of"]

FEATURES = 40


@cache
def app_of(clients: int) -> hansa.App:
    """What clients run: a step of gradient descent on examples of their own."""
    data = make_examples(np.random.default_rng(7), tuple(10 + i for i in range(clients)), FEATURES)
    app = hansa.App(trainer=LinearTrainer(FEATURES, learning_rate=0.05, dtype=np.float32))
    app.data(lambda client: data[client.name])
    return app


class WatchedAgent(Agent):
    """Writes down what it is told, and what it keeps and forgets."""

    def __init__(self, world: "World", client: ClientInfo, **options: Any) -> None:
        super().__init__(client, **options)
        self._world = world
        outbox, name, history = self._outbox, client.name, world.history
        keep, forget = outbox.keep, outbox.forget

        async def kept(offer: Offer) -> None:
            await keep(offer)
            if outbox.get(offer.key) is not offer:  # it was forgotten meanwhile
                return
            before = history.held.get((name, offer.key))
            if before is not None:
                history.violated(world.loop.now, "I1", f"{name} has learned {offer.key} again, which it had kept")
            history.note(world.loop.now, name, "kept", offer.key, offer.blob.digest)
            history.held[name, offer.key] = offer.blob.digest

        def forgotten(key: Any) -> None:
            if outbox.get(key) is not None:
                self._check_forgetting(key)
            forget(key)

        outbox.keep, outbox.forget = kept, forgotten  # type: ignore[method-assign]

    def receive(self, frame: ToNode) -> None:
        world = self._world
        if isinstance(frame, Verdict | Closed):
            name, now = self.client.name, world.loop.now
            world.history.told(now, name, frame)
            if (
                isinstance(frame, Closed) and frame.key.run in world.stopped
            ):  # it may be late: the session goes on by now
                world.history.refused[name, frame.key, world.history.held.get((name, frame.key), "")] = frame.cause
            if isinstance(frame, Closed) and name in frame.committed:
                outcome, digest = world.fate(frame.key, name)
                mine = world.history.held.get((name, frame.key), digest)
                if (outcome, digest) != ("accepted", mine):
                    said = (
                        f"{name} was told that {frame.key} is committed with its update, but it is {outcome or 'not'}"
                    )
                    world.history.violated(now, "I1", said)
        super().receive(frame)

    def _check_forgetting(self, key: Any) -> None:
        """An update goes only when it is counted, or it is said why it is not."""
        world, name = self._world, self.client.name
        history, now = world.history, world.loop.now
        digest = history.held.pop((name, key), "")
        history.note(now, name, "forgotten", key, digest)
        if key.kind is not Kind.TRAIN:
            return
        session = world.session(key.run)
        is_open = session.round < key.round
        if is_asynchronous(session.spec) and not set(history.faults) - HARMLESS:
            is_open = session.round < session.spec.rounds and not world.fate(key, name)[0]
        if is_open and session.state not in ENDED and (name, key, digest) not in history.refused:
            history.violated(now, "I1", f"{name} forgets its update of {key}, of which nobody has said anything")


class Bench:
    """In the place of a worker process: the real `Worker`, in virtual time and in the agent's own process."""

    def __init__(self, world: "World", client: ClientInfo, objects: Path) -> None:
        self._world = world
        self._client = client
        memory = Memory(objects.with_name("memory"))
        self._worker = Worker(None, Path("app.py"), client, objects, memory, out=objects)  # type: ignore[arg-type]
        self._worker._app = app_of(world.plan.clients)
        self._lock = asyncio.Lock()
        self._rng = random.Random(f"bench {world.plan.seed} {client.name} {world.loop.now}")  # noqa: S311 - a simulation

    async def start(self) -> None:
        """The app is loaded."""

    async def work(self, opened: OpenRound, on_frame: Callable[[FromNode], None]) -> Offer | Evaluated:
        """Do one task."""
        name = self._client.name
        async with self._lock:
            wrong = self._world.wrongdoers.get((name, opened.key.round), "") if opened.key.kind is Kind.TRAIN else ""
            lease = opened.spec.rules.lease
            if wrong in ("raise", "hang"):
                self._world.history.faults[wrong] += 1
                await asyncio.sleep(lease if wrong == "hang" else 0.2)
                raise UserCodeError(f"{name} was to {wrong}")
            left = self._rng.choice([0.05, 0.5, 2.0, self._rng.uniform(1.0, 15.0)])
            while left > 0:
                step = min(left, lease / 3)
                await asyncio.sleep(step)
                left -= step
                on_frame(Progress(opened.key, name, opened.key.kind.value, left, 0))
            answer = self._worker._answer(opened, name)
            if wrong and isinstance(answer, Offer):
                self._world.history.faults[wrong] += 1
                answer = self._spoilt(answer, opened, wrong)
            return answer  # type: ignore[return-value]

    async def aclose(self) -> None:
        """Nothing is left."""

    def _spoilt(self, offer: Offer, opened: OpenRound, how: str) -> Offer:
        """An update that must be refused."""
        part = offer.contributions[0]
        if how == "heavy":
            heavy = type(part)(part.client, opened.spec.max_weight + 1, part.metrics, part.digest)
            return Offer(offer.key, offer.sender, offer.blob, (heavy,))
        data = offer.blob.inline or update_file(self._worker._objects, offer.key).read_bytes()
        arrays = {name: np.full_like(array, np.nan) for name, array in codec.decode(memoryview(data)).items()}
        update = Update(Arrays(arrays), part.num_examples)
        left = leave(packing.pack(update), self._worker._objects, offer.key)
        return Offer(offer.key, offer.sender, left, offer.contributions)
