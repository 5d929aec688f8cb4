"""One FEDn client, presented to the network as a hansa client: an agent of its own, which is there while it is."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from pydantic import ByteSize

from hansa.compat.fedn.desk import Desk
from hansa.compat.fedn.errand import Answer, Errand
from hansa.compat.fedn.models import Files, Room
from hansa.errors import AuthenticationError, ConnectionFailedError, HansaError, PermissionDeniedError
from hansa.messages import ClientInfo, Kind, Sample
from hansa.network.client.agent import Agent
from hansa.network.client.models import Fetch
from hansa.network.client.policy import Outbound, SitePolicy
from hansa.network.client.site import Site
from hansa.wire.frames import RoundKey
from hansa.wire.limits import MAX_DOCUMENT
from hansa.wire.tls import Trust

__all__ = ["Guest", "Membership", "ReplacedError"]

_log = structlog.get_logger(__name__)

_SITE: Final = SitePolicy(outbound=Outbound(predictions=ByteSize(MAX_DOCUMENT)))
"""Its owner has no `site.toml`: a client that answers predictions has a function for it."""
_LABEL: Final = 256
"""Characters of a label; a name that is longer is cut."""


class ReplacedError(PermissionDeniedError):
    """Another process listens by the same id."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who a FEDn client is, and how it came in."""

    client_id: str
    """As it says itself; no other client has it."""
    name: str
    """What people call it; several may be called the same."""
    node: str
    """Its name in hansa's network."""
    join_token: str
    """With which its agent joins."""
    preferred: str = ""
    """The combiner that it would like."""
    validates: bool = True
    """Whether its kind evaluates models."""
    package: str = "local"
    """remote: it fetches the active compute package; local: it has its own code."""
    ip: str = ""
    added_at: float = 0.0
    """POSIX seconds."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What it says of itself, the newest value of each: labels of the client in hansa."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Of the client in hansa."""
        own = {"fedn.name": self.name[:_LABEL], "fedn.client_id": self.client_id[:_LABEL]}
        return {**self.attributes, **own}


@dataclass(slots=True, eq=False)
class _Stream:
    """A task stream that is open."""

    wake: asyncio.Event
    waiting: deque[Errand]
    end: HansaError | None = None


class Guest:
    """What is known of one client, and its agent while it is here."""

    def __init__(
        self,
        member: Membership,
        *,
        join: str,
        trust: Trust,
        work: Path,
        files: Files,
        room: Room,
        fetch: Fetch,
        silence: float,
        round_id: Callable[[RoundKey], str],
    ) -> None:
        """join, trust: how its agent finds the network; work: its agent's folder; files: models as clients fetch them.

        room: to work on models; fetch: has the server's own objects; silence: seconds after which a client that
        neither listens nor says anything is gone.
        """
        self.member = member
        self.peer = ""
        """The connection that its stream came by."""
        self._join, self._trust, self._work = join, trust, work
        self._silence = silence
        self._fetch = fetch
        self._stream: _Stream | None = None
        self._heard = -silence
        self.heard_at = 0.0
        """POSIX seconds at which it was heard of last; 0: not since this server began."""
        self._running: asyncio.Task[None] | None = None
        self._agent: Agent | None = None
        self._barred: HansaError | None = None
        """Why the network, or this server, does not want it."""
        client = ClientInfo(member.node)
        self._client = client
        self.desk = Desk(
            client,
            member.client_id,
            work,
            files,
            room,
            here=lambda: self.is_here,
            hand_out=self._hand_out,
            validates=member.validates,
            round_id=round_id,
        )

    @property
    def is_here(self) -> bool:
        """Whether it listens, or was heard of lately."""
        return self._stream is not None or asyncio.get_running_loop().time() - self._heard < self._silence

    @property
    def listens(self) -> bool:
        """Whether a task that is given now reaches it."""
        return self._stream is not None

    def hear(self) -> None:
        """It has called; raises what the network has against it."""
        if self._barred is not None:
            raise self._barred
        self._heard, self.heard_at = asyncio.get_running_loop().time(), time.time()

    async def listen(self, peer: str) -> AsyncIterator[Errand]:
        """Its errands, each once for every stream, until another stream takes its place or the guest is sent away.

        Then it raises: a stream that ends in order would end the client. peer: the connection.
        """
        self.hear()
        self.arrive()
        if self._stream is not None:
            self._end(ReplacedError(f"another process listens as {self.member.client_id}: stop one of them"))
        stream = self._stream = _Stream(asyncio.Event(), deque(self.desk.listened()))
        self.peer = peer
        try:
            while stream.end is None:
                while stream.waiting:
                    errand = stream.waiting.popleft()
                    if self.desk.waits_for(errand):
                        yield errand
                stream.wake.clear()
                if not stream.waiting and stream.end is None:
                    await stream.wake.wait()
            raise stream.end
        finally:
            self._heard = asyncio.get_running_loop().time()
            if self._stream is stream:
                self._stream = None

    def answer(self, answer: Answer, key: RoundKey | None, kind: Kind, session: str = "") -> str:
        """Take what it has made of an errand; its agent comes for it, if it is not here. See `Desk.answer`."""
        self.arrive()
        return self.desk.answer(answer, key, kind, session)

    def become(self, member: Membership) -> None:
        """It has other facts about itself, under the same ids."""
        before, self.member = self.member, member
        if self._agent is not None and member.labels != before.labels:
            self._agent.relabel(member.labels)

    def report(self, values: Sequence[Sample]) -> None:
        """What it tells of its machine."""
        if self._agent is not None:
            self._agent.report(values)

    def has_learned(self) -> bool:
        """Whether its agent has kept updates of which it was not told what became."""
        return any((self._work / "outbox").glob("[!.]*"))

    def return_early(self) -> None:
        """This server was away: what the client had handed in before is offered, and the client has time to come."""
        self._heard = asyncio.get_running_loop().time()
        self.arrive()

    # ── its agent ────────────────────────────────────────────────────────────────────────────────────────────────

    def arrive(self) -> None:
        """It is there: have its agent join the network, unless it is in it, or may not be."""
        if self._running is None and self._barred is None:
            self._running = asyncio.create_task(self._serve(), name=f"FEDn client {self.member.node}")

    def end(self) -> None:
        """This server ends: who calls is told to come again, and no agent begins, which would stay behind."""
        self._barred = self._barred or ConnectionFailedError("this server ends: connect again")

    async def leave(self) -> None:
        """It is gone, or this server ends."""
        self._end(ConnectionFailedError("this server ends, or has not heard of this client for a while; connect again"))
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])

    async def _serve(self) -> None:
        self._work.mkdir(parents=True, exist_ok=True)
        member = self.member
        agent = self._agent = Agent(
            self._client,
            join=self._join,
            token=member.join_token,
            work=self._work,
            app=self._work,
            preferred=member.preferred,
            labels=member.labels,
            trust=self._trust,
            site=Site(self._work, _SITE),
            workshop=lambda *_: self.desk,
            fetch=self._fetch,
        )
        try:
            await agent.run()
        except HansaError as error:
            _log.warning("the network refuses a FEDn client", client=member.node, why=str(error))
            self._barred = error if isinstance(error, AuthenticationError) else PermissionDeniedError(str(error))
        else:
            self._barred = PermissionDeniedError(f"{member.node} was dismissed from this network")
        self._end(self._barred)

    def _hand_out(self, errand: Errand) -> bool:
        """Whether it listens."""
        if self._stream is None:
            return False
        self._stream.waiting.append(errand)
        self._stream.wake.set()
        return True

    def _end(self, why: HansaError) -> None:
        if self._stream is not None:
            self._stream.end = why
            self._stream.wake.set()
            self._stream = None
