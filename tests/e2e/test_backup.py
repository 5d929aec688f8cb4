"""A server that is lost with its disk, and its network on another one, as processes."""

import shutil
from pathlib import Path

import pytest
from processes import Hansa, line_with

from hansa.simulation import simulate

ROUNDS = 60


@pytest.mark.slow
def test_a_network_whose_server_is_lost_goes_on_from_a_back_up_that_was_made_while_it_ran(
    hansa: Hansa, tiny: Path
) -> None:
    first = hansa.up("--data", hansa.folder / "data")
    port = first.join.rpartition(":")[2]
    for index in range(2):
        hansa.client(first, f"client-{index}", index, 2)
    watching = hansa.start("session", "start", tiny, "--rounds", ROUNDS, "--min-clients", 2, "--name", "harbour")
    line_with(watching, f"round  3/{ROUNDS}")
    made = hansa.json("backup", "create", hansa.folder / "safe", "--data", hansa.folder / "data")
    assert made["lost"] == []
    first.process.kill()
    first.process.wait()
    shutil.rmtree(hansa.folder / "data")

    restored = hansa.run("backup", "restore", hansa.folder / "safe", "--data", hansa.folder / "other")
    assert restored.returncode == 0, restored.stderr
    hansa.up("--data", hansa.folder / "other", "--grpc-port", port)

    assert hansa.run("session", "watch", "harbour", timeout=120).returncode == 0
    session = hansa.json("session", "show", "harbour")
    assert session["state"] == "finished"
    assert session["model"] == simulate(tiny, clients=2, rounds=ROUNDS).model_hash
    verified = hansa.json("verify", "harbour")
    assert (verified["rounds"], verified["sealed"]) == (ROUNDS, True)
