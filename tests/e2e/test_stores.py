"""Processes on PostgreSQL and S3: a session, and the death of the controller that runs it."""

import json
import shutil
from pathlib import Path

from processes import Hansa, Server, line_with
from servers import PostgresServer, S3Server

from hansa.simulation import simulate

ROUNDS = 60


def test_a_session_outlives_its_controller_where_another_one_waits(
    hansa: Hansa, postgres: PostgresServer, s3: S3Server, tiny: Path
) -> None:
    hansa.environment["HANSA_STORE"] = postgres.url(postgres.create_database())
    hansa.environment["HANSA_OBJECTS"] = s3.url(s3.create_bucket(), hansa.folder / "cache")
    first = hansa.up("--data", hansa.folder / "first")
    shutil.copytree(hansa.folder / "first" / "keys", hansa.folder / "second" / "keys")
    port = first.join.rpartition(":")[2]
    standby = hansa.start("up", "--json", "--port", 0, "--grpc-port", port, "--data", hansa.folder / "second")
    token = hansa.json("token", "create", "relay", "--role", "combiner")["token"]
    combiner = hansa.start("combiner", "start", *first.join_options, "--json", HANSA_TOKEN=token)
    line_with(combiner, '"connected"')
    for index in range(2):
        hansa.client(first, f"client-{index}", index, 2)
    watching = hansa.start("session", "start", tiny, "--rounds", ROUNDS, "--min-clients", 2, "--name", "harbour")
    line_with(watching, f"round  3/{ROUNDS}")

    first.process.kill()

    second = Server(standby, json.loads(line_with(standby, "{")))
    assert second.join == first.join
    assert hansa.run("session", "watch", "harbour").returncode == 0
    session = hansa.json("session", "show", "harbour")
    assert session["state"] == "finished"
    assert session["model"] == simulate(tiny, clients=2, rounds=ROUNDS).model_hash
    rounds = [json.loads(line) for line in hansa.run("session", "rounds", "harbour", "--json").stdout.splitlines()]
    assert [(each["number"], each["accepted"]) for each in rounds] == [(n, 2) for n in range(1, ROUNDS + 1)]
    assert not (hansa.folder / "first" / "hansa.db").exists()
    assert not (hansa.folder / "first" / "objects").exists()
