"""A network of real processes, each started again whenever it dies; faults are armed in them."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from ssl import PEM_cert_to_DER_cert
from typing import Any, Final, TypeVar

import cradle
import psutil
from servers import free_port

from faults.history import History, Session, left_over, read_history
from faults.plants import PLANT, PLANTS
from faults.points import CONTROLLER, Fault
from faults.proxy import Proxy, Weather
from faults.workload import CLIENTS, COMBINERS, Replays, keep_of, write_app
from hansa.api.client import Client
from hansa.api.credentials import load_credentials
from hansa.errors import HansaError
from hansa.messages import RunSpec
from hansa.store.records import SessionRecord, SessionState
from hansa.wire.tls import fingerprint

__all__ = ["OVER", "Lab", "Node", "StuckError", "laboratory"]

T = TypeVar("T")

_NODE = Path(__file__).with_name("node.py")
_PAUSE = 0.05
"""Seconds between looks at the world from outside."""
_LONG_PAUSE = 0.25
"""The same while a session runs: each look costs the controller a request."""
_STANDS = 3.0
"""Seconds for which a process stands still that an armed fault has stopped."""
_LOOKS = 6
"""At it, meanwhile."""
_TIDY = 20.0
"""Seconds for a node that was killed to be there again, and to clear away what its predecessor left."""
_TRIES = 5
"""Starts of a process that ends by itself, before it is given up: such an end is wrong in any case."""
OVER: Final = (SessionState.FINISHED, SessionState.FAILED, SessionState.STOPPED)


class StuckError(AssertionError):
    """What was awaited has not come: the laboratory's own patience, which is no part of the product's."""


@dataclass
class Node:
    """A process that is started again when it dies; `deaths` counts how often it did by a signal."""

    name: str
    arguments: list[str]
    environment: Mapping[str, str]
    folder: Path
    deaths: int = 0
    exits: list[int] = field(default_factory=list)
    """Exit codes of those that ended by themselves, which nobody had asked them to."""
    process: "subprocess.Popen[bytes] | None" = None
    _stopping: bool = False
    _keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and keep it."""
        self._stopping = False
        self._spawn()
        self._keeper = threading.Thread(target=self._keep, name=f"keep {self.name}")
        self._keeper.start()

    def stop(self) -> None:
        """End it in order, with everything below it."""
        self._stopping = True
        process = self.process
        if process is not None:
            for number in (signal.SIGCONT, signal.SIGTERM):
                process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if self._keeper is not None:
            self._keeper.join()

    def send(self, number: int) -> None:
        """A signal to the process as it is now."""
        if self.process is not None:
            self.process.send_signal(number)

    def stopped(self) -> bool:
        """Whether it stands still after a SIGSTOP."""
        try:
            return self.process is not None and psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        except psutil.NoSuchProcess:
            return False

    def _spawn(self) -> None:
        with (self.folder / "logs" / f"{self.name}.log").open("ab") as log:
            self.process = cradle.Popen(
                [sys.executable, "-P", str(_NODE), self.name, str(self.folder), *self.arguments, "--while-stdin"],
                stdin=subprocess.PIPE,  # it ends when we do, however that is
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def _keep(self) -> None:
        while True:
            assert self.process is not None
            assert self.process.stdin is not None
            status = self.process.wait()
            self.process.stdin.close()
            if self._stopping:
                return
            if status < 0:
                self.deaths += 1
            else:
                self.exits.append(status)
                if len(self.exits) > _TRIES:
                    return
                time.sleep(_PAUSE)
            self._spawn()


class Lab:
    """A controller, combiners and clients, and everything that is known of them."""

    def __init__(
        self, folder: Path, *, clients: int = CLIENTS, combiners: int = COMBINERS, plant: str = "", size: int = 300_000
    ) -> None:
        """folder: an empty one; plant: a bug of `plants.py` that every process gets; size: values of the model."""
        self.folder = folder
        for name in ("armed", "history", "logs", "tmp"):
            (folder / name).mkdir()
        self.app = write_app(folder, size)
        self.nodes: dict[str, Node] = {}
        self.tokens: list[str] = []
        self._clients, self._combiners, self._plant = clients, combiners, plant
        self.rest, self.grpc = free_port(), free_port()
        self.proxies: dict[str, Proxy] = {}
        """Before the controller's port for nodes, and before each combiner's."""
        self._connection: Client | None = None
        self.replays = Replays()
        """What was recomputed for its checks."""
        self._known: dict[str, Session] = {}
        self._paused: set[str] = set()
        self._leaving = threading.Event()
        self._warden = threading.Thread(target=self._let_go_on, name="warden")

    @property
    def clients(self) -> list[str]:
        """Names."""
        return [f"client-{i}" for i in range(self._clients)]

    @property
    def combiners(self) -> list[str]:
        """Names."""
        return [f"combiner-{i}" for i in range(self._combiners)]

    def start(self) -> None:
        """Start everybody; a session waits by itself until they are connected."""
        self._warden.start()
        data = str(self.folder / "data")
        self._door = self._proxied(CONTROLLER, self.grpc)
        ports = ("--port", str(self.rest), "--grpc-port", str(self.grpc), "--data", data, "--json")
        self._node(CONTROLLER, ["up", *ports])
        for name in self.combiners:
            token = self.ask(lambda api, name=name: api.tokens.create(name, "combiner")).token
            own = free_port()
            door = self._proxied(name, own)
            self._join(name, "combiner", token, "--listen", f"127.0.0.1:{own}", "--advertise", f"127.0.0.1:{door}")
        self._until(lambda api: api.combiners.list(connected=True).total == self._combiners, "the combiners")
        for index, name in enumerate(self.clients):
            token = self.ask(lambda api, name=name: api.tokens.create(name, "client")).token
            below = self.combiners[index % self._combiners] if self._combiners else ""
            self._join(
                name, "client", token, *("--combiner", below) * bool(below), "--partition", f"{index}/{self._clients}"
            )

    def stop(self) -> None:
        """End everybody, the leaves first."""
        self._leaving.set()
        if self._warden.is_alive():
            self._warden.join()
        if self._connection is not None:
            self._connection.close()
        for node in reversed(self.nodes.values()):
            node.stop()
        for proxy in self.proxies.values():
            proxy.close()

    # ── what an operator does ────────────────────────────────────────────────────────────────────────────────────

    def ask(self, question: Callable[[Client], T], patience: float = 60.0) -> T:
        """An answer of the server, which may be away for a while."""
        until = time.monotonic() + patience
        while True:
            self._need_the_living()
            try:
                return question(self._api())
            except (HansaError, OSError) as error:
                if time.monotonic() > until:
                    raise StuckError(f"the controller gives no answer: {error}\n{self._seen(CONTROLLER)}") from error
                time.sleep(_PAUSE)

    def ready(self) -> None:
        """Wait until every client is connected, below a combiner where there are any.

        A client that came back before its combiner did hangs on the controller from then on: it is started again.
        """
        until, killed = time.monotonic() + 60, dict.fromkeys(self.clients, 0.0)
        while True:
            here = self.ask(lambda api: api.clients.list(connected=True)).items
            strays = [client.name for client in here if self._combiners and client.combiner not in self.combiners]
            if len(here) == self._clients and not strays:
                return
            now = time.monotonic()
            if now > until:
                raise StuckError("the clients do not connect")
            for name in strays:
                if now - killed[name] > _TIDY / 2:
                    killed[name] = now
                    self.kill(name)
            time.sleep(_PAUSE)

    def busiest(self) -> str:
        """The combiner with the most clients now, below which a fault is sure to have its occasion."""
        self.ready()
        below = Counter(client.combiner for client in self.ask(lambda api: api.clients.list(connected=True)).items)
        return max(self.combiners, key=lambda name: below[name])

    def begin(self, spec: RunSpec) -> SessionRecord:
        """Start a session, once: the one of this name, should the answer to the first attempt have been lost."""

        def started(api: Client) -> SessionRecord:
            for known in api.sessions.all():
                if known.name == spec.name:
                    return known if known.state is not SessionState.CREATED else api.sessions.resume(known.id)
            return api.sessions.start(self.app, spec, keep=keep_of(spec))

        return self.ask(started)

    def end(self, session: SessionRecord, patience: float = 180.0) -> SessionRecord:
        """Wait for the end of a session; raises `StuckError` with what it says that it waits for."""
        until = time.monotonic() + patience
        while True:
            now = self.ask(lambda api: api.sessions.get(session.id))
            if now.state in OVER:
                return now
            if time.monotonic() > until:
                why = self.ask(lambda api: api.sessions.why(session.id))
                raise StuckError(f"session {session.name} is {now.state} after round {now.round}: {why}")
            time.sleep(_LONG_PAUSE)

    def await_words(self, session: SessionRecord, words: str) -> str:
        """What a running session says of itself once these words are in it; raises `StuckError`."""
        until, said = time.monotonic() + 60, ""
        while words not in said:
            if time.monotonic() > until:
                raise StuckError(f"session {session.name} does not say {words!r}, but {said!r}")
            time.sleep(_LONG_PAUSE)
            said = str(self.ask(lambda api: api.sessions.why(session.id)))
        return said

    def plant(self, name: str) -> None:
        """Have a bug of `plants.py` in every process of its kinds, which begin anew for it."""
        for node in self.nodes.values():
            if node.name.partition("-")[0] in PLANTS[name].kinds:
                node.environment = {**node.environment, PLANT: name}
                deaths = node.deaths
                self.kill(node.name)
                while node.deaths == deaths:
                    time.sleep(_PAUSE)
        self.ready()

    def history(self, *, anew: bool = True) -> History:
        """Everything that is known by now. anew: sessions that had ended at an earlier look are read again, too."""
        known = None if anew else self._known
        found = self.ask(lambda api: read_history(self.folder, api, self.tokens, known))
        self._known = {each.record.id: each for each in found.sessions if each.record.state in OVER}
        left, until = set(found.left), time.monotonic() + _TIDY
        while left and time.monotonic() < until:
            time.sleep(_LONG_PAUSE)
            left &= set(left_over(self.folder))
        found = replace(found, left=tuple(sorted(left)))
        return replace(found, exits={name: tuple(node.exits) for name, node in self.nodes.items() if node.exits})

    def rounds(self) -> int:
        """Committed rounds of all sessions, as of the last look at the history."""
        return sum(len(each.rounds) for each in self._known.values())

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────

    def arm(self, name: str, fault: Fault) -> None:
        """Leave a fault for a process, and wait until it has taken it; user code's takes it when it next trains."""
        in_worker = fault.point == "worker.fsync"
        place = self.folder / "armed" / (f"{name}.worker" if in_worker else name)
        written = place.with_suffix(".new")
        number = {"errno": getattr(errno, fault.do)} if in_worker else {}
        written.write_text(json.dumps(asdict(fault) | number))
        written.replace(place)
        if in_worker:
            return
        until = time.monotonic() + 30
        while place.exists():
            if self.nodes[name].process is not None and _listens(self.nodes[name].process):
                self.nodes[name].send(signal.SIGUSR1)
            if time.monotonic() > until:
                raise StuckError(f"{name} does not take a fault")
            time.sleep(0.01)

    def disarm(self, name: str) -> None:
        """Take a fault back that has not struck: what is armed next takes its place, and this one has no passage."""
        self.arm(name, Fault("nowhere"))

    def struck(self, name: str) -> bool:
        """Whether the fault that was armed last has struck."""
        for line in reversed((self.folder / "history" / name).read_text().splitlines()):
            what = json.loads(line)["what"]
            if what in ("struck", "armed"):
                return what == "struck"
        return False

    def tasks(self, name: str) -> int:
        """How many asyncio tasks a process has now, as it says itself."""
        history = self.folder / "history" / name
        before = history.read_text().count('"census"')
        self.nodes[name].send(signal.SIGUSR2)
        until = time.monotonic() + 30
        while (text := history.read_text()).count('"census"') == before:
            if time.monotonic() > until:
                raise StuckError(f"{name} does not say what it has")
            time.sleep(0.01)
        said = [json.loads(line) for line in text.splitlines() if '"census"' in line]
        return int(said[-1]["tasks"])

    def strikes(self) -> Counter[str]:
        """Armed faults that have struck so far, by what they did."""
        texts = [file.read_text() for file in (self.folder / "history").iterdir()]
        notes = [json.loads(line) for text in texts for line in text.splitlines() if '"struck"' in line]
        return Counter(note["do"] for note in notes)

    def kill(self, name: str) -> None:
        """SIGKILL, now."""
        self.nodes[name].send(signal.SIGKILL)

    def pause(self, name: str) -> None:
        """SIGSTOP, now, until it is released."""
        self._paused.add(name)
        self.nodes[name].send(signal.SIGSTOP)

    def calm(self) -> None:
        """Nothing is wrong with the network or a process any more; what is armed stays so."""
        for proxy in self.proxies.values():
            proxy.change(Weather())
        self.release()

    def release(self) -> None:
        """Let everybody go on who was stopped."""
        self._paused.clear()
        for node in self.nodes.values():
            node.send(signal.SIGCONT)

    def _let_go_on(self) -> None:
        """Whoever has stopped itself at a point goes on after a while, whatever else waits for it: requests do."""
        looks: Counter[str] = Counter()
        while not self._leaving.wait(_STANDS / _LOOKS):
            standing = {name for name, node in list(self.nodes.items()) if name not in self._paused and node.stopped()}
            looks = Counter({name: looks[name] + 1 for name in standing})
            for name in standing:
                if looks[name] > _LOOKS:
                    self.nodes[name].send(signal.SIGCONT)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _until(self, connected: Callable[[Client], bool], who: str) -> None:
        until = time.monotonic() + 60
        while not self.ask(connected):
            if time.monotonic() > until:
                raise StuckError(f"{who} do not connect")
            time.sleep(_PAUSE)

    def _need_the_living(self) -> None:
        for name, node in self.nodes.items():
            if len(node.exits) > _TRIES:
                raise StuckError(f"{name} ends by itself, again and again\n{self._seen(name)}")

    def _seen(self, name: str) -> str:
        """What is seen of a node from outside, for who looks for the cause."""
        node = self.nodes[name]
        pid = node.process.pid if node.process is not None else 0
        try:
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            kernel = ", ".join(line for line in status if line.startswith(("State", "TracerPid", "Threads")))
        except OSError as error:
            kernel = str(error)
        said = (self.folder / "logs" / f"{name}.log").read_text()[-1000:]
        return f"{name}: process {pid} ({kernel}), {node.deaths} deaths, exits {node.exits}: {said}"

    def _api(self) -> Client:
        if self._connection is None:
            saved = load_credentials(self.folder / "credentials.json")
            if saved is None:
                raise FileNotFoundError("the controller has not come up yet")
            self.tokens.append(saved.token)
            self._connection = Client(saved.url, saved.token, saved.project, saved.trust)
        return self._connection

    @property
    def _authority(self) -> str:
        """By which nodes know the controller."""
        return fingerprint(PEM_cert_to_DER_cert((self.folder / "data" / "keys" / "authority.crt").read_text()))

    def _join(self, name: str, kind: str, token: str, *more: str) -> None:
        self.tokens.append(token)
        work = str(self.folder / "work" / name)
        arguments = [
            kind,
            "start",
            "--join",
            f"127.0.0.1:{self._door}",
            "--ca",
            self._authority,
            "--work",
            work,
            "--json",
            *more,
        ]
        self._node(name, arguments, HANSA_TOKEN=token)

    def _proxied(self, name: str, target: int) -> int:
        port = free_port()
        self.proxies[name] = Proxy(port, target)
        return port

    def _node(self, name: str, arguments: list[str], **more: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HANSA_")}  # noqa: TID251
        environment = kept | {
            "TMPDIR": str(self.folder / "tmp"),
            "HANSA_CREDENTIALS": str(self.folder / "credentials.json"),
            "HANSA_SILENCE": "3",
            "HANSA_CONFINEMENT": "off",  # what user code does is written down beside the laboratory
            "HANSA_ADVERTISE": f"127.0.0.1:{self._door}" if name == CONTROLLER else "",
            PLANT: self._plant,
            **more,
        }
        self.nodes[name] = Node(name, arguments, environment, self.folder)
        self.nodes[name].start()


@contextmanager
def laboratory(folder: Path, **options: Any) -> Iterator[Lab]:
    """A running network, which is gone at the end."""
    lab = Lab(folder, **options)
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


def _listens(process: "subprocess.Popen[bytes] | None") -> bool:
    """Whether it has come so far that it takes a signal; before, SIGUSR1 would end it."""
    assert process is not None
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)
