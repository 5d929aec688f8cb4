"""A whole federation on a virtual clock: real controller, combiners and clients, killed and started again by a plan."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from dst import rpc
from dst.clients import Bench, WatchedAgent, app_of
from dst.history import History
from dst.loop import Process, VirtualLoop
from dst.net import Network, Tripwire
from dst.schedule import CONTROLLER, DEADLINE, ENDED, LEASE, STANDBY, Fault, Plan
from dst.store import Database, Disk, MemoryStore, OldObjects
from hansa.errors import ConflictError, HansaError, StorageUnavailableError
from hansa.messages import ClientInfo, RoundRules
from hansa.network.combiner.node import CombinerNode
from hansa.network.combiner.service import NodeService
from hansa.network.controller.controller import Controller
from hansa.network.controller.server import _lead
from hansa.network.controller.signing_keys import SigningKeys
from hansa.run import resolve
from hansa.store.files import DirectoryObjects
from hansa.store.link import ACCEPTED
from hansa.store.records import ClientRecord, ContributionRecord, SessionRecord, SessionState, TokenRecord
from hansa.store.rows import from_row, to_row
from hansa.wire import codec, service, tokens
from hansa.wire.calls import Assignment, AssignRequest
from hansa.wire.frames import ROOT, Role, RoundKey
from hansa.wire.tokens import Identity

__all__ = ["PROJECT", "World"]

T = TypeVar("T")

PROJECT = "harbour"
ROOT_ADDRESS = "controller:7000"
_LEADERS_LEASE = 9.0
"""Seconds in which nobody takes over from a controller that says nothing."""
_SETTLED, _SETTLED_DARK = 25.0, 50.0
"""Seconds after the last session's end in which everybody hears of it: longer than any silence that a server bears, and
where a link was dark, longer than any keepalive."""
_DARK = ("cut", "one-way", "power")


@cache
def _key() -> str:
    return tokens.new_key()


@cache
def _join_token(name: str, role: Role) -> tuple[str, str]:
    """(the token, its id)"""
    return tokens.issue(_key(), name, role, PROJECT, audience=tokens.JOINING)


def _token_row(name: str, role: Role) -> tuple[type[TokenRecord], dict[str, Any]]:
    """As an operator has made it, before anything happens."""
    return TokenRecord, to_row(TokenRecord(_join_token(name, role)[1], PROJECT, name, role.value, 0.0))


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
        for role, names in (
            (Role.CLIENT, [f"client-{i}" for i in range(plan.clients)]),
            (Role.COMBINER, plan.combiners),
        ):
            self.database.write([_token_row(name, role) for name in names])
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
        self._errands: list[asyncio.Task[None]] = []
        """What an operator is about."""
        self.verbose = verbose
        self.quiet = plan.heals
        """When whatever was killed is back."""
        self._rng = random.Random(f"world {plan.seed}")  # noqa: S311 - a simulation
        self._starts: dict[str, int] = {}
        self._read: dict[str, tuple[Any, SessionRecord]] = {}
        self._left: dict[type[Any], Sequence[Any]] = {}
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
        self.steps.clear()
        self.network.tripwires.clear()
        settled = _SETTLED_DARK if any(kind in _DARK for kind in self.history.faults) else _SETTLED
        await asyncio.sleep(settled)
        while self.loop.now < self.quiet + settled:
            await asyncio.sleep(1.0)
        if ended:
            self._check_nothing_is_open()
            await self._as_operator(_prune)
        await self._close()

    async def _create_sessions(self, controller: Controller) -> None:
        for spec, keep in zip_longest(self.plan.specs, self.plan.keeps):
            model = resolve(spec).initial_model(app_of(self.plan.clients))
            seed = await controller.artifacts.add_model(PROJECT, b"".join(codec.encode(model)))
            created = await controller.sessions.create(PROJECT, spec, seed_model=seed.id, keep=keep)
            self.sessions.append(created.id)

    async def _until_all_ended(self) -> bool:
        """Start what is to be started, as an operator would, until every session has ended; False when one does not."""
        rounds = max(spec.rounds for spec in self.plan.specs)
        wrong = Counter(number for _, number in self.wrongdoers)
        most = max(wrong.values(), default=0)
        gone = len({fault.target for fault in self.plan.faults if fault.kind == "gone"})
        short = any(_is_short(spec.rules, self.plan.clients, most + gone) for spec in self.plan.specs)
        alone = gone > 0 and any(spec.evaluation.every for spec in self.plan.specs)  # whoever was to evaluate, perhaps
        short = short or alone
        slack = 120.0 + 60.0 * rounds + len(self.wrongdoers) * 2 * LEASE + (DEADLINE * rounds if short else 0.0)
        while True:
            patience = self.quiet + slack
            open_ = []
            for name in self.sessions:
                record = self.session(name)
                due = self.stopped.get(name, 0.0) <= self.loop.now
                if record.state is SessionState.CREATED or (record.state is SessionState.STOPPED and due):
                    await self._as_operator(lambda controller, name=name: controller.sessions.start(PROJECT, name))
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
        await asyncio.gather(*self._errands)
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
        objects = OldObjects(self.objects, disk)
        plan = self.plan
        fenced = store.fenced(leadership)
        controller = Controller(
            fenced,
            objects,
            SigningKeys(_key()),
            address=ROOT_ADDRESS,
            slots=plan.slots,
            silence=plan.silence,
            leads=lambda: leadership.held,
        )
        transport = rpc.transport(self.network, process)
        server = transport.create_server()
        transport.bind(server, ROOT_ADDRESS, None)

        async def authenticate(token: str) -> Identity:
            return controller.verify(token)

        async def assign(identity: Identity, request: AssignRequest) -> Assignment:
            name, address = await controller.assign(identity, request.preferred, request.labels)
            return Assignment(name, "" if name == ROOT else address)

        async def certify(identity: Identity, request: str) -> str:
            raise AssertionError(f"{identity.name} asks for a certificate, without TLS: {request}")

        face = NodeService(controller.hub, authenticate, lambda: controller.public_key)
        nodes = controller.nodes
        directory = service.directory_handler(
            nodes.enroll, nodes.access, nodes.rotate, assign, certify, authenticate=authenticate
        )
        server.add_generic_rpc_handlers((*face.handlers(), directory))
        with contextlib.suppress(ConflictError):
            await controller.create_project(PROJECT)
        await controller.recall()
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
        transport, work = rpc.transport(self.network, process), self.folder / name
        if name in plan.combiners:
            node = CombinerNode(
                name,
                join=f"tcp://{ROOT_ADDRESS}",
                token=_join_token(name, Role.COMBINER)[0],
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
        agent = WatchedAgent(
            self,
            ClientInfo(name, index, plan.clients),
            join=f"tcp://{ROOT_ADDRESS}",
            token=_join_token(name, Role.CLIENT)[0],
            work=work,
            app=Path("app.py"),
            preferred=places[index % len(places)] if places and plan.preferring else "",
            transport=transport,
            workshop=lambda _app, client, folder, _on_line: Bench(self, client, folder),  # type: ignore[arg-type, return-value]
        )
        self.nodes[name] = agent
        await agent.run()

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _strike(self, fault: Fault) -> None:  # noqa: C901, PLR0912 - one case for each kind
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
            case "prune":
                self.history.faults["prune"] += 1
                self._errands.append(self.loop.create_task(self._prune(fault.number)))
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

    async def _prune(self, times: int) -> None:
        for _ in range(times):
            if not self.closing:
                await self._as_operator(_prune)

    def _stop(self, fault: Fault) -> None:
        number = int(fault.target.partition("-")[2])
        if number >= len(self.sessions) or self.session(self.sessions[number]).state is not SessionState.RUNNING:
            return
        session = self.sessions[number]
        self.history.faults["stop"] += 1
        self.stopped[session] = self.loop.now + fault.length

        async def stop() -> None:
            await self._as_operator(lambda controller: controller.sessions.stop(PROJECT, session, "the operator"))

        self.loop.create_task(stop())

    # ── what is watched ──────────────────────────────────────────────────────────────────────────────────────────────

    def session(self, name: str) -> SessionRecord:
        """As it is stored."""
        row = self.database.rows[SessionRecord][PROJECT, name]
        known = self._read.get(name)
        if known is None or known[0] is not row:
            known = self._read[name] = row, from_row(SessionRecord, row)
        return known[1]

    def left(self, kind: type[T]) -> Sequence[T]:
        """All records of a kind, oldest first, once nothing is written any more."""
        if kind not in self._left:
            self._left[kind] = self.database.every(kind, PROJECT)
        return self._left[kind]

    def counted(self, session: str, number: int) -> Mapping[str, tuple[str, str, int]]:
        """Of a committed round, by client: outcome, digest, examples."""
        rows = [
            row
            for row in self.database.rows[ContributionRecord].values()
            if (row["session"], row["round"]) == (session, number)
        ]
        rows.sort(key=lambda row: row["outcome"] == ACCEPTED)  # counted, after an earlier task was refused
        return {row["client"]: (row["outcome"], row["digest"], row["num_examples"]) for row in rows}

    def fate(self, key: RoundKey, client: str) -> tuple[str, str]:
        """(outcome, digest) of a client's task as it is stored; empty: it is not done with."""
        rows, name = self.database.rows[ContributionRecord], f"{key.run}/{key.round}/{client}"
        silent = (row for (project, of), row in rows.items() if project == PROJECT and of.startswith(f"{name}/"))
        row = rows.get((PROJECT, name)) or next(silent, None)
        return (row["outcome"], row["digest"]) if row is not None else ("", "")

    def _committed(self, commit: Any) -> None:
        record = commit.round
        self.history.note(
            self.loop.now, CONTROLLER, "commit", said=f"{record.session} {record.number} {record.model[:8]}"
        )

    def _check_nothing_is_open(self) -> None:
        """Nobody waits for anything once all has ended."""
        hubs = {CONTROLLER: self.nodes[self.leader].tree(PROJECT).hub}
        started = [name for name in self.plan.combiners if name in self.nodes]  # one was kept from it to the end
        hubs |= {name: self.nodes[name]._hub for name in started}
        for name, hub in hubs.items():
            left = {
                "phases": list(hub._phases.open),
                "offers": len(hub._offers),
                "uploads": list(hub._uploads._active),
                "jobs": len(hub._jobs),
            }
            if any(left.values()):
                self.history.violated(self.loop.now, "I10", f"{name} still holds {left}")
        if self.database.removals and not self.history.faults["away"]:
            left = sorted(digest[:8] for digest in self.database.removals)
            self.history.violated(self.loop.now, "retention", f"{left} is given up, and not removed")
        expected = {f"client-{i}" for i in range(self.plan.clients)} - self.gone
        for name in sorted(expected - self.nodes.keys()):
            self.history.violated(self.loop.now, "I6", f"{name} does not run, long after all has healed")
        for name in sorted(expected & self.nodes.keys()):
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
        self._check_nobody_strays()

    def _check_nobody_strays(self) -> None:
        """Below the root there are combiners, and clients below those, each with its share."""
        directory = self.nodes[self.leader].tree(PROJECT).directory
        strays = sorted(name for name, present in directory.clients.items() if present.combiner == ROOT)
        if strays and directory.combiners:
            said = f"{strays} are at the root still, though {sorted(directory.combiners)} serve"
            self.history.violated(self.loop.now, "placement", said)
        misplaced = directory.misplaced(self.loop.now)
        if misplaced and not self.gone:  # that a client has left for good makes no others move
            places = {name: present.combiner for name, present in sorted(directory.clients.items())}
            self.history.violated(self.loop.now, "placement", f"{misplaced} should be elsewhere: {places}")


async def _prune(controller: Controller) -> None:
    """As an operator does who wants everything gone that nobody needs."""
    await controller.sessions.prune(PROJECT, dry_run=False, grace=0.0)


def _is_short(rules: RoundRules, clients: int, lost: int) -> bool:
    """Whether a round may have to wait for its deadline, for clients that nobody can replace."""
    opens = max(rules.min_clients, rules.quorum)  # with as few as these, however many its policy wants
    first = opens if rules.count is None else min(opens, rules.count)
    places = clients if rules.replace_failed else first
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
