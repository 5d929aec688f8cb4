"""A whole federation on a virtual clock: real controller, combiners and clients, killed and started again by a plan."""

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import structlog

import hansa
from dst.history import History
from dst.loop import Process, VirtualLoop, current
from dst.net import Network, Tripwire
from dst.schedule import CONTROLLER, DEADLINE, LEASE, STANDBY, Fault, Plan
from dst.store import Database, Disk, MemoryStore, SlowObjects
from hansa.arrays import Arrays
from hansa.errors import ConflictError, HansaError, StorageUnavailableError, UserCodeError
from hansa.messages import ClientInfo, Kind, RoundRules
from hansa.network import link as link_module
from hansa.network.client import worker as worker_module
from hansa.network.client.agent import Agent
from hansa.network.client.memory import Memory
from hansa.network.client.worker import Worker
from hansa.network.combiner.node import CombinerNode
from hansa.network.combiner.service import NodeService
from hansa.network.controller import session as session_module
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import _lead
from hansa.run import resolve
from hansa.store.files import DirectoryObjects
from hansa.store.records import ClientRecord, ContributionRecord, SessionRecord, SessionState
from hansa.store.rows import from_row
from hansa.testing.linear import LinearTrainer, make_examples
from hansa.wire import chunks, codec, service, tokens
from hansa.wire.calls import Assignment, AssignRequest
from hansa.wire.frames import Closed, Evaluated, FromNode, Offer, OpenRound, Progress, Role, ToNode, Verdict
from hansa.wire.tokens import Identity

__all__ = ["PROJECT", "World", "app_of", "simulate"]

PROJECT = "harbour"
ROOT_ADDRESS = "controller:7000"
ENDED = (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)
FEATURES = 40
_EPOCH = 1.7e9
_LEADERS_LEASE = 9.0
"""Seconds in which nobody takes over from a controller that says nothing."""
_CHUNK = 192
"""Bytes of a chunk: an update has three of them."""
_SETTLED = 50.0
"""Seconds after the last session's end in which everybody hears of it: longer than any keepalive."""


@cache
def _key() -> str:
    return tokens.new_key()


@cache
def _token(name: str, role: Role) -> str:
    return tokens.issue(_key(), name, role, PROJECT)[0]


@cache
def _verified(public_key: str, token: str) -> Identity:
    return _verify(public_key, token)


_verify = tokens.verify


@cache
def app_of(clients: int) -> hansa.App:
    """What clients run: a step of gradient descent on examples of their own."""
    data = make_examples(np.random.default_rng(7), tuple(10 + i for i in range(clients)), FEATURES)
    app = hansa.App(trainer=LinearTrainer(FEATURES, learning_rate=0.05, dtype=np.float32))
    app.data(lambda client: data[client.name])
    return app


class World:
    """One simulation."""

    def __init__(self, plan: Plan, loop: VirtualLoop, folder: Path, *, verbose: bool = False) -> None:
        """folder: every node's disk, in memory; verbose: write down every line that is logged."""
        self.plan = plan
        self.loop = loop
        self.folder = folder
        self.history = History()
        self.network = Network(loop, f"network {plan.seed}", plan.profile)
        self.database = Database()
        self.database.on_commit = self._committed
        self.objects = DirectoryObjects(folder / "objects")
        self.leader = CONTROLLER
        """Which of the controllers leads, as far as is known."""
        self.processes: dict[str, Process] = {}
        self.nodes: dict[str, Any] = {}
        """By name: the `Controller`, `CombinerNode` or `Agent` that lives now."""
        self.mains: dict[str, asyncio.Task[Any]] = {}
        self.steps: list[Fault] = []
        """Faults at steps of the store that have not struck yet."""
        self.sessions: list[str] = []
        self.away = 0.0
        """Until when the store answers nothing but that it is away."""
        self.stopped: dict[str, float] = {}
        """Session that an operator has stopped → when it is started again."""
        self.wrongdoers = {
            (fault.target, fault.number): fault.kind
            for fault in plan.faults
            if fault.kind in ("raise", "hang", "nan", "heavy")
        }
        self.gone: set[str] = set()
        """Clients that never come back."""
        self.closing = False
        self.verbose = verbose
        self.quiet = plan.heals
        """When whatever was killed is back."""
        self._rng = random.Random(f"world {plan.seed}")  # noqa: S311 - a simulation
        self._starts: dict[str, int] = {}
        self._read: dict[str, tuple[Any, SessionRecord]] = {}
        self.stored: set[str] = set()
        """Objects on the disk at the end."""

    # ── the course of a simulation ───────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """From an empty folder to the end of every session, and a while longer."""
        plan = self.plan
        self.boot(CONTROLLER)
        while CONTROLLER not in self.nodes:
            await asyncio.sleep(0.01)
        if plan.standby:
            self.boot(STANDBY)
        await self._as_operator(self._create_sessions)
        for name in plan.combiners:
            self.loop.at(self.loop.now + self._rng.uniform(0, 0.3), self.boot, name)
        for i in range(plan.clients):
            self.loop.at(self.loop.now + self._rng.uniform(0, 1.0), self.boot, f"client-{i}")
        for fault in plan.faults:
            self.loop.at(max(fault.at, self.loop.now), self._strike, fault)
        ended = await self._until_all_ended()
        await asyncio.sleep(_SETTLED)
        while self.loop.now < self.quiet + _SETTLED:
            await asyncio.sleep(1.0)
        if ended:
            self._check_nothing_is_open()
        await self._close()

    async def _create_sessions(self, controller: Controller) -> None:
        for spec in self.plan.specs:
            model = resolve(spec).initial_model(app_of(self.plan.clients))
            seed = await controller.add_model(PROJECT, b"".join(codec.encode(model)))
            self.sessions.append((await controller.create_session(PROJECT, spec, seed_model=seed.id)).id)

    async def _until_all_ended(self) -> bool:
        """Start what is to be started, as an operator would, until every session has ended; False when one does not."""
        rounds = max(spec.rounds for spec in self.plan.specs)
        wrong = Counter(number for _, number in self.wrongdoers)
        most = max(wrong.values(), default=0)
        most += len({fault.target for fault in self.plan.faults if fault.kind == "gone"})
        short = any(_is_short(spec.rules, self.plan.clients, most) for spec in self.plan.specs)
        slack = 200.0 + 60.0 * rounds + len(self.wrongdoers) * 2 * LEASE + (DEADLINE * rounds if short else 0.0)
        while True:
            patience = self.quiet + slack
            open_ = []
            for name in self.sessions:
                record = self.session(name)
                due = self.stopped.get(name, 0.0) <= self.loop.now
                if record.state is SessionState.CREATED or (record.state is SessionState.STOPPED and due):
                    await self._as_operator(lambda controller, name=name: controller.start_session(PROJECT, name))
                if self.session(name).state not in ENDED or (name in self.stopped and not due):
                    open_.append(name)
            if not open_ and self.loop.now >= self.quiet:
                return True
            if open_ and self.loop.now > patience:
                for name in open_:
                    controller = self.nodes.get(self.leader)
                    why = controller.tree(PROJECT).why(name) if controller is not None else None
                    said = f"session {self.session(name).name} is {self.session(name).state} long after all has healed"
                    self.history.violated(self.loop.now, "I6", f"{said}: {why}")
                return False
            await asyncio.sleep(1.0)

    async def _as_operator(self, what: Callable[[Controller], Any]) -> None:
        """Have the controller do something; it may die meanwhile."""
        process, controller = self.processes.get(self.leader), self.nodes.get(self.leader)
        if process is None or not process.alive or controller is None:
            return
        asked = process.start(what(controller))
        while not asked.done() and process.alive:
            await asyncio.sleep(0.05)
        if asked.done() and not asked.cancelled() and (error := asked.exception()) is not None:
            if not isinstance(error, HansaError):
                raise error
            self.history.note(self.loop.now, "operator", "refused", said=str(error))

    async def _close(self) -> None:
        """Everybody leaves in good order; what is left afterwards is left behind."""
        self.closing = True
        servers = [name for name in (STANDBY, self.leader, CONTROLLER) if name in self.mains]
        for name in dict.fromkeys([*(name for name in self.mains if name not in servers), *servers]):
            if self.processes[name].alive:
                self.mains[name].cancel()
                await asyncio.wait([self.mains[name]])
        await asyncio.sleep(5.0)
        for name, process in self.processes.items():
            left = sorted(str(task.get_coro().__qualname__) for task in process.tasks if not task.done())  # type: ignore[union-attr]
            if left and process.alive:
                self.history.violated(self.loop.now, "I10", f"{name} has left, but not its tasks: {left[:5]}")

    # ── nodes ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def boot(self, name: str) -> None:
        """Start a node's process on its host."""
        if name in self.gone:
            return
        if name in self.processes and self.processes[name].alive and not self.mains[name].done():
            return
        self.network.returned(name)
        process = self.processes[name] = Process(name, self._starts.get(name, 0))
        self._starts[name] = process.number + 1
        self.history.note(self.loop.now, name, "booted", said=str(process))
        job = self._controller(process) if name in (CONTROLLER, STANDBY) else self._node(process)
        main = self.mains[name] = process.start(job, name)
        main.add_done_callback(lambda done: self._exited(process, done), context=process.context)

    def kill(self, name: str, back_after: float, *, power: bool = False) -> None:
        """As `kill -9`, or as a host without power; it is started again."""
        process = self.processes.get(name)
        if process is None or not process.alive or self.closing:
            return
        self.nodes.pop(name, None)
        process.kill()
        self.network.died(process, power=power)
        self.history.note(self.loop.now, name, "killed", said="power" if power else "")
        back = self.loop.now + max(back_after, 0.01)
        self.quiet = max(self.quiet, back)
        self.loop.at(back, self.boot, name)

    def _exited(self, process: Process, main: "asyncio.Task[Any]") -> None:
        if self.closing or self.processes.get(process.name) is not process:
            return
        error = None if main.cancelled() else main.exception()
        self.nodes.pop(process.name, None)
        if isinstance(error, StorageUnavailableError | _SupersededError):  # a service manager starts it again
            self.history.note(self.loop.now, process.name, "exited", said=str(error))
            self.network.died(process)
            process.kill()
            self.loop.at(self.loop.now + 1.0, self.boot, process.name)
            return
        self.history.violated(
            self.loop.now, "I6", f"{process.name} has ended by itself: {type(error).__name__}: {error}"
        )

    async def _controller(self, process: Process) -> None:
        """What `ControllerServer` does, with stores and a transport of the simulation."""
        disk = _FailingDisk(self, process)
        store = MemoryStore(self.database, disk)
        await store.open()
        leadership = store.leadership("controller", lease=_LEADERS_LEASE)
        await _lead(leadership)
        objects = SlowObjects(self.objects, disk)
        plan = self.plan
        fenced = store.fenced(leadership)
        controller = Controller(fenced, objects, _key(), address=ROOT_ADDRESS, slots=plan.slots, silence=plan.silence)
        transport = self.network.transport(process)
        server = transport.create_server()
        transport.bind(server, ROOT_ADDRESS)

        async def authenticate(token: str) -> Identity:
            return controller.verify(token)

        async def assign(identity: Identity, request: AssignRequest) -> Assignment:
            return Assignment(*controller.assign(identity, request.preferred, request.labels))

        face = NodeService(controller.hub, authenticate, lambda: controller.public_key)
        server.add_generic_rpc_handlers((*face.handlers(), service.directory_handler(assign, authenticate)))
        with contextlib.suppress(ConflictError):
            await controller.create_project(PROJECT)
        await server.start()
        await controller.open()
        self.nodes[process.name] = controller
        self.leader = process.name
        try:
            await leadership.lost.wait()
            raise _SupersededError(leadership.cause)
        finally:
            await controller.aclose()
            await server.stop(0.2)
            await leadership.release()
            await store.close()

    async def _node(self, process: Process) -> None:
        name, plan = process.name, self.plan
        transport, work = self.network.transport(process), self.folder / name
        if name in plan.combiners:
            node = CombinerNode(
                name,
                join=ROOT_ADDRESS,
                token=_token(name, Role.COMBINER),
                work=work,
                listen=f"{name}:7100",
                parent=plan.combiners[name],
                slots=plan.slots,
                silence=plan.silence,
                transport=transport,
            )
            self.nodes[name] = node
            await node.run()
            return
        index = int(name.partition("-")[2])
        places = list(plan.combiners)
        agent = _WatchedAgent(
            self,
            ClientInfo(name, index, plan.clients),
            join=ROOT_ADDRESS,
            token=_token(name, Role.CLIENT),
            work=work,
            app=Path("app.py"),
            preferred=places[index % len(places)] if places and plan.preferring else "",
            transport=transport,
            workshop=lambda _app, client, folder, _on_line: _Bench(self, client, folder),  # type: ignore[arg-type, return-value]
        )
        self.nodes[name] = agent
        await agent.run()

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _strike(self, fault: Fault) -> None:  # noqa: C901 - one case for each kind
        """A fault begins."""
        if self.closing:
            return
        self.history.note(self.loop.now, fault.target, "fault", said=fault.kind)
        over = self.loop.now + fault.length
        one, _, other = fault.target.partition("|")
        match fault.kind:
            case "kill" | "power":
                self.history.faults[fault.kind] += 1
                target = self.leader if fault.target == CONTROLLER else fault.target
                self.kill(target, fault.length, power=fault.kind == "power")
            case "gone":
                self.history.faults["gone"] += 1
                self.gone.add(fault.target)
                self.kill(fault.target, 0.0)
            case "pause":
                self._pause(self.leader if fault.target == CONTROLLER else fault.target, over)
            case "away":
                self.history.faults["away"] += 1
                self.away = over
            case "reset":
                self.history.faults["reset"] += 1
                self.network.reset(one, other)
            case "cut" | "one-way":
                self.history.faults[fault.kind] += 1
                self.network.cut(one, other, one if fault.kind == "one-way" and fault.number % 2 else "")
                self.loop.at(over, self.network.heal, one, other)
            case "slow":
                self.history.faults["slow"] += 1
                self.network.slow(one, other, float(fault.number))
                self.loop.at(over, self.network.slow, one, other, 1.0)
            case "trip" | "kill at a message" | "trip an upload" | "trip a download":
                self._lay_wire(fault, one, other)
            case "kill before a step" | "kill after a step":
                self.steps.append(fault)
            case "stop":
                self._stop(fault)
            case _:
                pass

    def _pause(self, name: str, until: float) -> None:
        process = self.processes.get(name)
        if process is None or not process.alive or process.paused:
            return
        self.history.faults["pause"] += 1
        self.loop.pause(process)
        self.loop.at(until, self.loop.resume, process)

    def _lay_wire(self, fault: Fault, one: str, other: str) -> None:
        def act(connection: Any) -> None:
            self.history.faults[fault.kind] += 1
            self.history.note(self.loop.now, fault.target, "struck", said=fault.kind)
            if fault.kind.startswith("trip"):
                connection.reset()
            else:
                victim = one if fault.number % 2 else other
                self.kill(self.leader if victim == CONTROLLER else victim, fault.length)

        method = {"trip an upload": "Transfer/Upload", "trip a download": "Transfer/Download"}.get(fault.kind, "")
        self.network.tripwires.append(Tripwire(frozenset((one, other)), fault.number, act, method))

    def step(self, process: Process, step: str, when: str) -> bool:
        """A durable step of the controller: whether it dies here."""
        for i, fault in enumerate(self.steps):
            if fault.target != step or not fault.kind.startswith(f"kill {when}"):
                continue
            number = fault.number - 1
            if number:
                self.steps[i] = Fault(fault.kind, fault.at, fault.target, fault.length, number)
                continue
            del self.steps[i]
            self.history.faults[fault.kind] += 1
            self.history.note(self.loop.now, process.name, "struck", said=f"{fault.kind}: {step}")
            self.kill(process.name, fault.length)
            return True
        return False

    def _stop(self, fault: Fault) -> None:
        number = int(fault.target.partition("-")[2])
        if number >= len(self.sessions) or self.session(self.sessions[number]).state is not SessionState.RUNNING:
            return
        session = self.sessions[number]
        self.history.faults["stop"] += 1
        self.stopped[session] = self.loop.now + fault.length

        async def stop() -> None:
            await self._as_operator(lambda controller: controller.stop_session(PROJECT, session, "the operator"))

        self.loop.create_task(stop())

    # ── what is watched ──────────────────────────────────────────────────────────────────────────────────────────────

    def session(self, name: str) -> SessionRecord:
        """As it is stored."""
        row = self.database.rows[SessionRecord][PROJECT, name]
        known = self._read.get(name)
        if known is None or known[0] is not row:
            known = self._read[name] = row, from_row(SessionRecord, row)
        return known[1]

    def counted(self, session: str, number: int) -> Mapping[str, tuple[str, str, int]]:
        """Of a committed round, by client: outcome, digest, examples."""
        rows = self.database.rows
        return {
            row["client"]: (row["outcome"], row["digest"], row["num_examples"])
            for row in rows[ContributionRecord].values()
            if (row["session"], row["round"]) == (session, number)
        }

    def _committed(self, commit: Any) -> None:
        record = commit.round
        self.history.note(
            self.loop.now, CONTROLLER, "commit", said=f"{record.session} {record.number} {record.model[:8]}"
        )

    def _check_nothing_is_open(self) -> None:
        """Nobody waits for anything once all has ended."""
        hubs = {CONTROLLER: self.nodes[self.leader].tree(PROJECT).hub}
        hubs |= {name: self.nodes[name]._hub for name in self.plan.combiners}
        for name, hub in hubs.items():
            left = {
                "phases": list(hub._phases.open),
                "offers": len(hub._offers),
                "uploads": list(hub._uploads._active),
                "jobs": len(hub._jobs),
            }
            if any(left.values()):
                self.history.violated(self.loop.now, "I10", f"{name} still holds {left}")
        expected = {f"client-{i}" for i in range(self.plan.clients)} - self.gone
        for name in sorted(expected):
            agent = self.nodes[name]
            if not agent._link.connected:
                self.history.violated(self.loop.now, "I6", f"{name} is not connected, long after all has healed")
            if agent._tasks or agent._jobs:
                self.history.violated(
                    self.loop.now,
                    "I10",
                    f"{name} still works on {list(agent._tasks)} {[t.get_stack() for t in agent._jobs]}",
                )
        there = set(self.nodes[self.leader].tree(PROJECT).directory.clients)
        rows = {row["name"] for row in self.database.rows[ClientRecord].values() if row["connected"]}
        if rows != there:
            said = f"by the rows {sorted(rows)} are connected, by the directory {sorted(there)}"
            self.history.violated(self.loop.now, "rows", said)
        if there != expected:
            self.history.violated(self.loop.now, "I6", f"the directory has {sorted(there)}")


def _is_short(rules: RoundRules, clients: int, lost: int) -> bool:
    """Whether a round may have to wait for its deadline, for clients that nobody can replace."""
    places = clients if rules.replace_failed else max(rules.min_clients, rules.quorum)  # who came first, perhaps
    return places - lost < rules.quorum or clients - lost < rules.min_clients


class _SupersededError(Exception):
    """Another controller leads."""


class _FailingDisk(Disk):
    """The controller's: every step takes a while, and may be its last."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self._rng = random.Random(f"disk {world.plan.seed} {process.number}")  # noqa: S311 - a simulation

    async def before(self, step: str) -> None:
        await asyncio.sleep(self._rng.expovariate(500.0))
        self._check_there()
        if self._world.step(self._process, step, "before"):
            await asyncio.Event().wait()

    async def after(self, step: str) -> None:
        if self._world.step(self._process, step, "after"):
            await asyncio.Event().wait()
        await asyncio.sleep(self._rng.expovariate(500.0))
        self._check_there()

    async def reading(self) -> None:
        await asyncio.sleep(self._rng.expovariate(2000.0))
        self._check_there()

    def _check_there(self) -> None:
        if self._world.loop.now < self._world.away:
            raise StorageUnavailableError("the store of the simulation is away: it will be back")


class _WatchedAgent(Agent):
    """Writes down what it is told, and what it keeps and forgets."""

    def __init__(self, world: World, client: ClientInfo, **options: Any) -> None:
        super().__init__(client, **options)
        self._world = world
        outbox, name, history = self._outbox, client.name, world.history
        keep, forget = outbox.keep, outbox.forget

        def kept(offer: Offer) -> None:
            before = history.held.get((name, offer.key))
            if before is not None:
                history.violated(world.loop.now, "I1", f"{name} has learned {offer.key} again, which it had kept")
            history.note(world.loop.now, name, "kept", offer.key, offer.blob.digest)
            history.held[name, offer.key] = offer.blob.digest
            keep(offer)

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
                outcome, digest, _ = world.counted(frame.key.run, frame.key.round).get(name, ("", "", 0))
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
        if session.round < key.round and session.state not in ENDED and (name, key, digest) not in history.refused:
            history.violated(now, "I1", f"{name} forgets its update of {key}, of which nobody has said anything")


class _Bench:
    """In the place of a worker process: the real `Worker`, in virtual time and in the agent's own process."""

    def __init__(self, world: World, client: ClientInfo, objects: Path) -> None:
        self._world = world
        self._client = client
        memory = Memory(objects.with_name("memory"))
        self._worker = Worker(None, Path("app.py"), client, objects, memory)  # type: ignore[arg-type]
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
        data = offer.blob.inline or (self._worker._objects / offer.blob.digest).read_bytes()
        arrays = {name: np.full_like(array, np.nan) for name, array in codec.decode(memoryview(data)).items()}
        return Offer(offer.key, offer.sender, self._worker._left(Arrays(arrays)), offer.contributions)


# ── running one ──────────────────────────────────────────────────────────────────────────────────────────────────────


def simulate(plan: Plan, scratch: Path, *, verbose: bool = False) -> World:
    """Run a plan to its end; what happened is in `history` and in `database`. scratch: a folder, best in memory."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    loop = VirtualLoop(random.Random(f"threads {plan.seed}"), thread_delay=plan.thread_delay)  # noqa: S311 - a simulation
    world = World(plan, loop, folder, verbose=verbose)
    with _patched(world), contextlib.ExitStack() as undo:
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
        (session_module, "INLINE_LIMIT", plan.inline),
        (worker_module, "INLINE_LIMIT", plan.inline),
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
