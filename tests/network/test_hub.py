"""One aggregation server, with nodes that lose their way, come back, or mean harm."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from rig import KEY, LARGE, MODEL, blob_of, filled, parts_of, rig

from hansa.arrays import Arrays
from hansa.errors import ConflictError, NotFoundError, PermissionDeniedError, Reason, StorageError, WireError
from hansa.messages import Contribution, Kind, RoundRules, RunSpec
from hansa.network.combiner import service
from hansa.wire.channel import Stream
from hansa.wire.frames import (
    SENDS_ON,
    Admission,
    Blob,
    Closed,
    Evaluated,
    FromNode,
    Hello,
    LogLine,
    Offer,
    OpenRound,
    Presence,
    Present,
    Progress,
    Redirect,
    Role,
    RoundKey,
    Seal,
    SendOn,
    Settled,
    TaskFailed,
    TaskStarted,
    ToNode,
    Verdict,
    Welcome,
    Withdraw,
)

OTHER = RoundKey("other", 1, Kind.TRAIN)


def client(name: str) -> Hello:
    return Hello(Role.CLIENT, f"process of {name}", "0")


def combiner(name: str, address: str = "127.0.0.1:1") -> Hello:
    return Hello(Role.COMBINER, f"process of {name}", "0", address=address)


async def test_clients_are_sent_on_here_and_below_by_who_knows_how() -> None:
    async with rig() as made, made.stream("ward") as ward:
        await ward.send(client("ward"))
        assert isinstance(await ward.receive(), Welcome)
        knows = replace(combiner("west"), capabilities=(SENDS_ON,))
        async with made.node("west", knows) as west, made.node("east", combiner("east")) as east:
            for node, name in ((west, "far"), (east, "old")):
                node.send(Presence(joined=(Present(name, {}, node.name),)))
            there: set[str] = set()
            while there != {"ward", "far", "old"}:
                there |= {present.client for present in (await made.told(Presence)).joined}
            for name in ("ward", "far", "old"):
                made.hub.receive_from_parent(SendOn(name, "there is a better one"))
            made.hub.receive_from_parent(Withdraw(KEY, "old", "for another reason"))
            assert await ward.receive() == Redirect("there is a better one")
            assert await west.told(SendOn) == SendOn("far", "there is a better one")
            assert isinstance(await east.frames.get(), Withdraw)  # of another version: it would not know the word


# ── presence ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_that_replaces_another_is_told_as_left_and_then_joined() -> None:
    async with rig() as made, made.node("ward"):
        assert (await made.told(Presence)).joined[0].client == "ward"
        async with made.stream("ward") as again:
            await again.send(client("ward"))
            first, second = await made.told(Presence), await made.told(Presence)
            assert (first.left, first.joined) == (("ward",), ())
            assert (second.left, second.joined[0].client) == ((), "ward")


async def test_the_stream_that_is_replaced_is_told_why() -> None:
    async with rig() as made, made.stream("ward") as first, made.stream("ward") as second:
        await first.send(client("ward"))
        assert isinstance(await first.receive(), Welcome)
        await second.send(client("ward"))
        assert await first.receive() == Redirect("the same node has connected again")
        assert await first.receive() is None


async def test_another_process_with_the_name_of_a_living_one_is_refused() -> None:
    async with rig() as made, made.node("ward"), made.stream("ward") as thief:
        await thief.send(replace(client("ward"), instance="another"))
        with pytest.raises(ConflictError, match="connected already, from another process"):
            await thief.receive()


async def test_the_labels_of_a_client_make_no_combiner_of_it() -> None:
    labels = {"address": "evil.example.org:1", "version": "9", "site": "north"}
    async with rig() as made, made.node("ward", replace(client("ward"), labels=labels)):
        present = (await made.told(Presence)).joined[0]
        assert present.labels == {"site": "north", "version": "0"}
        assert made.hub.children.everyone().combiners == ()


async def test_who_offered_without_an_invitation_is_told_when_the_phase_ends() -> None:
    """Its invitation may have been on the way to another server; the update must not stay in its outbox for ever."""
    async with rig() as made, made.node("ward"), made.node("mover") as mover:
        made.open("ward")
        mover.send(Offer(KEY, "mover", blob_of(MODEL), (Contribution("mover", 1),)))
        assert (await mover.told(Verdict)).reason is Reason.NOT_INVITED
        made.hub.receive_from_parent(Closed(KEY, committed=("ward",)))
        assert (await mover.told(Closed)).committed == ()


@pytest.mark.parametrize("name", ["root", "central", "hub", "north"])
async def test_a_combiner_cannot_claim_a_name_above_it(name: str) -> None:
    async with rig() as made, made.stream("north", Role.COMBINER) as stream:
        await stream.send(combiner("north"))
        assert isinstance(await stream.receive(), Welcome)
        await stream.send(Presence(combiners=(Present(name, {"address": "evil:1"}),)))
        with pytest.raises(PermissionDeniedError, match="cannot have"):
            await stream.receive()


@pytest.mark.parametrize("address", ["", "nowhere", "http://north:1", "north:99999"])
async def test_a_combiner_that_tells_clients_to_dial_nothing_is_refused(address: str) -> None:
    async with rig() as made, made.stream("north", Role.COMBINER) as stream:
        await stream.send(combiner("north", address))
        with pytest.raises(WireError, match="tells its clients to dial"):
            await stream.receive()


async def test_what_a_node_says_of_itself_is_bounded() -> None:
    for labels in ({"site": "x" * 300}, {str(i): "" for i in range(65)}):
        async with rig() as made, made.stream("ward") as stream:
            await stream.send(replace(client("ward"), labels=labels))
            with pytest.raises(WireError, match="use fewer, shorter ones"):
                await stream.receive()


async def test_a_client_that_moves_to_another_combiner_is_told_as_left_and_joined_and_its_first_stays() -> None:
    """What the first combiner still says of it is dropped; only what it has summed counts."""
    async with (
        rig() as made,
        made.node("north", combiner("north")) as north,
        made.node("south", combiner("south")) as s,
    ):
        here = Present("ward", {}, "north")
        north.send(Presence(joined=(here,)))
        while (presence := await made.told(Presence)).joined != (here,):
            assert not presence.joined
        made.open("ward")
        await north.told(OpenRound)
        moved = replace(here, combiner="south")
        s.send(Presence(joined=(moved,)))
        assert await made.told(Presence) == Presence((moved,), ("ward",), ())

        north.send(TaskStarted(KEY, "ward"))  # late: dropped
        north.send(Settled(KEY, "ward", accepted=True, num_examples=3))  # true: it is in the sum of north
        north.send(Presence(left=("ward",)))  # late: it is below south by now
        assert isinstance(await made.frames.get(), Settled)
        assert await made.told(Presence) == Presence()
        made.hub.receive_from_parent(Closed(KEY))
        assert await north.told(Closed) == Closed(KEY)


# ── offers ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_update_is_folded_once_whoever_repeats_it() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward")
        for _ in range(3):
            ward.offer(filled(0.5))
        for _ in range(3):
            ward.offer(filled(0.25))
        verdicts = [await ward.told(Verdict)]
        while verdicts[-1].accepted:
            verdicts.append(await ward.told(Verdict))
        assert verdicts[-1].reason is Reason.DUPLICATE
        partial = await made.sealed()
        assert partial is not None
        assert partial.weight == 1


async def test_ten_thousand_offers_of_one_client_are_two_at_most_and_keep_nobody_from_a_slot() -> None:
    async with rig(slots=1, lease=30) as made, made.node("villain") as villain, made.node("ward") as ward:
        made.open("villain", "ward", model=LARGE)
        villain.offer(LARGE, inline=False)
        first = await villain.told(Admission)
        ward.offer(filled(0.5, LARGE), inline=False)
        while (await made.told(Progress)).client != "ward":
            pass
        offer = Offer(KEY, "villain", Blob("0" * 64, 4_000_000), (Contribution("villain", 1),))
        child = made.hub.children.streams["villain"]
        for number in range(10_000):
            made.hub.receive(child, replace(offer, blob=replace(offer.blob, digest=f"{number:064x}")))
        assert len(made.hub._offers) == 2
        assert made.hub._uploads.get(first.upload) is not None
        admission = await ward.told(Admission)  # the villain's first was given up, its newest waits behind
        await ward.link.upload(admission.upload, parts_of(filled(0.5, LARGE)), 0)
        assert (await ward.told(Verdict)).accepted


async def test_inline_bytes_of_another_digest_are_rejected() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward")
        good = blob_of(filled(0.5))
        ward.send(Offer(KEY, "ward", replace(good, digest="0" * 64), (Contribution("ward", 1),)))
        assert (await ward.told(Verdict)).reason is Reason.DIGEST
        assert (await made.told(Settled)).reason is Reason.DIGEST
        assert await made.sealed() is None


async def test_an_update_that_is_too_large_is_refused_before_a_byte_is_taken() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward")
        ward.send(Offer(KEY, "ward", Blob("0" * 64, 10**15), (Contribution("ward", 1),)))
        verdict = await ward.told(Verdict)
        assert verdict.reason is Reason.TOO_LARGE
        assert "1,000,000,000,000,000 bytes" in verdict.detail
        assert ward.frames.empty()


async def test_a_metric_with_a_name_like_a_book_is_refused() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward")
        contribution = Contribution("ward", 1, {"x" * 4000: 1.0})
        ward.send(Offer(KEY, "ward", blob_of(filled(0.5)), (contribution,)))
        assert (await ward.told(Verdict)).reason is Reason.TOO_LARGE


async def test_an_offer_for_a_round_that_is_not_open_is_answered() -> None:
    async with rig() as made, made.node("ward") as ward:
        ward.offer(filled(0.5), key=OTHER)
        assert (await ward.told(Verdict)).reason is Reason.UNKNOWN_ROUND


async def test_a_late_offer_after_the_commit_learns_that_it_counted() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.open("ward")
        ward.offer(filled(0.5))
        assert (await ward.told(Verdict)).accepted
        await made.sealed()
        made.hub.receive_from_parent(Closed(KEY, ("ward", "someone else")))
        assert await ward.told(Closed) == Closed(KEY, ("ward",))
        ward.offer(filled(0.5))
        assert await ward.told(Closed) == Closed(KEY, ("ward",))


async def test_whose_turn_comes_after_a_reconnect_is_told_on_the_new_stream() -> None:
    async with rig(slots=1, lease=30) as made, made.node("first") as first:
        made.open("first", "second", model=LARGE)
        first.offer(LARGE, inline=False)
        admission = await first.told(Admission)
        async with made.node("second") as second:
            made.open("second", model=LARGE)
            offer = second.offer(filled(0.5, LARGE), inline=False)
            assert (await made.told(Progress)).activity in {"queue", "upload"}
            while (await made.told(Progress)).client != "second":
                pass
        async with made.node("second") as second:
            second.send(offer)
            await first.link.upload(admission.upload, parts_of(LARGE), 0)
            assert (await first.told(Verdict)).accepted
            assert (await second.told(Admission)).offset == 0


async def test_an_offer_for_a_round_that_opens_anew_is_taken_though_the_old_one_is_not_out_of_the_way() -> None:
    async with rig() as made, made.node("ann") as ann:
        made.open("ann", model=LARGE)
        offer = ann.offer(filled(1.0, LARGE), inline=False)
        await ann.told(Admission)

        made.hub.reset()
        made.open("ann", model=LARGE)
        made.hub.receive(made.hub.children.streams["ann"], offer)

        assert (await ann.told(Verdict)).reason is Reason.LATE
        admission = await ann.told(Admission)
        await ann.link.upload(admission.upload, parts_of(filled(1.0, LARGE)), admission.offset)
        assert (await ann.told(Verdict)).accepted


async def test_an_offer_for_a_round_that_is_over_above_is_no_failure_of_its_client() -> None:
    async with rig() as made, made.node("ann") as ann:
        made.broken = NotFoundError("the object is not needed by any round that is open here")
        made.open("ann", model=LARGE)
        ann.offer(filled(1.0, LARGE), inline=False)

        assert (await ann.told(Verdict)).reason is Reason.UNKNOWN_ROUND
        told = [made.frames.get_nowait() for _ in range(made.frames.qsize())]
        assert not [frame for frame in told if isinstance(frame, TaskFailed)]


async def test_a_client_that_waits_for_its_turn_keeps_its_lease() -> None:
    spec = RunSpec(name="run", rules=RoundRules(lease=0.3))
    async with rig(slots=1, lease=30) as made, made.node("first") as first, made.node("second") as second:
        made.open("first", "second", model=LARGE, spec=spec)
        first.offer(LARGE, inline=False)
        await first.told(Admission)
        second.offer(filled(0.5, LARGE), inline=False)
        told = 0
        while told < 3:
            progress = await made.told(Progress)
            told += (progress.client, progress.activity) == ("second", "queue")


# ── sums ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_clients_that_wait_for_their_server_to_have_the_model_keep_their_leases() -> None:
    async with rig() as made, made.node("ward"):
        made.there.clear()
        made.open("ward", model=LARGE, spec=RunSpec(name="run", rules=RoundRules(lease=0.1)))
        for _ in range(2):
            said = await made.told(Progress)
            assert (said.client, said.activity, said.total) == ("ward", "model", blob_of(LARGE).size)
        made.there.set()


async def test_a_seal_is_answered_once_also_where_nothing_is_known_of_the_round() -> None:
    async with rig() as made:
        assert await made.sealed(RoundKey("run", 7, Kind.TRAIN)) is None


async def test_a_sum_that_nobody_asked_for_is_refused() -> None:
    async with rig() as made, made.node("north", combiner("north")) as north:
        north.send(Presence(joined=(Present("ward", {}, "north"),)))
        await made.told(Presence)
        await made.told(Presence)
        made.open("ward")
        north.send(Offer(KEY, "north", blob_of(MODEL), (Contribution("ward", 1),), partial=True, weight=1))
        verdict = await north.told(Verdict)
        assert verdict.reason is Reason.LATE
        assert "no sum of north is awaited" in verdict.detail


@pytest.mark.parametrize(
    ("blob", "clients", "reason"),
    [
        (blob_of(Arrays({"w": np.zeros(10, np.int64)})), ("stranger",), Reason.NOT_INVITED),
        (Blob("0" * 64, 2**62), ("ward",), Reason.TOO_LARGE),
        (blob_of(MODEL), ("ward",), Reason.STRUCTURE),
        (replace(blob_of(MODEL), inline=b"x" * blob_of(MODEL).size), ("ward",), Reason.DIGEST),
    ],
    ids=["a stranger in it", "larger than memory", "no integers", "other bytes"],
)
async def test_a_bad_sum_is_refused_with_its_reason_and_the_seal_is_answered(
    blob: Blob, clients: tuple[str, ...], reason: Reason
) -> None:
    async with rig() as made, made.node("north", combiner("north")) as north:
        north.send(Presence(joined=(Present("ward", {}, "north"),)))
        await made.told(Presence)
        await made.told(Presence)
        made.open("ward")
        made.hub.receive_from_parent(Seal(KEY))
        await north.told(Seal)
        contributions = tuple(Contribution(name, 1) for name in clients)
        north.send(Offer(KEY, "north", blob, contributions, partial=True, weight=1))
        assert (await north.told(Verdict)).reason is reason
        assert await made.sums.get() is None


async def test_a_combiner_that_is_lost_while_it_owes_a_sum_is_not_waited_for() -> None:
    async with rig() as made:
        async with made.node("north", combiner("north")) as north:
            north.send(Presence(joined=(Present("ward", {}, "north"),)))
            await made.told(Presence)
            await made.told(Presence)
            made.open("ward")
            made.hub.receive_from_parent(Seal(KEY))
            await north.told(Seal)
            assert made.sums.empty()
        assert await made.sums.get() is None


async def test_a_combiner_that_reconnects_while_it_owes_a_sum_is_not_waited_for() -> None:
    async with rig() as made, made.node("north", combiner("north")) as north:
        north.send(Presence(joined=(Present("ward", {}, "north"),)))
        await made.told(Presence)
        await made.told(Presence)
        made.open("ward")
        made.hub.receive_from_parent(Seal(KEY))
        await north.told(Seal)
        async with made.stream("north", Role.COMBINER) as again:
            await again.send(combiner("north"))
            assert await made.sums.get() is None


async def test_an_object_that_cannot_be_had_is_told_of_by_name_and_the_seal_is_answered() -> None:
    async with rig() as made, made.node("ward") as ward:
        made.broken = StorageError("the disk is full")
        made.open("ward", model=LARGE)
        ward.offer(filled(0.5, LARGE), inline=False)
        failed = await made.told(TaskFailed)
        assert failed.client == "ward"
        assert "hub could not take the update: StorageError: the disk is full" in failed.message
        assert await made.sealed() is None


# ── hostile streams ──────────────────────────────────────────────────────────────────────────────────────────────


async def to_its_end(stream: Stream[FromNode, ToNode]) -> None:
    while await stream.receive() is not None:
        pass


@pytest.mark.parametrize(
    "frame",
    [
        TaskStarted(KEY, "other"),
        Progress(KEY, "other", "train", 1, 2),
        TaskFailed(KEY, "other", "no"),
        Evaluated(KEY, "other", 1, {}),
        LogLine(KEY, "other", "line"),
        Settled(KEY, "villain", accepted=True),
        Presence(left=("other",)),
        Offer(KEY, "other", blob_of(MODEL), (Contribution("other", 1),)),
        Offer(KEY, "villain", blob_of(MODEL), (Contribution("other", 1),)),
        Offer(KEY, "villain", blob_of(MODEL), (Contribution("villain", 1), Contribution("other", 1))),
        Offer(KEY, "villain", blob_of(MODEL), ()),
        Offer(KEY, "villain", blob_of(MODEL), (Contribution("villain", 1),), partial=True),
        Hello(Role.CLIENT, "process of villain", "0"),
    ],
    ids=lambda frame: type(frame).__name__,
)
async def test_who_speaks_for_another_loses_its_stream_and_nothing_has_happened(frame: FromNode) -> None:
    async with rig() as made, made.node("other"), made.stream("villain") as stream:
        made.open("other", "villain")
        await stream.send(client("villain"))
        assert isinstance(await stream.receive(), Welcome)
        await stream.send(frame)
        with pytest.raises(PermissionDeniedError):
            await to_its_end(stream)
        while made.frames.qsize():
            assert isinstance(await made.frames.get(), Presence)
        assert await made.sealed() is None


@pytest.mark.parametrize("frame", [TaskStarted(KEY, "villain"), Hello(Role.COMBINER, "1", "0", address="a:1")])
async def test_a_stream_begins_with_a_hello_of_the_role_of_its_token(frame: FromNode) -> None:
    async with rig() as made, made.stream("villain") as stream:
        await stream.send(frame)
        with pytest.raises(WireError, match="must begin with a Hello of the role client"):
            await stream.receive()


async def test_a_node_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_BACKLOG", 20)
    block = Arrays({"w": np.zeros(15_000, np.float32)})
    async with rig(lease=60) as made, made.stream("villain") as stream:
        await stream.send(client("villain"))
        assert (await made.told(Presence)).joined
        for number in range(1, 2000):
            made.open("villain", model=block, key=RoundKey("run", number, Kind.TRAIN))
            if number % 10 == 0:
                await asyncio.sleep(0)
            if not made.hub.children.streams:
                break
        assert (await made.told(Presence)).left == ("villain",)


async def test_a_flood_of_progress_is_read_at_a_measured_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_BURST", 10)
    monkeypatch.setattr(service, "_PER_SECOND", 100)
    loop = asyncio.get_running_loop()
    async with rig() as made, made.stream("villain") as stream:
        await stream.send(client("villain"))
        began = loop.time()
        for number in range(60):
            await stream.send(Progress(KEY, "villain", "train", number, 60))
        for _ in range(60):
            await made.told(Progress)
        assert loop.time() - began >= 0.45
