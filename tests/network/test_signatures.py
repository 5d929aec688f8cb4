"""What is not signed by the one whose it is said to be is not counted, at the first server and at the root."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federation import PROJECT, Federation, federation

from hansa.arrays import Arrays
from hansa.errors import Reason, UpdateRejectedError
from hansa.messages import Contribution, EvaluationRules, Kind, RoundRules, RunSpec, Signature
from hansa.network.client.signing import signed_offer, signed_report
from hansa.network.combiner.signatures import check_offer, check_report
from hansa.network.entrance import Entrance
from hansa.network.link import Link
from hansa.statements import Part, update_statement
from hansa.store.records import SessionState
from hansa.wire import codec
from hansa.wire.frames import Blob, Evaluated, Hello, Offer, OpenRound, Role, RoundKey, ToNode, Verdict, Welcome
from hansa.wire.node_key import NodeKey
from hansa.wire.transport import GRPC

CHANGE = Arrays({"w": np.full(50, 0.25, np.float32), "steps": np.ones((), np.int64)})
DATA = b"".join(codec.encode(CHANGE))
BLOB = Blob(codec.digest(CHANGE), len(DATA), DATA)


class Scripted:
    """A client that answers a task with a good update, which it signs, and then changes."""

    def __init__(self, name: str, change: Callable[[Offer], Offer]) -> None:
        self.name, self.change = name, change
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()

    def attached(self, welcome: Welcome) -> None:
        pass

    def detached(self, why: str) -> None:
        pass

    def receive(self, frame: ToNode) -> None:
        if isinstance(frame, OpenRound) and frame.key.kind is Kind.TRAIN:
            offer = Offer(frame.key, self.name, BLOB, (Contribution(self.name, 7),), base=frame.model.digest)
            self.link.send(self.change(signed_offer(offer, self.entrance.identity)))
        if isinstance(frame, Verdict) and not self.verdict.done():
            self.verdict.set_result(frame)

    async def run(self, made: Federation) -> None:
        token, _ = await made.controller.issue_token(PROJECT, self.name, Role.CLIENT)
        self.entrance = Entrance(made.server.address, token, made.folder / self.name, made.trust, GRPC)
        self.link = Link(self, entrance=self.entrance, hello=Hello(Role.CLIENT, self.entrance.identity.instance, "0"))
        await self.link.run()


def part_as(**changes: object) -> Callable[[Offer], Offer]:
    return lambda offer: replace(offer, contributions=(replace(offer.contributions[0], **changes),))  # type: ignore[arg-type]


def signed_by_another(offer: Offer) -> Offer:
    part = Part(PROJECT, offer.key.run, offer.key.round, offer.sender, offer.base)
    return part_as(signature=NodeKey.new().sign(update_statement(part, offer.blob.digest, 7, {})))(offer)


def from_another_model(offer: Offer) -> Offer:
    return replace(offer, base="ab" * 32)


@pytest.mark.parametrize("combiners", [[], ["only"]], ids=["at the root", "at a combiner"])
@pytest.mark.parametrize(
    "change",
    [
        part_as(signature=None),
        part_as(num_examples=8),
        part_as(metrics={"loss": 0.0}),
        part_as(signature=Signature("ed25519:" + "00" * 32, "00" * 64)),
        signed_by_another,
        from_another_model,
    ],
    ids=["no signature", "another weight", "other metrics", "noise", "another's key", "another model"],
)
async def test_an_update_that_its_client_has_not_signed_so_is_rejected(
    app: Path, tmp_path: Path, change: Callable[[Offer], Offer], combiners: list[str]
) -> None:
    rules = RoundRules(min_clients=2, quorum=1, deadline=60, replace_failed=False)
    async with federation(tmp_path, combiners) as made:
        hostile = Scripted("hostile", change)
        made.nodes["hostile"] = asyncio.create_task(hostile.run(made))
        await made.clients(1)
        spec = RunSpec(rounds=1, rules=rules, evaluation=EvaluationRules(every=0))
        session = await made.run(app, spec)
        verdict = await hostile.verdict
        rows = {row.client: row for row in await made.contributions(session)}
    assert session.state is SessionState.FINISHED, session.cause
    assert (verdict.accepted, verdict.reason) == (False, Reason.UNSIGNED)
    assert rows["hostile"].outcome == "rejected"
    assert rows["hostile"].reason.startswith("unsigned: ")
    assert rows["client-0"].outcome == "accepted"


async def test_what_is_signed_as_it_is_sent_is_counted(app: Path, tmp_path: Path) -> None:
    rules = RoundRules(min_clients=2, quorum=2, deadline=60)
    async with federation(tmp_path, ["only"]) as made:
        scripted = Scripted("scripted", lambda offer: offer)
        made.nodes["scripted"] = asyncio.create_task(scripted.run(made))
        await made.clients(1)
        session = await made.run(app, RunSpec(rounds=1, rules=rules, evaluation=EvaluationRules(every=0)))
        rows = {row.client: row for row in await made.contributions(session)}
    assert session.state is SessionState.FINISHED, session.cause
    assert rows["scripted"].outcome == "accepted"
    assert (rows["scripted"].signer or "").startswith("ed25519:")


# ── what a combiner says of its clients ──────────────────────────────────────────────────────────────────────────

KEY = RoundKey("run", 1, Kind.TRAIN)
BASE = "b" * 64


class Identity:
    """As much of a node's as signing needs."""

    def __init__(self, name: str) -> None:
        self.key = NodeKey.new()
        self.holder = type("Holder", (), {"project": PROJECT, "name": name})
        self.sign = self.key.sign


@pytest.fixture
def identities() -> dict[str, Identity]:
    return {name: Identity(name) for name in ("ann", "bob")}


def a_sum(identities: dict[str, Identity]) -> Offer:
    parts = []
    for name, identity in identities.items():
        offer = Offer(KEY, name, Blob("c" * 64, 6), (Contribution(name, 7, {"loss": 0.5}),), base=BASE)
        (part,) = signed_offer(offer, identity).contributions  # type: ignore[arg-type]
        parts.append(replace(part, digest="c" * 64))
    return Offer(KEY, "west", Blob("d" * 64, 6), tuple(parts), partial=True, weight=14)


def test_a_sum_that_its_contributors_have_signed_is_taken(identities: dict[str, Identity]) -> None:
    check_offer(a_sum(identities), PROJECT, BASE, lambda name: identities[name].key.public)


@pytest.mark.parametrize(
    "changes",
    [{"num_examples": 8}, {"metrics": {"loss": 0.4}}, {"digest": "e" * 64}, {"client": "ann"}, {"signature": None}],
    ids=str,
)
def test_a_combiner_can_change_nothing_of_what_a_client_has_said(
    identities: dict[str, Identity], changes: dict[str, object]
) -> None:
    whole = a_sum(identities)
    forged = replace(whole, contributions=(whole.contributions[0], replace(whole.contributions[1], **changes)))  # type: ignore[arg-type]
    with pytest.raises(UpdateRejectedError):
        check_offer(forged, PROJECT, BASE, lambda name: identities[name].key.public)


@pytest.mark.parametrize(("project", "base"), [("other", BASE), (PROJECT, "e" * 64)])
def test_a_sum_of_another_project_or_model_is_not_taken(
    identities: dict[str, Identity], project: str, base: str
) -> None:
    with pytest.raises(UpdateRejectedError, match="does not hold"):
        check_offer(a_sum(identities), project, base, lambda name: identities[name].key.public)


def test_a_sum_with_one_who_was_revoked_is_not_taken(identities: dict[str, Identity]) -> None:
    keys = {"ann": identities["ann"].key.public, "bob": ""}
    with pytest.raises(UpdateRejectedError, match="bob is no member"):
        check_offer(a_sum(identities), PROJECT, BASE, lambda name: keys[name])


def test_a_report_is_taken_as_it_was_signed_and_not_otherwise(identities: dict[str, Identity]) -> None:
    ann = identities["ann"]
    report = Evaluated(replace(KEY, kind=Kind.EVALUATE), "ann", 5, {"accuracy": 0.5})
    signed = signed_report(report, BASE, ann)  # type: ignore[arg-type]
    check_report(signed, PROJECT, BASE, lambda _: ann.key.public)
    check_report(report, PROJECT, BASE, lambda _: None)
    for forged in (report, replace(signed, num_examples=6), replace(signed, metrics={"accuracy": 0.6})):
        with pytest.raises(UpdateRejectedError):
            check_report(forged, PROJECT, BASE, lambda _: ann.key.public)
    with pytest.raises(UpdateRejectedError):
        check_report(signed, PROJECT, "e" * 64, lambda _: ann.key.public)
