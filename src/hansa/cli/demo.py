"""`hansa demo`: a real federated network on this machine, each of its nodes a process of its own."""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hansa.cli.board import Board, Row, open_board
from hansa.cli.options import Json, app_name
from hansa.cli.output import counted, print_json, relative, say, span

if TYPE_CHECKING:
    from hansa.api.client import Client
    from hansa.cli.children import Children
    from hansa.messages import RunSpec
    from hansa.store.records import SessionRecord

__all__ = ["demo", "demo_app"]

T = TypeVar("T")

_CONTROLLER = "controller"
_PAUSE = 0.1
"""Seconds until a controller that was killed is asked again."""


def demo(
    *,
    rounds: Annotated[int, typer.Option("--rounds", "-r", min=1, help="Rounds to train.")] = 20,
    clients: Annotated[
        int, typer.Option("--clients", "-n", min=1, help="Clients, each a process with its own data.")
    ] = 10,
    combiners: Annotated[
        int, typer.Option("--combiners", min=0, help="Combiners between them and the controller.")
    ] = 2,
    app: Annotated[
        Path | None, typer.Option("--app", help="Another app than the handwritten digits.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder for models, record and logs; by default a new one, hansa-data/demo-DATE-TIME."
        ),
    ] = None,
    chaos: Annotated[
        bool,
        typer.Option("--chaos", help="Kill a process chosen at random after every second round, and start it again."),
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the network running when the session has ended, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a federation here: a controller, combiners and clients as processes that talk gRPC, on free loopback ports.

    It trains a classifier of handwritten digits, of which every client has its own, unequal share. No process is left
    behind. With --chaos processes die as by `kill -9`, the controller among them, and the model is the same, to the
    bit. With --json the last line is one JSON object.
    """
    from hansa.cli.children import Children

    began = time.perf_counter()
    source = app if app is not None else demo_app()
    folder = (data or Path("hansa-data") / time.strftime("demo-%Y%m%d-%H%M%S")).resolve()
    happenings: SimpleQueue[Any] = SimpleQueue()
    name = app_name(source) if app is not None else "digits"
    title = f"{name}: {clients} clients, {combiners} combiners and a controller, each its own process"
    with (
        open_board(title, rounds, as_json=as_json) as board,
        Children(folder / "logs", lambda *ended: happenings.put(_Ended(*ended))) as children,
    ):
        network = _Network(children, folder, happenings, board, Random() if chaos else None)  # noqa: S311 - no secret
        with network.controller():
            network.combiners(combiners)
            network.clients(clients)
            session, rows = network.session(source, _spec(name, rounds, clients, everybody=chaos))
            model = network.ask(lambda api: api.models.download(str(session.model), folder / "model.safetensors"))
            seconds = time.perf_counter() - began
            result = _result(session, rows, model, clients=clients, combiners=combiners, data=folder, seconds=seconds)
            result |= {"killed": network.killed} if chaos else {}
            if keep:
                _say_how_to_use(board, network)
                network.stay()
            board.status("ending every process")
    result["seconds"] = time.perf_counter() - began
    if as_json:
        print_json(result)
    else:
        _farewell(result)


def demo_app() -> Path:
    """The digits example."""
    from hansa.api.apps import example

    return example()


@dataclass(frozen=True, slots=True)
class _Ended:
    """A process ended by itself."""

    name: str
    status: int


@dataclass(slots=True)
class _Network:
    """The processes of the demo, and what is heard of them."""

    children: "Children"
    folder: Path
    happenings: "SimpleQueue[Any]"
    board: Board
    chance: Random | None = None
    """Chooses who is killed; None: nobody is."""
    killed: list[str] = field(default_factory=list)
    _api: "Client | None" = None
    _address: str = ""
    _authority: str = ""
    """Fingerprint by which nodes know the controller."""
    _starts: dict[str, Callable[[], object]] = field(default_factory=dict)
    """By name: how a process is started again."""
    _connected: set[str] = field(default_factory=set)

    @contextmanager
    def controller(self) -> Iterator[None]:
        """Start `hansa up` with credentials of its own, and connect to it."""
        from hansa.api.client import Client
        from hansa.api.credentials import load_credentials

        self.board.status("starting the controller")
        credentials = self.folder / "credentials.json"
        arguments = ["up", "--json", "--port", "0", "--grpc-port", "0", "--data", str(self.folder)]
        environment = {"HANSA_CREDENTIALS": str(credentials)}  # the user's own settings play no part: TLS is on
        answer = self.children.start(_CONTROLLER, arguments, environment, answers=True)
        line = answer.readline() if answer is not None else b""
        saved = load_credentials(credentials)
        if not line or saved is None:
            raise self._died(self.happenings.get())
        ready = json.loads(line)
        self._address, self._authority = ready["grpc_address"], ready["ca"]
        ports = [ready["url"].rpartition(":")[2], self._address.rpartition(":")[2]]
        again = ["up", "--json", "--port", ports[0], "--grpc-port", ports[1], "--data", str(self.folder)]
        self._starts[_CONTROLLER] = lambda: self.children.start(_CONTROLLER, again, environment)
        with Client(ready["url"], saved.token, saved.project, saved.trust) as api:
            self._api = api
            listener = Client(api.url, saved.token, saved.project, saved.trust)
            Thread(target=self._listen, args=(listener,), daemon=True, name="events").start()
            yield

    def combiners(self, count: int) -> None:
        """Start them and wait until all are in the directory."""
        for k in range(count):
            self._start("combiner", f"combiner-{k}", [])
        self._await(count, "combiner", "combiners")

    def clients(self, count: int) -> None:
        """Start them and wait until all are connected."""
        for k in range(count):
            self._start("client", f"client-{k}", ["--index", str(k), "--total", str(count)])
        self._await(count, "client", "clients")

    def session(self, app: Path, spec: "RunSpec") -> "tuple[SessionRecord, list[Row]]":
        """Run it to its end; raises `RunFailedError` when it does not finish."""
        from hansa.cli.watching import Rounds, ended, evaluations, tell
        from hansa.errors import RunFailedError
        from hansa.store.records import EventRecord, SessionState

        session = self.api.sessions.start(app, spec)
        rounds = Rounds(self.board.row, evaluations(session))
        for happened in iter(self._next, None):
            if getattr(happened, "session", "") != session.id:
                continue
            tell(self.board, rounds, happened)
            if happened.kind == "round.committed":
                self._strike(int(happened.data["round"]), spec.rounds)
            if isinstance(happened, EventRecord) and happened.kind in _ENDS:
                break
        rounds.end()
        last = self.ask(lambda api: api.sessions.get(session.id))
        if last.state is not SessionState.FINISHED:
            raise RunFailedError(f"{ended(last)}\nThe logs are in {self.children.logs}.")
        return last, rounds.shown

    def ask(self, question: "Callable[[Client], T]") -> "T":
        """What the controller answers, once it is back where it was killed."""
        from hansa.errors import ConnectionFailedError

        while True:
            try:
                return question(self.api)
            except ConnectionFailedError:
                if self.chance is None:
                    raise
                with suppress(Empty):  # the session may have ended before the end of who was killed is told
                    self._next(wait=_PAUSE)

    def stay(self) -> None:
        """Until Ctrl-C, or until the controller ends."""
        while True:
            self._next()

    @property
    def api(self) -> "Client":
        """The client of the running controller."""
        if self._api is None:
            raise RuntimeError("the controller is not started")
        return self._api

    def _start(self, role: str, name: str, arguments: list[str]) -> None:
        token = self.api.tokens.create(name, role).token
        work = str(self.folder / "nodes" / name)
        whole = [role, "start", "--join", self._address, "--ca", self._authority, "--work", work, *arguments]
        self._starts[name] = lambda: self.children.start(name, whole, {"HANSA_TOKEN": token})
        self._starts[name]()

    def _strike(self, number: int, last: int) -> None:
        """After every second round but the last, kill somebody."""
        if self.chance is None or number % 2 or number == last:
            return
        role = self.chance.choice(sorted({name.partition("-")[0] for name in self._starts}))
        name = self.chance.choice([name for name in self._starts if name.partition("-")[0] == role])
        self.board.say(f"kill -9 {name}")
        self.killed.append(name)
        self.children.kill(name)

    def _await(self, count: int, role: str, what: str) -> None:
        here = 0
        while here < count:
            self.board.status(f"starting {what}: {here} of {count} are connected")
            self._next(strict=True)
            here = sum(name.startswith(f"{role}-") for name in self._connected)

    def _next(self, *, strict: bool = False, wait: float | None = None) -> Any:
        """The next event. A node's end is told, and with `strict` is an error; the controller's always is.

        wait: seconds after which there is none; then `queue.Empty` is raised.
        """
        happened = self.happenings.get(timeout=wait)
        match happened:
            case _Ended(name, status) if self.chance is not None and status == -signal.SIGKILL:
                self._starts[name]()
                self.board.say(f"{name} is started again")
            case _Ended(name, status):
                if strict or name == _CONTROLLER:
                    raise self._died(happened)
                self.board.say(f"{name} ended by itself ({status}); the session goes on without it")
            case BaseException():
                raise happened
            case _ if happened.kind in {"client.connected", "combiner.connected"}:
                self._connected.add(str(happened.data.get("name")))
            case _:
                pass
        return happened

    def _died(self, ended: _Ended) -> Exception:
        return self.children.failure(ended.name, ended.status)

    def _listen(self, listener: "Client") -> None:
        """Pass every event on, from a thread that ends with this process; an error too.

        Where processes are killed the stream breaks with the controller, and goes on after the last event that it told.
        """
        from hansa.errors import ConnectionFailedError, HansaError
        from hansa.store.records import EventRecord

        last = 0
        while True:
            try:
                for happened in listener.events.stream(last):
                    last = happened.id if isinstance(happened, EventRecord) else last
                    self.happenings.put(happened)
            except ConnectionFailedError as error:
                if self.chance is None:
                    self.happenings.put(error)
                    return
                time.sleep(_PAUSE)
            except HansaError as error:
                self.happenings.put(error)
                return


_ENDS = frozenset({"session.finished", "session.failed", "session.stopped", "session.crashed"})


def _spec(name: str, rounds: int, clients: int, *, everybody: bool) -> "RunSpec":
    """All clients in each round; it goes on without a few that die, or waits until `everybody` is back."""
    from hansa.messages import RoundRules, RunSpec

    least = clients if everybody else max(1, clients // 2)
    return RunSpec(name=name, rounds=rounds, rules=RoundRules(min_clients=least, quorum=least, deadline=120, lease=20))


def _result(session: "SessionRecord", rows: list[Row], model: Path, **more: Any) -> dict[str, Any]:
    """What `--json` prints."""
    metrics = dict(rows[-1].metrics) if rows else {}
    training = sum(row.seconds for row in rows)
    return {
        "rounds": session.round,
        **{name: metrics.pop(name, None) for name in ("accuracy", "loss")},
        "metrics": metrics,
        "model_hash": session.model,
        "seconds_per_round": training / max(len(rows), 1),
        "session": session.id,
        "model": model,
        **more,
    }


def _say_how_to_use(board: Board, network: _Network) -> None:
    board.say("")
    board.say("The network stays until Ctrl-C. In another terminal:")
    board.say(f"  export HANSA_CREDENTIALS={network.folder / 'credentials.json'}")
    board.say("  hansa session list; hansa client list")


def _farewell(result: dict[str, Any]) -> None:
    folder, digest = relative(result["data"]), result["model_hash"]
    accuracy = f"accuracy {result['accuracy']:.4f} after " if result["accuracy"] is not None else ""
    say("")
    say(f"{accuracy}{counted(result['rounds'], 'round')} in {span(result['seconds'])}; every process has ended.")
    if "killed" in result:
        say(f"{len(result['killed'])} times a process was killed; the model is that of a run without, to the bit:")
        say("  hansa demo                             trains it again, with the same hash")
    say("")
    say(f"model   {digest}")
    say(f"file    {relative(result['model'])}")
    say(f"record  {folder}, every model, round and contributor")
    say(f"logs    {folder / 'logs'}")
    say("")
    say("Next:")
    activate = Path(sys.executable).with_name("activate")
    if shutil.which("hansa") is None and activate.exists():
        say(f"  . {relative(activate)!s:<35}  puts hansa on the path of this terminal")
    say("  hansa simulate app.py                  your own app; docs/tutorials has one of 40 lines")
    say(f"  hansa up --data {folder}")
    say(f"  hansa model lineage {digest[:12]}       the record, once the server is up again")
