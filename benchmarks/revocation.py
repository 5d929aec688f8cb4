"""How soon a client that is revoked while it uploads is out: its upload, its stream, and whether its update counts.

python benchmarks/revocation.py [--turns 10]

Two clients of a real network over TLS train the same round. One trickles its update, a kilobyte every hundredth of a
second, over a connection that it does not close by itself, and is revoked in the middle; the other delivers afterwards.
"""

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import grpc
import numpy as np
import structlog

import hansa
from hansa.arrays import Arrays
from hansa.errors import AuthenticationError, HansaError
from hansa.messages import Contribution, EvaluationRules, Kind, RoundRules, RunSpec
from hansa.network.client.signing import signed_offer
from hansa.network.entrance import Entrance
from hansa.network.link import Link
from hansa.network.local import PROJECT, LocalNetwork
from hansa.store.ports import Query
from hansa.store.records import ContributionRecord
from hansa.wire import channel, chunks, codec
from hansa.wire.frames import Admission, Blob, Hello, Offer, OpenRound, Role, ToNode, Verdict, Welcome
from hansa.wire.transport import GRPC

MODEL = Arrays({"w": np.ones(1_000_000, np.float32)})
UPDATE = b"".join(codec.encode(MODEL))


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of one client, in seconds after the revocation was asked for."""

    upload: float
    """Until its upload had ended, refused."""
    stream: float
    """Until its control stream had ended."""
    counted: tuple[str, ...]
    """Whose updates the round then held."""


@dataclass
class Party:
    """A client that trains nothing; `slow`: its upload takes ten seconds and more."""

    name: str
    slow: bool = False
    opened: "asyncio.Future[OpenRound]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: "asyncio.Future[float]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """When its upload was refused."""
    attached_to: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def join(self, network: LocalNetwork, below: str) -> None:
        """Connect below a combiner, or at the root; returns once it is connected."""
        token, _ = await network.controller.issue_token(PROJECT, self.name, Role.CLIENT)
        self.entrance = Entrance(network.server.address, token, network.folder / self.name, network.trust, GRPC)
        hello = Hello(Role.CLIENT, self.entrance.identity.instance, hansa.__version__)
        self.link = Link(self, entrance=self.entrance, hello=hello, preferred=below)
        self.running = asyncio.create_task(self.link.run())
        await self.attached_to.wait()

    def attached(self, welcome: Welcome) -> None:  # noqa: ARG002 - as a node of a link
        """It is connected."""
        self.attached_to.set()

    def detached(self, why: str) -> None:
        """Nothing to do."""

    def receive(self, frame: ToNode) -> None:
        """Take part."""
        match frame:
            case OpenRound(key=key) if key.kind is Kind.TRAIN and not self.opened.done():
                self.opened.set_result(frame)
            case Admission():
                self.sending = asyncio.create_task(self.send(frame))
            case Verdict():
                self.settled.set()
            case _:
                pass

    async def offer(self) -> None:
        """Offer the update, once there is a round."""
        opened = await self.opened
        blob = Blob(codec.digest(MODEL), len(UPDATE))
        offer = Offer(opened.key, self.name, blob, (Contribution(self.name, 1),), base=opened.model.digest)
        self.link.send(signed_offer(offer, self.entrance.identity))

    async def send(self, admission: Admission) -> None:
        """Upload what was offered, at once or by trickles."""
        if not self.slow:
            await self.link.upload(admission.upload, [memoryview(UPDATE)], admission.offset)
            return
        place = self.link._parent  # noqa: SLF001 - the link closes its own transfers; this one only the server ends
        if place is None:
            return
        way = self.entrance.dial(place)
        try:
            await channel.upload(way, await self.entrance.access(), admission.upload, self.trickling())
        except AuthenticationError:
            self.ended.set_result(time.monotonic())
        except HansaError as error:
            self.ended.set_exception(error)
        finally:
            await way.close()

    async def trickling(self) -> AsyncIterator[bytes]:
        """Some 100 kB/s."""
        for offset in range(0, len(UPDATE), 1000):
            yield chunks.frame(offset, UPDATE[offset : offset + 1000])
            if offset >= len(UPDATE) // 100:
                self.begun.set()
            await asyncio.sleep(0.01)


async def measure(folder: Path, *, below: str = "") -> Revoked:
    """Revoke a client in the middle of its upload. below: the combiner that both clients hang on; empty: the root."""
    async with LocalNetwork.open(folder, [below] if below else []) as network:
        ward, other = Party("ward", slow=True), Party("other")
        for party in (ward, other):
            await party.join(network, below)
        controller = network.controller
        model = await controller.artifacts.add_model(PROJECT, UPDATE)
        rules = RoundRules(min_clients=2, quorum=1)
        spec = RunSpec(rounds=1, rules=rules, evaluation=EvaluationRules(every=0))
        session = await controller.sessions.create(PROJECT, spec, seed_model=model.id)
        await controller.sessions.start(PROJECT, session.id)
        await ward.offer()
        await ward.begun.wait()
        asked = time.monotonic()
        await controller.nodes.revoke(PROJECT, "ward", by="an operator")
        upload = await ward.ended
        try:
            await ward.running
        except AuthenticationError:  # told why, and not to come again
            stream = time.monotonic()
        await other.offer()
        await network.end(session)
        page = await controller.store.list(ContributionRecord, Query(PROJECT, {"session": session.id}))
        other.running.cancel()
        counted = tuple(sorted(part.client for part in page.items if part.outcome == "accepted"))
        return Revoked(upload - asked, stream - asked, counted)


def main() -> None:
    """Print the longest of some turns, at the root and below a combiner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(
        f"python {platform.python_version()}, grpc {grpc.__version__}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for below in ("", "west"):
        turns = []
        for _ in range(given.turns):
            with tempfile.TemporaryDirectory() as folder:
                turns.append(asyncio.run(measure(Path(folder), below=below)))
        if strangers := {turn.counted for turn in turns} - {("other",)}:
            raise RuntimeError(f"other updates counted than that of the client which was not revoked: {strangers}")
        upload, stream = (sorted(getattr(turn, what) for turn in turns) for what in ("upload", "stream"))
        print(
            f"{'below a combiner' if below else 'at the root'}, {len(turns)} turns, ms after the request, median and "
            f"longest: the upload ended {1000 * median(upload):.0f}, {1000 * upload[-1]:.0f}; "
            f"the stream ended {1000 * median(stream):.0f}, {1000 * stream[-1]:.0f}; its update counted never"
        )


if __name__ == "__main__":
    main()
