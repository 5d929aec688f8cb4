"""The event stream: in order, without a gap, across breaks, restarts and the end of the server."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from served import Served

from hansa.api import transport
from hansa.api.encryption import client_context
from hansa.api.routes import events
from hansa.api.serving import listen
from hansa.api.transport import Message
from hansa.errors import ConnectionFailedError
from hansa.network.controller.journal import Live, event
from hansa.store.records import EventRecord

STREAM = "/api/v1/projects/default/events/stream"


def record(served: Served, *messages: str) -> None:
    served.run(served.server.controller.journal.record(*(event("default", "", "note", text) for text in messages)))


@contextmanager
def lines(served: Served, query: str = "", last: int | None = None) -> Iterator[Iterator[str]]:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with served.http(served.token()).stream("GET", STREAM + query, headers=headers) as response:
        assert response.status_code == 200, response.read()
        yield response.iter_lines()


def next_id(stream: Iterator[str]) -> int:
    return next(int(line.removeprefix("id: ")) for line in stream if line.startswith("id: "))


def test_a_stream_opened_after_a_snapshot_misses_nothing(served: Served) -> None:
    client = served.client()
    snapshot = client.events.list(limit=1)
    record(served, "one", "two")
    stream = client.events.stream(snapshot.cursor)
    assert [next(stream).message, next(stream).message] == ["one", "two"]
    record(served, "three")
    assert next(stream).message == "three"
    stream.close()


def test_last_event_id_wins_over_after_so_that_a_browser_takes_up_where_it_was(served: Served) -> None:
    record(served, "a", "b", "c")
    newest = served.client().events.list(limit=1).cursor
    with lines(served, "?after=0", last=newest - 1) as stream:
        assert next_id(stream) == newest


def test_without_a_cursor_only_what_is_new_comes(served: Served) -> None:
    record(served, "old")
    with lines(served) as stream:
        assert next(stream) == "retry: 1000"
        record(served, "new")
        data = next(line for line in stream if line.startswith("data: "))
    assert json.loads(data.removeprefix("data: "))["message"] == "new"


def test_a_live_item_has_no_id_and_moves_no_cursor(served: Served) -> None:
    client = served.client()
    stream = client.events.stream(client.events.list(limit=1).cursor)
    record(served, "first")
    assert isinstance(next(stream), EventRecord)  # the stream is open from here on

    async def tell() -> None:
        served.server.controller.journal.live(
            "default", "", "client.progress", client="a", done=1.0, total=float("nan")
        )

    served.run(tell())
    live = next(stream)
    assert isinstance(live, Live)
    assert live.data == {"client": "a", "done": 1.0, "total": None}
    stream.close()


def test_events_of_another_project_never_come(served: Served) -> None:
    journal = served.server.controller.journal
    client = served.client()
    stream = client.events.stream(client.events.list(limit=1).cursor)
    served.run(journal.record(event("elsewhere", "", "note", "theirs"), event("default", "", "note", "ours")))
    assert next(stream).message == "ours"
    stream.close()


def test_a_watcher_outlives_a_restart_of_the_server_without_gap_or_duplicate(fresh: Served) -> None:
    client = fresh.client()
    record(fresh, *(f"before {i}" for i in range(20)))
    told: list[str] = []
    stream = client.events.stream(0, tell=told.append)
    seen = [next(stream) for _ in range(20)]
    fresh.restart()
    record(fresh, *(f"after {i}" for i in range(20)))
    seen += [next(stream) for _ in range(20)]
    stream.close()
    assert [happened.message for happened in seen] == [
        *(f"before {i}" for i in range(20)),
        *(f"after {i}" for i in range(20)),
    ]
    why, back = told or ("", "")  # a stream that the server has ended in good order is taken up without a word
    assert (bool(why), back) in ((True, ""), (False, ""))


def test_a_stream_says_that_it_is_alive_in_a_way_that_a_browser_hears(
    fresh: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_PULSE", 0.02)
    client = fresh.client()
    messages = client.events._transport.stream("/projects/default/events/stream", {})
    assert next(messages) == Message(None, "pulse", {})
    messages.close()
    stream = client.events.stream(0)
    record(fresh, "something")
    assert next(stream).message == "something"
    stream.close()


def test_a_caller_whose_machine_is_gone_is_not_waited_for_as_long_as_the_system_does() -> None:
    listener = listen("127.0.0.1", 0, "HANSA_PORT")
    listener.listen()
    with listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_a_server_that_nothing_leads_to_is_said_to_be_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_TIMEOUT", httpx.Timeout(0.2))
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):  # more than wait in its queue: what comes then is not answered
            caller = waiting.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        asked = transport.Transport(f"http://127.0.0.1:{deaf.getsockname()[1]}", "")
        with pytest.raises(ConnectionFailedError, match=r"nothing answers there within .* the network between"):
            asked.json("GET", "/me")
        asked.close()


def test_a_revoked_token_ends_its_streams(served: Served) -> None:
    admin = served.client()
    issued = admin.tokens.create("reader", "viewer")
    with served.http(issued.token).stream("GET", f"{STREAM}?after=0") as response:
        stream = response.iter_lines()
        record(served, "seen")
        next_id(stream)
        admin.tokens.revoke(issued.record.id)
        record(served, "not for him")
        assert "not for him" not in "".join(stream)


def test_one_token_opens_so_many_streams_and_no_more(served: Served) -> None:
    http = served.http(served.token(name="greedy"))
    opened: list[Iterator[str]] = []
    believed = client_context(served.server.trust)
    with httpx.Client(
        base_url=served.url, headers=http.headers, trust_env=False, limits=httpx.Limits(), verify=believed, timeout=60
    ) as many:
        requests = [many.send(many.build_request("GET", STREAM), stream=True) for _ in range(32)]
        for response in requests:
            opened.append(response.iter_lines())
            assert next(opened[-1]) == "retry: 1000"
        refused = many.get(STREAM)
        assert refused.status_code == 429
        assert "close one" in refused.json()["detail"]
        for response in requests:
            response.close()


def test_the_server_ends_its_streams_at_once_when_it_ends(fresh: Served) -> None:
    with lines(fresh, "?after=0") as stream:
        assert next(stream) == "retry: 1000"
        ended = threading.Event()

        def read() -> None:
            for _ in stream:
                pass
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        fresh.restart()
        assert ended.wait(60)
        reader.join()


def test_of_many_streams_that_are_asked_for_at_once_none_is_too_many(served: Served) -> None:
    token, gate = served.token(name="hasty"), threading.Barrier(48)
    believed = client_context(served.server.trust)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(
        base_url=served.url, headers=headers, trust_env=False, limits=httpx.Limits(), verify=believed, timeout=60
    ) as many:

        def ask(_: int) -> httpx.Response:
            gate.wait()
            return many.send(many.build_request("GET", STREAM), stream=True)

        with ThreadPoolExecutor(48) as pool:
            answers = list(pool.map(ask, range(48)))
        for answer in answers:
            answer.close()
    assert sorted(answer.status_code for answer in answers) == [200] * 32 + [429] * 16
