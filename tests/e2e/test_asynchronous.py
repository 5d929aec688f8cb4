import json
from pathlib import Path

import pytest
from processes import Hansa, Server, line_with
from replaying import replayed

import hansa as package
from hansa.wire import codec


def test_an_asynchronous_session_outlives_kill_9_of_its_controller_and_of_a_client(
    hansa: Hansa, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hansa.up()
    port = first.join.rpartition(":")[2]
    clients = [hansa.client(first, f"client-{index}", index, 3) for index in range(3)]
    options = ("--algorithm", "fedbuff", "--set-algorithm", "buffer=2", "--rounds", 40, "--min-clients", 3)
    watching = hansa.start("session", "start", tiny, *options, "--lease", 5, "--seed", 1, "--name", "tide")
    line_with(watching, "round  3/40")

    first.process.kill()
    first.process.wait()
    clients[2].kill()
    clients[2].wait()
    second = hansa.start("up", "--json", "--port", first.facts["url"].rpartition(":")[2], "--grpc-port", port)
    facts = json.loads(line_with(second, "{"))
    assert facts["grpc_address"] == first.join
    hansa.client(Server(second, facts), "client-2", 2, 3)

    assert hansa.run("session", "watch", "tide").returncode == 0
    session = hansa.json("session", "show", "tide")
    assert session["state"] == "finished"
    assert session["round"] == 40
    assert "; staleness " in hansa.run("session", "show", "tide").stdout
    whole = hansa.run("verify", "tide")
    assert whole.returncode == 0, whole.stderr
    monkeypatch.setenv("HANSA_CREDENTIALS", hansa.environment["HANSA_CREDENTIALS"])
    with package.connect() as api:
        found = api.sessions.get("tide")
        parts = [part for number in range(1, 41) for part in api.rounds.contributions(found.id, number).items]
    accepted = [part for part in parts if part.outcome == "accepted"]
    assert len({(part.client, part.base) for part in parts}) == len(parts)
    assert len(accepted) == 80
    assert codec.digest(replayed(tiny, found.spec, 3, parts)) == session["model"]
