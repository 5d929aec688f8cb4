"""Devices that follow a trace: what a file says, and what a simulation makes of it."""

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.data import Examples, Split
from hansa.errors import AppError, ConfigError, InputError, QuorumNotMetError
from hansa.messages import EvaluationRules, RoundRules
from hansa.run import derive_rng
from hansa.simulation import ComingAndGoing, Invitation, Traces, simulate
from hansa.simulation.attendance import RoundAttendance
from hansa.simulation.clients import VirtualClients
from hansa.simulation.examples import count_examples
from hansa.simulation.named_devices import devices_of
from hansa.simulation.traces import Window, diurnal

many = settings(derandomize=True, deadline=None, max_examples=60)

NO_EVALUATION = EvaluationRules(every=0)


def random_for(*keys: str | int) -> np.random.Generator:
    return derive_rng(0, "device", *keys)


def seconds(traces: Traces, client: str, invitation: Invitation) -> float | None:
    (behaviour,) = traces.behave([client], invitation, random_for)
    return None if behaviour.drops_out else behaviour.seconds


def is_there(traces: Traces, number: int, at: float) -> bool:
    return bool(traces.present(np.array([number]), at)[0])


# ── what a trace says ────────────────────────────────────────────────────────────────────────────────────────────────


@st.composite
def traces_in_seconds(draw: st.DrawFn) -> tuple[Traces, list[set[int]], int]:
    """Windows at whole seconds, the seconds at which each device is there, and the period."""
    period = draw(st.integers(8, 20))
    there = [draw(st.sets(st.integers(0, period - 1))) for _ in range(draw(st.integers(1, 4)))]
    windows = [Window(f"d{d}", float(s), s + 1.0) for d, inside in enumerate(there) for s in sorted(inside)]
    windows = windows or [Window("d0", 0.0, 1.0)]
    names = list(dict.fromkeys(window.client for window in windows))
    inside = [{int(w.start) for w in windows if w.client == name} for name in names]
    return Traces(windows, period=float(period)), inside, period


@many
@given(made=traces_in_seconds(), at=st.integers(0, 100))
def test_presence_and_the_next_change_are_as_in_brute_force(made: tuple[Traces, list[set[int]], int], at: int) -> None:
    traces, inside, period = made
    numbers = np.arange(9)
    expected = [at % period in inside[number % len(inside)] for number in numbers]
    assert traces.present(numbers, float(at)).tolist() == expected
    assert traces.present(numbers, at + 0.5).tolist() == expected
    for number in (0, 5):
        mine = inside[number % len(inside)]
        then = [
            later for later in range(at + 1, at + 2 * period + 1) if (later % period in mine) != (at % period in mine)
        ]
        assert traces.next_change(number, float(at)) == (then[0] if then else math.inf)
        assert traces.next_change(number, at + 0.5) == (then[0] if then else math.inf)
    assert traces.availability.tolist() == pytest.approx([len(mine) / period for mine in inside])


@many
@given(
    period=st.floats(1.0, 1e6),
    cuts=st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2, unique=True),
    since=st.floats(0, 1e9),
    hops=st.integers(1, 5),
)
def test_a_change_has_happened_at_the_time_that_it_is_said_to(
    period: float, cuts: list[float], since: float, hops: int
) -> None:
    start, end = sorted(cut * period for cut in cuts)
    if not start < end:
        return
    here = RoundAttendance(Traces([Window("a", start, end)], period=period), VirtualClients(1), since)
    at = 0.0
    for _ in range(hops):
        before = len(here.present(at))
        change = here.next_change("client-0", at)
        if change == math.inf or (end - start) < 1e-3 or period - (end - start) < 1e-3:
            return
        assert change > at
        assert len(here.present(change)) == 1 - before
        at = change


def test_without_a_period_the_last_end_is_the_end() -> None:
    once = Traces([Window("a", 5, 10)], period=math.inf)
    assert [is_there(once, 0, at) for at in (0, 5, 9.9, 10, 1e9)] == [False, True, True, False, False]
    assert [once.next_change(0, at) for at in (0, 5, 10)] == [5, 10, math.inf]
    again = Traces([Window("a", 5, 10)])
    assert [again.next_change(0, at) for at in (0, 5, 10)] == [5, 10, 15]


def test_a_client_is_the_device_of_its_name_or_of_its_number() -> None:
    traces = Traces([Window("phone", 0, 1), Window("client-3", 1, 2), Window("client-0", 2, 3)])
    assert traces.devices == ("phone", "client-3", "client-0")
    at_two = traces.present(np.arange(6), 2.5)
    # client-0 by name; client-2 and client-5 are number 2 modulo 3; client-3 is the second by name
    assert at_two.tolist() == [True, False, True, False, False, True]
    assert isinstance(traces, ComingAndGoing)


def test_a_task_takes_download_training_and_upload() -> None:
    traces = Traces([Window("a", 0, 100, 0.5, 1000, 250), Window("a", 100, 200, 2.0, 500, 125)], passes=3)
    asked: list[str] = []

    def examples(client: str) -> int:
        asked.append(client)
        return 10

    invitation = Invitation(1, 50.0, download=2000, upload=1000, examples=examples)
    assert seconds(traces, "client-0", invitation) == 2 + 3 * 10 * 0.5 + 4
    assert seconds(traces, "client-0", replace(invitation, at=150.0)) == 4 + 3 * 10 * 2.0 + 8
    assert asked == ["client-0"] * 2
    free = Traces([Window("a", 0, 100)])
    assert seconds(free, "client-0", Invitation(1, download=10**9, upload=10**9)) == 0.0
    assert seconds(Traces([Window("a", 5, 10)]), "client-0", Invitation(1, 0.0)) is None
    with pytest.raises(ConfigError, match="no virtual client"):
        seconds(free, "phone", Invitation(1))


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("client, start,end,seconds_per_sample,download,upload\na,0,10,0.5,,100\nb,5,20,,1e3,\na,12,13\n")
    lines = tmp_path / "t.jsonl"
    lines.write_text(
        '{"client": "a", "start": 0, "end": 10, "seconds_per_sample": 0.5, "upload": 100}\n\n'
        '{"client": "b", "start": 5, "end": 20, "download": 1000.0, "upload": null}\n'
        '{"client": "a", "start": 12, "end": 13}\n'
    )
    first, second = Traces.read(table), Traces.read(lines)
    first.save(tmp_path / "again.csv")
    invitation = Invitation(1, 6.0, 1000, 1000, lambda _client: 4)
    for traces in (first, second, Traces.read(tmp_path / "again.csv")):
        assert (traces.devices, traces.period) == (("a", "b"), 20.0)
        assert [seconds(traces, client, invitation) for client in ("client-0", "client-1")] == [12.0, 1.0]
        assert traces.availability.tolist() == [11 / 20, 15 / 20]


BROKEN = {
    "no windows": ("client,start,end\n", "has no windows"),
    "empty": ("", "lacks the column client"),
    "no end": ("client,start\na,0\n", "lacks the column end"),
    "an unknown column": ("client,start,end,speed\na,0,1,2\n", "line 2: there is no column 'speed'"),
    "more values than columns": ("client,start,end\na,0,1,2\n", "line 2: there is no column ''"),
    "no number": ("client,start,end\na,0,soon\n", "line 2: could not convert"),
    "an endless window": ("client,start,end\na,0,inf\n", "line 2: a: 0 to inf s is no window"),
    "backwards": ("client,start,end\nb,0,1\na,5,4\n", "line 3: a: 5 to 4 s is no window"),
    "before time": ("client,start,end\na,-1,4\n", "line 2: a: -1 to 4 s"),
    "not a time": ("client,start,end\na,nan,4\n", "line 2: a: nan to 4 s"),
    "no speed": ("client,start,end,download\na,0,4,0\n", "line 2: a: .*download 0"),
    "nobody": ("client,start,end\n,0,4\n", "line 2: it has no client"),
    "overlapping": ("client,start,end\na,0,4\na,3,5\n", "a has the window 0 to 4 s and another that begins at 3 s"),
    "an open quote": ('client,start,end\n"a,0,4\n', "unexpected end of data"),
    "broken JSON": ('{"client": "a", "start": 0\n', "line 1 is no JSON"),
    "JSON that is no object": ('{"client": "a", "start": 0, "end": 1}\n[1]\n', "line 2 is no object"),
    "JSON of another shape": ('{"client": "a", "start": [0], "end": 1}\n', "line 1: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_trace_is_refused_by_file_and_line(case: str, tmp_path: Path) -> None:
    text, match = BROKEN[case]
    file = tmp_path / "trace.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        Traces.read(file)
    assert "trace.csv" in str(caught.value)


def test_what_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xff\xfe\x00")
    for name in ("t", "none"):
        with pytest.raises(InputError, match="give a CSV file or JSON lines"):
            Traces.read(tmp_path / name)
    for wrong, match in (
        ({"period": 3.0}, "period is 3 s; the last window ends after 4"),
        ({"passes": -1.0}, "passes"),
    ):
        with pytest.raises(ConfigError, match=match):
            Traces([Window("a", 0, 4)], **wrong)
    with pytest.raises(InputError, match="no windows"):
        Traces([])


def test_the_command_line_reads_a_trace(tmp_path: Path) -> None:
    Traces([Window("a", 0, 4)]).save(tmp_path / "t.csv")
    assert isinstance(devices_of(f"trace:{tmp_path / 't.csv'}"), Traces)


# ── generated and measured ───────────────────────────────────────────────────────────────────────────────────────────


def test_generated_phones_are_there_at_night_and_differ_in_speed() -> None:
    traces = diurnal(800, seed=1)
    numbers = np.arange(800)
    by_hour = np.array([traces.present(numbers, 86400 * 2 + 3600 * hour + 1800).mean() for hour in range(24)])
    assert by_hour[[2, 3]].min() > 0.7
    assert by_hour[[11, 15, 18]].max() < 0.15
    assert by_hour.max() > 4 * by_hour.min()
    # 0.9 nights of 7 hours and one charge of 41 minutes a day
    assert traces.availability.mean() == pytest.approx((0.9 * 7 + 41 / 60) / 24, abs=0.03)
    first = [
        traces.behave([f"client-{k}"], Invitation(1, at, examples=lambda _client: 1), random_for)[0].seconds
        for k, at in ((k, traces.next_change(k, 0.0) + 1e-3) for k in range(400))
        if is_there(traces, k, at)
    ]
    assert np.median(first) == pytest.approx(0.01, rel=0.25)
    assert np.log(first).std() == pytest.approx(1.0, abs=0.15)
    again, other = diurnal(800, seed=1), diurnal(800, seed=2)
    assert np.array_equal(again.availability, traces.availability)
    assert not np.array_equal(other.availability, traces.availability)


def test_a_zone_shifts_the_night_and_settings_that_cannot_be_are_refused() -> None:
    numbers = np.arange(500)
    shifted = diurnal(500, zones=(12.0,))
    assert shifted.present(numbers, 86400 + 3600 * 14.5).mean() > 0.7
    for wrong in ({"num_devices": 0}, {"num_devices": 1, "days": 0}, {"num_devices": 1, "nights": 1.5}):
        with pytest.raises(InputError, match="must be"):
            diurnal(**wrong)  # type: ignore[arg-type]
    assert diurnal(3, nights=0.0, daytime=0.0).availability.max() > 0


def test_six_phones_are_there_as_their_logs_say(shared_data: Path, tmp_path: Path) -> None:
    packed = shared_data / "device_traces" / "fedscale_fork_clients_preview.json.gz"
    file = tmp_path / "phones.jsonl"
    end = 48 * 3600
    with file.open("w") as stream:
        for phone in json.loads(gzip.decompress(packed.read_bytes())):
            events = sorted([(t, True) for t in phone["active"]] + [(t, False) for t in phone["inactive"]])
            for (start, active), (stop, _) in zip(events, [*events[1:], (end, False)], strict=True):
                if active and start < stop:
                    print(json.dumps({"client": str(phone["id"]), "start": start, "end": stop}), file=stream)
    traces = Traces.read(file, period=float(end))
    assert traces.availability.tolist() == pytest.approx([0.338, 0.188, 0.087, 0.681, 0.374, 0.303], abs=0.001)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the public data sets are not in {folder}")
    return folder


# ── a simulation ─────────────────────────────────────────────────────────────────────────────────────────────────────


def phase(records: list[hansa.simulation.RoundRecord]) -> list[tuple[tuple[str, ...], tuple[str, ...], float]]:
    return [(record.accepted, record.missing, record.virtual_seconds) for record in records]


def test_a_round_waits_for_devices_and_invites_those_who_are_there(app: Path) -> None:
    traces = Traces(
        [Window("client-0", 100, 200), Window("client-1", 150, 400), Window("client-2", 160, 400)], period=500
    )
    result = simulate(
        app, clients=3, rounds=3, devices=traces, evaluation=NO_EVALUATION, rules=RoundRules(min_clients=2)
    )
    assert phase(list(result.rounds)) == [(("client-0", "client-1"), (), at) for at in (150.0, 0.0, 0.0)]


def test_a_round_takes_as_long_as_its_slowest_device_and_the_next_finds_other_devices(app: Path) -> None:
    table = [Window("client-0", 0, 1000, 1.0), Window("client-1", 0, 1000, 2.0), Window("client-2", 5, 1000, 0.0)]
    result = simulate(app, clients=3, rounds=2, devices=Traces(table), evaluation=NO_EVALUATION)
    # client-0 has 10 examples, client-1 has 11
    assert phase(list(result.rounds)) == [
        (("client-0", "client-1"), (), 22.0),
        (("client-0", "client-1", "client-2"), (), 22.0),
    ]


def test_a_device_that_leaves_is_missing_and_another_takes_its_place_when_its_lease_ends(app: Path) -> None:
    table = [Window("client-0", 0, 5, 1.0), Window("client-1", 0, 900, 1.0), Window("client-2", 3, 900, 0.5)]
    rules = RoundRules(lease=30.0, quorum=1)
    result = simulate(
        app, clients=3, rounds=1, devices=Traces(table, period=900), rules=rules, evaluation=NO_EVALUATION
    )
    # client-0 leaves after 5 s; its lease ends at 30 s, then client-2 trains on 12 examples
    assert phase(list(result.rounds)) == [(("client-1", "client-2"), ("client-0",), 36.0)]
    alone = replace(rules, replace_failed=False)
    result = simulate(
        app, clients=3, rounds=1, devices=Traces(table, period=900), rules=alone, evaluation=NO_EVALUATION
    )
    assert phase(list(result.rounds)) == [(("client-1",), ("client-0",), 30.0)]


def test_a_device_that_comes_back_begins_anew(app: Path) -> None:
    table = [Window("client-0", 0, 5, 1.0), Window("client-0", 20, 900, 1.0), Window("client-1", 0, 900, 0.1)]
    result = simulate(app, clients=2, rounds=1, devices=Traces(table), evaluation=NO_EVALUATION)
    assert phase(list(result.rounds)) == [(("client-0", "client-1"), (), 30.0)]


def test_links_carry_the_model_down_and_the_update_up(app: Path) -> None:
    size = hansa.simulate(app, clients=1, rounds=1, evaluation=NO_EVALUATION).model.nbytes
    table = [Window("client-0", 0, 10_000, 0.0, float(size), size / 4)]
    result = simulate(app, clients=1, rounds=1, devices=Traces(table), evaluation=NO_EVALUATION)
    assert result.rounds[0].virtual_seconds == 5.0


def test_a_night_without_devices_that_is_longer_than_the_deadline_fails_the_run(app: Path) -> None:
    traces = Traces([Window("a", 5000, 6000)])
    with pytest.raises(QuorumNotMetError, match="did not open within its deadline of 3600 s: 0 clients are connected"):
        simulate(app, clients=3, rounds=1, devices=traces)
    patient = RoundRules(deadline=86400.0)
    assert simulate(app, clients=3, rounds=1, devices=traces, rules=patient).rounds[0].virtual_seconds == 5000.0


def test_only_those_who_are_there_evaluate(app: Path) -> None:
    traces = Traces([Window("client-0", 0, 900), Window("client-1", 100, 900)], period=1000)
    result = simulate(app, clients=2, rounds=1, devices=traces)
    alone = simulate(app, clients=1, rounds=1)
    assert result.rounds[0].evaluation == alone.rounds[0].evaluation


@pytest.mark.parametrize(
    "rules", [RoundRules(deadline=86400.0), RoundRules("count", 4, min_clients=6, deadline=86400.0)]
)
def test_the_same_seed_gives_the_same_rounds_and_every_engine_the_same_bits(app: Path, rules: RoundRules) -> None:
    def run(engine: hansa.simulation.runtime.EngineName = "inline") -> hansa.simulation.SimulationResult:
        traces = diurnal(20, seed=3, seconds_per_sample=600.0, download=10.0, upload=10.0)
        return simulate(app, clients=20, rounds=4, seed=5, devices=traces, rules=rules, engine=engine)

    first, again = run(), run()
    assert phase(list(first.rounds)) == phase(list(again.rounds))
    assert first.model_hash == again.model_hash
    assert any(record.missing for record in first.rounds)
    if rules.count is not None:
        assert run("processes").model_hash == first.model_hash


def test_a_failure_beside_devices_that_come_and_go_ends_the_same(app: Path) -> None:
    traces = diurnal(20, seed=3, seconds_per_sample=30.0)
    rules = RoundRules(selection="count", count=5, deadline=86400.0)
    faults = {f"client-{k}": "raise" for k in range(0, 20, 3)}
    runs = [
        simulate(app, clients=20, rounds=3, devices=traces, rules=rules, config=faults, tolerate_failures=True)
        for _ in range(2)
    ]
    assert phase(list(runs[0].rounds)) == phase(list(runs[1].rounds))
    assert any(record.failed for record in runs[0].rounds)


def test_a_hundred_thousand_clients_share_the_devices() -> None:
    app = hansa.App()
    app.model(lambda _rng: {"w": np.zeros(2)})
    app.data(lambda _client: np.zeros(9))
    app.train(lambda model, _task: hansa.Update({"w": model["w"] + 1}, num_examples=1))
    traces = diurnal(100, seed=0)
    rules = RoundRules(selection="count", count=50, deadline=86400.0)
    result = simulate(app, clients=100_000, rounds=3, devices=traces, rules=rules)
    for record in result.rounds:
        assert len(record.accepted) == 50
        numbers = np.array([int(name.removeprefix("client-")) for name in record.accepted])
        assert traces.present(numbers, sum(r.virtual_seconds for r in result.rounds[: record.round - 1])).all()


@many
@given(total=st.integers(1, 2500))
def test_numbers_are_in_the_order_of_the_names(total: int) -> None:
    clients = VirtualClients(total)
    assert [f"client-{number}" for number in clients.numbers()] == list(clients)


def test_examples_are_counted_in_whatever_an_app_gives() -> None:
    x, y = np.zeros((7, 2)), np.zeros(7)
    for data in (
        (x, y),
        ((x, y), (x[:2], y[:2])),
        Split(Examples(x, y), Examples(x[:1], y[:1])),
        [1] * 7,
        x,
        ({"a": x}, y),
    ):
        assert count_examples(data, "client-0") == 7
    with pytest.raises(AppError, match="client-0 has a NoneType"):
        count_examples(None, "client-0")
