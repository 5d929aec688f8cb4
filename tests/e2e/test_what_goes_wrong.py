import base64
import json
import socket
from pathlib import Path

import pytest
from processes import Hansa, Server, line_with

NOWHERE = "http://127.0.0.1:9"
FAR = "127.0.0.1:9"
NONSENSE, CLAIMLESS = "nonsense", "a.e30.b"


def refused(hansa: Hansa, *arguments: object, **environment: str) -> str:
    """What a command says that fails: one paragraph, no traceback, exit code 1."""
    done = hansa.run(*arguments, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "\nerror: " in f"\n{done.stderr}"  # a node has said before what it can keep code from
    return done.stderr


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_port_that_is_taken_is_named_with_what_to_do(hansa: Hansa, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--grpc-port" if option == "--port" else "--port"
        told = refused(hansa, "up", option, port, other, 0)
    assert str(port) in told
    assert option in told or "HANSA_" in told


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(hansa: Hansa) -> None:
    (hansa.folder / "file").touch()
    told = refused(hansa, "up", "--port", 0, "--grpc-port", 0, "--data", hansa.folder / "file" / "data")
    assert "cannot keep the server's data in" in told
    assert "is a file, not a directory: choose another path" in told


def test_a_node_that_joins_at_the_rest_api_is_told_where_nodes_join(hansa: Hansa, server: Server) -> None:
    token = hansa.json("token", "create", "lost")["token"]
    wrong = server.facts["url"].removeprefix("https://")
    client = hansa.start("client", "start", "--join", wrong, "--json", "--ca", server.facts["ca"], HANSA_TOKEN=token)
    assert "answers as a web server, the REST API perhaps" in line_with(client, "not connected")
    client.terminate()
    client.wait(30)


def test_who_gets_a_token_is_told_how_to_join_with_it(hansa: Hansa, server: Server) -> None:
    told = hansa.run("token", "create", "new").stderr
    assert f"hansa client start --join {server.join} --ca {server.facts['ca']}" in told


def test_without_a_server_it_says_how_to_start_one(hansa: Hansa) -> None:
    assert "there is no token" in refused(hansa, "session", "list")
    told = refused(hansa, "session", "list", HANSA_TOKEN=CLAIMLESS, HANSA_PROJECT="default", HANSA_URL=NOWHERE)
    assert "no hansa server answers at http://127.0.0.1:9" in told
    assert "hansa up" in told


def test_something_else_than_a_hansa_server_is_recognised(hansa: Hansa, server: Server) -> None:
    wrong = f"http://{server.join}"  # the port for nodes speaks gRPC
    told = refused(hansa, "session", "list", "--url", wrong, HANSA_TOKEN=CLAIMLESS, HANSA_PROJECT="default")
    assert wrong in told


def test_a_bad_token_is_refused_by_commands_and_nodes(hansa: Hansa, server: Server) -> None:
    url = server.facts["url"]
    assert "token" in refused(hansa, "login", url, "--token", NONSENSE)
    assert "not a hansa token" in refused(hansa, "client", "start", "--join", server.join, HANSA_TOKEN=NONSENSE)
    token = hansa.json("token", "create", "gone")
    hansa.json("token", "revoke", token["record"]["id"])
    told = refused(hansa, "client", "start", *server.join_options, HANSA_TOKEN=token["token"])
    assert "revoked" in told


def test_a_node_that_does_not_know_the_authority_says_which_fingerprint_it_needs(hansa: Hansa, server: Server) -> None:
    token = hansa.json("token", "create", "ann")["token"]
    told = refused(hansa, "client", "start", "--join", server.join, HANSA_TOKEN=token)
    assert "certificate that is not believed here" in told
    assert "--ca" in told
    other = ("--ca", "sha256:" + "0" * 64)
    assert "is not a server of the network" in refused(
        hansa, "client", "start", "--join", server.join, *other, HANSA_TOKEN=token
    )


def test_a_token_of_another_role_is_refused_before_anything_is_started(hansa: Hansa, server: Server) -> None:
    token = hansa.json("token", "create", "alice")["token"]
    told = refused(hansa, "combiner", "start", "--join", server.join, HANSA_TOKEN=token)
    assert "the token of alice is for the role client" in told
    told = refused(hansa, "client", "start", "--join", server.join, "--name", "bob", HANSA_TOKEN=token)
    assert "issued to alice" in told


def test_a_node_without_token_address_or_share_says_what_it_needs(hansa: Hansa) -> None:
    assert "has no token" in refused(hansa, "client", "start", "--join", FAR)
    join = ("client", "start", "--token", client_token())
    assert "is no host:port" in refused(hansa, *join, "--join", "http://127.0.0.1:8471")
    assert "share 10 of 10 does not exist" in refused(hansa, *join, "--join", FAR, "--partition", "10/10")
    assert "is no share" in refused(hansa, *join, "--join", FAR, "--partition", "third")
    assert hansa.run("client", "start").returncode == 2


def test_a_session_of_an_app_that_cannot_be_run_is_refused_before_it_is_created(
    hansa: Hansa, server: Server, tiny: Path
) -> None:
    assert server.process.poll() is None
    assert "there is no app at" in refused(hansa, "session", "start", "elsewhere.py")
    tiny.write_text(tiny.read_text().replace("@app.model\n", ""))
    assert "the app has no model function" in refused(hansa, "session", "start", tiny)
    assert hansa.run("session", "list").stdout.startswith("No session yet")


def test_a_session_whose_clients_return_other_shapes_fails_with_the_tensor(
    hansa: Hansa, server: Server, tiny: Path
) -> None:
    tiny.write_text(
        tiny.read_text().replace(
            '{"w": model["w"] + np.float32(1 + task.client.index)}', '{"w": np.zeros(4, np.float32)}'
        )
    )
    hansa.client(server, "client-0")
    done = hansa.run("session", "start", tiny, "--rounds", 1, "--deadline", 60)
    assert done.returncode == 1
    assert "'w'" in done.stderr
    assert "what train() returned" in done.stderr
    assert "hansa session resume" in done.stderr


def client_token() -> str:
    """A token of nobody: its claims are read before it is verified."""
    claims = {"sub": "nobody", "role": "client", "project": "default", "jti": "0"}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.e30"
