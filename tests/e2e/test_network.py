import json
import signal
import socket
from pathlib import Path

import pytest
from processes import Hansa, Server, line_with

from hansa.simulation import simulate


def test_a_session_on_a_network_of_processes_gives_the_hash_of_the_simulation(
    hansa: Hansa, server: Server, tiny: Path
) -> None:
    for index in range(2):
        hansa.client(server, f"client-{index}", index, 2)
    session = hansa.json("session", "start", tiny, "--rounds", 3, "--min-clients", 2)
    assert session["state"] == "finished"
    assert session["model"] == simulate(tiny, clients=2, rounds=3).model_hash
    rounds = hansa.run("session", "rounds", session["id"], "--json").stdout.splitlines()
    whole = hansa.run("verify", session["id"])
    assert whole.returncode == 0
    assert f"link of the last round: {json.loads(rounds[-1])['link']}" in whole.stdout
    assert [json.loads(line)["accepted"] for line in rounds] == [2, 2, 2]
    lineage = hansa.run("model", "lineage", session["model"][:16], "--json").stdout.splitlines()
    assert len(lineage) == 3  # two rounds before it, and the seed
    hansa.json("model", "download", session["model"], "--output", hansa.folder / "model.safetensors")
    assert (hansa.folder / "model.safetensors").is_file()


def test_every_noun_lists_what_there_is(hansa: Hansa, server: Server, tiny: Path) -> None:
    hansa.client(server, "ward-7")
    session = hansa.json("session", "start", tiny, "--rounds", 1)
    for noun in ("session", "model", "client", "token", "package", "project", "event"):
        shown = hansa.call(noun, "list")
        assert shown.exit_code == 0, shown.output
        assert len(shown.stdout.splitlines()) >= 2, noun
    assert "ward-7" in hansa.call("client", "list").stdout
    assert json.loads(hansa.call("client", "show", "ward-7", "--json").stdout)["connected"] is True
    assert hansa.call("combiner", "list").stdout.startswith("No combiner has connected")
    assert "finished" in hansa.call("session", "show", session["id"]).stdout
    assert "finished" in hansa.call("session", "why", session["id"]).stdout
    assert "sum" in hansa.call("metrics", session["id"]).stdout
    assert "round 1/1" in hansa.call("session", "watch", session["id"]).stdout
    assert hansa.call("session", "delete", session["id"]).exit_code == 0
    assert session["id"] not in hansa.call("session", "list").stdout


def test_ctrl_c_detaches_from_a_session_and_leaves_it_running(hansa: Hansa, server: Server, tiny: Path) -> None:
    watching = hansa.start("session", "start", tiny, "--rounds", 2)  # no client: it waits
    line_with(watching, "2 rounds")
    watching.send_signal(signal.SIGINT)
    said = watching.communicate(timeout=30)[0]
    assert watching.returncode == 130
    assert "Detached; the session goes on." in said
    session = hansa.json("session", "list")
    assert session["state"] == "running"
    assert "waits for clients: 0 connected, 1 needed" in hansa.run("session", "why", session["id"]).stdout
    hansa.client(server, "late")
    shown = hansa.run("session", "watch", session["id"])
    assert shown.returncode == 0, shown.stderr
    assert "round 2/2" in shown.stdout


@pytest.mark.slow
def test_a_client_killed_mid_session_and_started_again_takes_part_again(
    hansa: Hansa, server: Server, tiny: Path
) -> None:
    first = hansa.client(server, "client-0", 0, 2)
    hansa.client(server, "client-1", 1, 2)
    watching = hansa.start("session", "start", tiny, "--rounds", 60, "--min-clients", 2, "--lease", 5)
    line_with(watching, "round  2/60")
    first.kill()
    first.wait()
    hansa.client(server, "client-0", 0, 2)
    said = watching.communicate(timeout=100)[0]
    assert watching.returncode == 0, said
    assert "round 60/60" in said
    assert "finished" in said


def test_a_stopped_session_goes_on_where_it_was(hansa: Hansa, server: Server, tiny: Path) -> None:
    hansa.client(server, "client-0")
    watching = hansa.start("session", "start", tiny, "--rounds", 5000, "--name", "long")
    line_with(watching, "round    1/5000")
    stopped = hansa.json("session", "stop", "long")
    assert stopped["state"] == "stopped"
    assert watching.wait(30) == 0
    again = hansa.json("session", "resume", "long", "--detach")
    assert again["round"] >= stopped["round"] >= 1
    assert hansa.json("session", "stop", "long")["round"] >= stopped["round"]


def test_a_server_at_all_addresses_tells_one_that_can_be_dialled(hansa: Hansa) -> None:
    process = hansa.start("up", "--host", "0.0.0.0", "--port", 0, "--grpc-port", 0)  # noqa: S104 - what is tested
    printed = line_with(process, "REST API")
    while "--join" not in printed:
        printed += line_with(process, "")
    assert "/0." not in printed
    assert " 0." not in printed
    assert printed.count(f"{socket.gethostname()}:") == 2
    token = hansa.run("token", "create", "ward")
    assert f"--join {socket.gethostname()}:" in token.stderr


def test_the_server_stops_on_ctrl_c_and_goes_on_when_it_is_started_again(hansa: Hansa, server: Server) -> None:
    assert server.facts["first_start"]
    assert server.facts["client_token"]
    assert (hansa.folder / "credentials.json").stat().st_mode & 0o777 == 0o600
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130
    again = hansa.up()
    assert not again.facts["first_start"]
    assert again.facts["client_token"] is None
    assert not again.facts["new_credentials"]
    assert hansa.run("session", "list").returncode == 0


def test_what_a_server_prints_to_a_file_or_a_journal_lets_nobody_in(hansa: Hansa) -> None:
    process = hansa.start("up", "--port", 0, "--grpc-port", 0)
    printed = line_with(process, "hansa is up")
    while "Ctrl-C" not in printed:
        printed += line_with(process, "")
    assert "/ui/" in printed
    assert "#code=" not in printed
    assert "eyJ" not in printed
    assert "hansa token create NAME" in printed


def test_a_client_and_a_combiner_stop_on_ctrl_c_and_on_sigterm(hansa: Hansa, server: Server) -> None:
    client = hansa.client(server, "client-0")
    client.send_signal(signal.SIGINT)
    token = hansa.json("token", "create", "relay", "--role", "combiner")["token"]
    everywhere = ("--listen", "0.0.0.0:0")
    nowhere = hansa.run("combiner", "start", *server.join_options, *everywhere, HANSA_TOKEN=token)
    assert nowhere.returncode == 1
    assert "say how they reach it, with --advertise HOST:PORT" in nowhere.stderr
    combiner = hansa.start("combiner", "start", *server.join_options, "--json", HANSA_TOKEN=token)
    line_with(combiner, '"connected"')
    combiner.send_signal(signal.SIGTERM)
    assert client.wait(30) == 130
    assert combiner.wait(30) == 130


def test_old_models_are_pruned_as_the_session_says_and_by_hand(hansa: Hansa, server: Server, tiny: Path) -> None:
    hansa.client(server, "ward-7")
    session = hansa.json("session", "start", tiny, "--rounds", 5, "--keep", "last 3")
    models = [
        json.loads(line)
        for line in hansa.call("model", "list", "--session", session["id"], "--json").stdout.splitlines()
    ]
    assert sorted(model["round"] for model in models if model["pruned_at"] is None) == [3, 4, 5]
    oldest = min(models, key=lambda model: model["round"])["id"]
    assert "by `keep last 3`" in hansa.call("model", "show", oldest).stdout
    refused = hansa.call("model", "download", oldest)
    assert refused.exit_code == 1
    assert "was pruned on" in refused.stderr
    assert "2 models, states and aggregates were pruned by policy" in hansa.call("verify", session["id"]).stdout

    assert hansa.call("session", "keep", session["id"], "last three").exit_code == 1
    assert "keeps the models of: last 1" in hansa.call("session", "keep", session["id"], "last 1").stdout
    assert "last 1" in hansa.call("session", "show", session["id"]).stdout
    foreseen = hansa.call("prune", "--dry-run").stdout
    assert "Would remove 2 objects" in foreseen
    assert json.loads(hansa.call("prune", "--json").stdout)["objects"] == 2
    assert "Removed 0 objects" in hansa.call("prune", "--grace", "0").stdout
    assert "default of the server" in hansa.call("session", "keep", session["id"], "default").stdout
    assert "4 models, states and aggregates were pruned by policy" in hansa.call("verify", session["id"]).stdout


def test_a_third_party_checks_a_session_without_the_server(hansa: Hansa, server: Server, tiny: Path) -> None:
    work = hansa.folder / "ward"
    hansa.client(server, "ward-7", 0, 1, "--work", work)
    session = hansa.json("session", "start", tiny, "--rounds", 2, "--keep", "all, aggregates")
    assert "2 of 2 models were computed anew" in hansa.call("verify", session["id"]).stdout
    file = Path(hansa.json("session", "export", session["id"])["path"])
    (server_key,) = hansa.json("keys", "list", "--data", server.facts["data"])["keys"]
    site = hansa.json("client", "inspect", "--work", work)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(30)

    known = ("--server-key", server_key, "--client-key", f"ward-7={site['key']}", "--receipts", site["receipts"])
    found = hansa.json("verify", "--bundle", file, *known)
    assert (found["updates"], found["reports"], found["sealed"], found["unsigned"]) == (2, 2, True, 0)
    assert (found["recomputed"], found["not_recomputed"], found["obstacle"]) == (2, 0, "")
    assert found["clients"] == {"ward-7": [site["key"]]}
    told = hansa.call("verify", "--bundle", hansa.folder / file).stdout
    assert "2 updates and 2 evaluations are signed by their clients" in told
    assert "2 of 2 models were computed anew, and are what was committed" in told
    assert f"signed for the server: {server_key}" in told
    other = hansa.call("verify", "--bundle", hansa.folder / file, "--client-key", f"ward-7={server_key}")
    assert (other.exit_code, "has signed for ward-7, whose key is" in other.stderr) == (1, True)
    assert hansa.call("verify").exit_code == 1
    content = bytearray((hansa.folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (hansa.folder / "tampered.zip").write_bytes(content)
    assert hansa.call("verify", "--bundle", hansa.folder / "tampered.zip").exit_code == 1
