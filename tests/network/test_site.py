"""What a data owner allows is what happens, whatever a session asks for; and what leaves is written down."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from hansa.errors import ConfigError, CorruptionError, NotFoundError
from hansa.evidence.receipts import Receipt, keep_receipt, read_receipts
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.client import ledger
from hansa.network.client.approvals import Approvals, Request
from hansa.network.client.ledger import LEDGER, Departure, append, departures
from hansa.network.client.policy import Outbound, SitePolicy, read_policy
from hansa.network.client.site import Site
from hansa.network.client.telling import Telling
from hansa.network.local import PROJECT, LocalNetwork
from hansa.packages.package import build, read
from hansa.packages.signature import new_key, read_key
from hansa.store.ports import Query
from hansa.store.records import EventRecord, SessionRecord, SessionState
from hansa.wire.frames import Blob, FromNode, OpenRound, RoundKey, TaskFailed

APP = """
import os, sys
import numpy as np
import hansa

open(os.path.join(MARKS, "loaded"), "w").close()
app = hansa.App()

@app.model
def model(rng):
    return {"w": np.zeros(3, np.float32)}

@app.train
def train(model, task):
    print("forty-two patients")
    if task.config.get("fail"):
        raise ValueError("patient 7 has no name")
    return hansa.Update({"w": model["w"] + 1}, num_examples=3, metrics={"loss": 1.0, "secret": 7.0})

@app.evaluate
def evaluate(model, task):
    return hansa.Metrics({"accuracy": 0.5, "secret": 7.0}, num_examples=3)
"""

ONE = RoundRules(deadline=30, lease=20, replace_failed=False)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    path = tmp_path / "app" / "app.py"
    path.parent.mkdir()
    path.write_text(APP.replace("MARKS", repr(str(tmp_path / "marks"))))
    return path


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[LocalNetwork]:
    async with LocalNetwork.open(tmp_path / "network") as made:
        yield made


def policy(text: str, folder: Path) -> SitePolicy:
    file = folder / "site.toml"
    file.write_text(text)
    return read_policy(file)


async def events(network: LocalNetwork, session: SessionRecord, kind: str) -> list[EventRecord]:
    query = Query(PROJECT, where={"session": session.id, "kind": kind}, limit=100)
    return list((await network.controller.store.list(EventRecord, query)).items)


async def run(network: LocalNetwork, app: Path, **config: object) -> SessionRecord:
    spec = RunSpec(name="heart", rounds=1, rules=ONE, config=config)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        return await network.run(app, spec)


async def refusal(network: LocalNetwork, app: Path, tmp_path: Path) -> str:
    """What the session is told; nothing of its code was loaded by the client."""
    session = await network.create(app, RunSpec(name="heart", rounds=1, rules=ONE))
    (tmp_path / "marks" / "loaded").unlink()  # the operator's own process has loaded it
    async with asyncio.timeout(60):
        await network.controller.sessions.start(PROJECT, session.id)
        ended = await network.end(session)
    assert ended.state is SessionState.FAILED
    assert not (tmp_path / "marks" / "loaded").exists()
    told = await events(network, session, "task.failed")
    assert "ward refuses this session" in (ended.cause or "")
    return told[0].message


# ── a session ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ('projects = ["other"]', "sessions of the project 'default' do not run here, only of other"),
        ("[privacy]\nmax_norm = 1.0", "updates must be clipped to a norm of 1 or less; this session clips nothing"),
        ("[privacy]\nmin_noise = 0.5", "updates must carry noise of at least 0.5; this session adds none"),
        ("[hours]\ndays = []", "tasks begin here on"),
        ("[code]\ndigests = []", "(signed by nobody) is not among those that may run here"),
        (f'[code]\nsigners = ["ed25519:{"0" * 64}"]', "nor is its signer"),
        (f'[code]\ndigests = ["{"0" * 64}"]', "is not among those that may run here"),
    ],
)
async def test_what_the_site_does_not_allow_is_refused_before_code_is_loaded_and_the_session_is_told_why(
    rules: str, said: str, network: LocalNetwork, app: Path, tmp_path: Path
) -> None:
    await network.client("ward", policy=policy(rules, tmp_path))
    told = await refusal(network, app, tmp_path)
    assert "ward refuses this session: this site's policy: " in told
    assert said in told
    assert departures(tmp_path / "network" / "ward" / "ledger.jsonl") == []


CLIPPED = "clip:norm=0.5"
NOISED = "gaussian-noise:multiplier=0.5"


@pytest.mark.parametrize(
    ("rules", "transforms", "said"),
    [
        ("max_norm = 1.0", [CLIPPED], ""),
        ("max_norm = 1.0", ["clip:norm=2"], "a norm of 1 or less; this session clips to 2"),
        ("max_norm = 1.0", [CLIPPED, "top-k"], "this session clips nothing"),
        ("max_norm = 1.0", ["clip:norm=0.5,order=1"], ""),
        ("max_norm = 1.0", [CLIPPED, NOISED, "top-k", "quantize"], ""),
        ("max_norm = 1.0\nmin_noise = 0.5", [CLIPPED, NOISED], ""),
        ("min_noise = 0.6", [CLIPPED, NOISED], "noise of at least 0.6; this session adds 0.5"),
        ("min_noise = 0.5", [CLIPPED, NOISED + ",seeded=true"], "this session adds what its seed tells"),
        ("min_noise = 0.5", [CLIPPED, "central-noise:multiplier=9,clients=2"], "this session adds none here"),
        ("min_noise = 0.5", ["unheard-of"], "what its transforms do is not known here: there is no 'unheard-of'"),
    ],
)
def test_the_least_protection_is_held_against_what_the_session_does(
    rules: str, transforms: list[str], said: str, tmp_path: Path
) -> None:
    spec = RunSpec(transforms=transforms)  # type: ignore[arg-type]  # as a user writes them
    refusal = policy(f"[privacy]\n{rules}", tmp_path).refusal_of_run(spec, datetime.now())  # noqa: DTZ005 - any time
    assert said in refusal
    assert bool(refusal) == bool(said)


def test_noise_is_as_good_as_the_code_beside_it_so_the_site_must_name_that(tmp_path: Path) -> None:
    noised = RunSpec(transforms=(CLIPPED, NOISED))  # type: ignore[arg-type]  # as a user writes them
    clipped = RunSpec(transforms=(CLIPPED,))  # type: ignore[arg-type]  # the same
    demands = "[privacy]\nmax_norm = 1.0"
    assert "name whose code may run" in policy(demands, tmp_path).refusal_of_code("0" * 64, None, noised)
    assert policy(demands, tmp_path).refusal_of_code("0" * 64, None, clipped) == ""
    assert policy(f"approval = true\n{demands}", tmp_path).refusal_of_code("0" * 64, None, noised) == ""
    named = f'[code]\ndigests = ["{"0" * 64}"]\n{demands}'
    assert policy(named, tmp_path).refusal_of_code("0" * 64, None, noised) == ""
    assert policy("", tmp_path).refusal_of_code("0" * 64, None, noised) == ""


async def test_a_package_that_the_site_names_runs(network: LocalNetwork, app: Path, tmp_path: Path) -> None:
    digest = read(build(app)).digest
    await network.client("ward", policy=policy(f'projects = ["default"]\n[code]\ndigests = ["{digest}"]', tmp_path))
    assert (await run(network, app)).state is SessionState.FINISHED


async def test_a_package_of_a_signer_whom_the_site_names_runs_and_no_other(
    network: LocalNetwork, app: Path, tmp_path: Path
) -> None:
    public = new_key(tmp_path / "key.pem")
    await network.client("ward", policy=policy(f'[code]\nsigners = ["{public}"]', tmp_path))
    session = await network.create(app, RunSpec(name="heart", rounds=1, rules=ONE))
    signed = await network.controller.artifacts.add_package(PROJECT, build(app, key=read_key(tmp_path / "key.pem")))
    mine = await network.controller.sessions.create(
        PROJECT, session.spec, seed_model=session.seed_model, package=signed.id
    )
    await network.controller.sessions.start(PROJECT, mine.id)
    assert (await network.end(mine)).state is SessionState.FINISHED
    assert "signed by nobody" in await refusal(network, app, tmp_path)


async def test_metrics_that_may_not_leave_are_kept_back_and_the_session_is_told_their_names(
    network: LocalNetwork, app: Path, tmp_path: Path
) -> None:
    await network.client("ward", policy=policy('[outbound]\nmetrics = ["loss", "accuracy"]', tmp_path))
    session = await run(network, app)
    committed = (await events(network, session, "round.committed"))[0]
    left = departures(tmp_path / "network" / "ward" / "ledger.jsonl")
    assert session.state is SessionState.FINISHED
    assert "secret" not in json.dumps(committed.data)
    assert [(each.kind, each.metrics) for each in left] == [
        ("prints", []),
        ("update", ["loss"]),
        ("evaluation", ["accuracy"]),
    ]
    assert {each.session for each in left} == {session.id}
    assert left[1].bytes > 12
    assert len(left[1].digest) == 64


async def test_what_code_prints_and_says_of_its_errors_stays_where_the_site_keeps_it(
    network: LocalNetwork, app: Path, tmp_path: Path
) -> None:
    await network.client("ward", policy=policy("[outbound]\nprints = false", tmp_path))
    session = await run(network, app, fail=True)
    every = await network.controller.store.list(EventRecord, Query(PROJECT, where={"session": session.id}, limit=1000))
    told = json.dumps([[event.message, str(event.data)] for event in every.items])
    assert session.state is SessionState.FAILED
    assert "the app failed; its site keeps back what it said" in told
    assert "patient" not in told + (session.cause or "")


# ── a person ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def asked(folder: Path) -> Request:
    async with asyncio.timeout(30):
        while not (found := Approvals(folder).open_requests()):  # noqa: ASYNC110 - a file tells it
            await asyncio.sleep(0.05)
    return found[0]


async def test_a_session_waits_for_a_person_and_runs_once_approved(
    network: LocalNetwork, app: Path, tmp_path: Path
) -> None:
    await network.client("ward", policy=policy("approval = true", tmp_path))
    running = asyncio.create_task(run(network, app))
    request = await asked(tmp_path / "network" / "ward")
    assert (request.name, request.rounds, request.package) == ("heart", 1, read(build(app)).digest)
    Approvals(tmp_path / "network" / "ward").say(request.session[:6], approved=True)
    assert (await running).state is SessionState.FINISHED
    assert Approvals(tmp_path / "network" / "ward").open_requests() == []


async def test_a_session_that_a_person_refuses_is_told_so(network: LocalNetwork, app: Path, tmp_path: Path) -> None:
    await network.client("ward", policy=policy("approval = true", tmp_path))
    running = asyncio.create_task(run(network, app))
    request = await asked(tmp_path / "network" / "ward")
    Approvals(tmp_path / "network" / "ward").say(request.session, approved=False)
    ended = await running
    assert ended.state is SessionState.FAILED
    told = (await events(network, ended, "task.failed"))[0].message
    assert "a person at this site has refused this session" in told


def test_an_approval_holds_for_the_package_and_the_run_that_were_asked_for(tmp_path: Path) -> None:
    approvals = Approvals(tmp_path)
    first = Request.of("s1", RunSpec(rounds=3), "a" * 64, "")
    approvals.ask(first)
    approvals.say("s1", approved=True)
    assert approvals.answer(first) is True
    assert approvals.answer(Request.of("s1", RunSpec(rounds=3), "b" * 64, "")) is None
    assert approvals.answer(Request.of("s1", RunSpec(rounds=4), "a" * 64, "")) is None
    assert approvals.answer(Request.of("../s2", RunSpec(rounds=3), "a" * 64, "")) is None
    with pytest.raises(NotFoundError, match="those that asked: s1"):
        approvals.say("s9", approved=True)


# ── the ledger ───────────────────────────────────────────────────────────────────────────────────────────────────────


def departure(number: int) -> Departure:
    return Departure("2026-01-01T00:00:00+00:00", "s", number, "update", 5, "0" * 64, ["loss"], "")


@pytest.mark.parametrize("spoil", ["change", "remove", "swap", "garble"])
def test_a_line_of_the_ledger_that_was_touched_is_found(spoil: str, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    for number in range(4):
        append(file, departure(number))
    assert [each.round for each in departures(file)] == [0, 1, 2, 3]
    lines = file.read_bytes().splitlines(keepends=True)
    match spoil:
        case "change":
            lines[1] = lines[1].replace(b'"bytes": 5', b'"bytes": 1')
        case "remove":
            del lines[2]
        case "swap":
            lines[1], lines[2] = lines[2], lines[1]
        case _:
            lines[3] = b"{}\n"
    file.write_bytes(b"".join(lines))
    with pytest.raises(CorruptionError):
        departures(file)


async def test_threads_that_write_to_the_ledger_at_once_follow_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two sessions on one client: each would follow the same line, which looks as if somebody had changed one."""
    file, met = tmp_path / "ledger.jsonl", threading.Barrier(2)
    append(file, departure(0))
    link = ledger._last_link  # between this look and the line that follows from it

    def slow(size: int, path: Path) -> str:
        found = link(size, path)
        with suppress(threading.BrokenBarrierError):
            met.wait(0.2)  # both are here at once only where nothing keeps them apart
        return found

    monkeypatch.setattr(ledger, "_last_link", slow)
    await asyncio.gather(*(asyncio.to_thread(append, file, departure(number)) for number in (1, 2)))
    assert sorted(each.round for each in departures(file)) == [0, 1, 2]


@pytest.mark.parametrize("length", [1, 5_000])
def test_a_line_that_a_full_disk_cut_off_is_no_part_of_the_ledger(length: int, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    file.write_bytes(b"x" * length)
    append(file, departure(0))
    with file.open("ab") as torn:
        torn.write(b"{" * length)
    assert [each.round for each in departures(file)] == [0]
    append(file, departure(1))
    assert [each.round for each in departures(file)] == [0, 1]


def test_a_receipt_that_was_cut_off_does_not_spoil_those_after_it(tmp_path: Path) -> None:
    file = tmp_path / "receipts.jsonl"
    first, second = (Receipt("2026-01-01", "s", number, "ward", 1, "u", "l", "k", "s") for number in (1, 2))
    keep_receipt(file, first)
    with file.open("ab") as torn:
        torn.write(b'{"at": "2026')
    assert read_receipts(file) == [first]
    keep_receipt(file, second)
    assert read_receipts(file) == [first, second]


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('proyects = ["heart"]', "proyects means nothing; did you mean projects?"),
        ("[code]\ndigest = []", "code.digest means nothing; did you mean digests?"),
        ("[hours]\nfromm = 20:00:00", "hours.fromm means nothing; did you mean from?"),
        ("[resource]\ncpu = 1", "resource means nothing; did you mean resources?"),
        ('[code]\nsigners = ["mallory"]', "code.signers.0 = 'mallory'"),
        ("[resources]\ncpu = 0", "resources.cpu = 0"),
        ("[resources]\ncpu = nan", "resources.cpu = nan"),
        ('[resources]\nmemory = "much"', "resources.memory = 'much'"),
        ('[hours]\ndays = ["someday"]', "hours.days.0 = 'someday'"),
        ("approval = ", "cannot be read as TOML"),
    ],
)
def test_a_policy_with_a_flaw_is_refused_with_the_key_and_the_nearest_that_is_known(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(text, tmp_path)
    assert said in str(caught.value)
    assert "site.toml" in str(caught.value)


def test_a_whole_policy_is_read(tmp_path: Path) -> None:
    text = """
    projects = ["heart"]
    approval = true
    [code]
    network = true
    readable = ["/data/ward"]
    environment = ["WARD"]
    confinement = "required"
    [hours]
    from = "20:00"
    until = "06:00"
    days = ["fri"]
    [resources]
    cpu = 3600
    memory = "8 GiB"
    disk = "1 GB"
    processes = 100
    [outbound]
    metrics = ["loss"]
    prints = false
    """
    read_one = policy(text, tmp_path)
    assert (read_one.limits.cpu, read_one.limits.memory, read_one.limits.disk) == (3600, 8 << 30, 10**9)
    assert read_one.code.readable == (Path("/data/ward"),)
    assert str(read_one.hours) == "fri from 20:00 until 06:00"


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        ("2026-01-02T19:59", False),  # a Friday
        ("2026-01-02T20:00", True),
        ("2026-01-03T05:59", True),
        ("2026-01-03T06:00", False),
        ("2026-01-03T21:00", False),
        ("2026-01-02T05:00", False),
    ],
)
def test_hours_go_past_midnight_and_belong_to_the_day_on_which_they_begin(
    now: str,
    holds: bool,  # noqa: FBT001 - a case of the table
    tmp_path: Path,
) -> None:
    text = '[hours]\nfrom = "20:00"\nuntil = "06:00"\ndays = ["fri"]'
    assert policy(text, tmp_path).hours.hold(datetime.fromisoformat(now)) is holds


def test_without_hours_it_is_always_time(tmp_path: Path) -> None:
    for hour in range(24):
        assert policy("", tmp_path).hours.hold(datetime(2026, 1, 1, hour))  # noqa: DTZ001 - local time


def test_the_documented_policy_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "site.md").read_text(encoding="utf-8")
    block = page.partition('title="site.toml"\n')[2].partition("```")[0]
    read_one = policy(block.replace("# m", "m"), tmp_path)
    assert read_one.model_fields_set == set(SitePolicy.model_fields)
    for part in (read_one.code, read_one.resources, read_one.outbound, read_one.privacy):
        assert part.model_fields_set == set(type(part).model_fields)


@pytest.mark.parametrize(
    ("prints", "said"),
    [(True, ("no data", "Traceback …")), (False, ("the app failed; its site keeps back what it said", ""))],
)
async def test_what_a_party_goes_on_without_is_told_as_its_site_lets_it(
    tmp_path: Path, *, prints: bool, said: tuple[str, str]
) -> None:
    sent: list[FromNode] = []
    task = OpenRound(RoundKey("joint", 1, Kind.PROGRAM), RunSpec(), Blob("0" * 64, 0), ("ann",))
    site = Site(tmp_path, SitePolicy(outbound=Outbound(prints=prints)))
    telling = Telling(task, "ann", site, SimpleNamespace(send=sent.append))  # type: ignore[arg-type]
    telling.pass_on(TaskFailed(task.key, "ann", "no data", "Traceback …", goes_on=True))
    await telling.settle()
    assert sent == [TaskFailed(task.key, "ann", *said, goes_on=True)]
    (left,) = departures(tmp_path / LEDGER)
    assert (left.kind, left.bytes) == ("failure", sum(map(len, said)))
