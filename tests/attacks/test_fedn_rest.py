"""FEDn's REST port, from somebody who means harm: nobody is let by, nothing is fetched, nothing grows without bound."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from fedn_fleet import Calls, Fleet, FleetClient, adds, fleet, npz, pb, scripts, seeded

from hansa.arrays import Arrays
from hansa.store.ports import Query
from hansa.store.records import NoteRecord
from hansa.wire import codec

SURFACE = json.loads((Path(__file__).parents[1] / "compat" / "fedn_surface.json").read_text())
MODELS = "/api/v1/models/"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path) as made:
        yield made


@pytest.fixture
async def client(made: Fleet) -> AsyncIterator[httpx.AsyncClient]:
    async with scripts(made) as client:
        yield client


async def test_no_route_is_open_but_health_and_what_has_moved(tmp_path: Path) -> None:
    """In either spelling, and with what a proxy might be told."""
    answered = {}
    async with (
        fleet(tmp_path, fedn_weak="off") as made,
        httpx.AsyncClient(base_url=made.server.url, timeout=60) as nobody,
    ):
        for methods, path in SURFACE["routes"]:
            for given in (path, f"/{path[1:].replace('/', '//')}", f"{path.rstrip('/')}/"):
                headers = {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health", "Authorization": "Bearer None"}
                for method in methods:
                    answer = await nobody.request(method, given, headers=headers, json={"client_id": "a", "name": "a"})
                    if answer.status_code != 401:
                        answered[path] = answer.status_code
    assert answered == {"/health": 200, "/add_client": 410, "/add_combiner": 410, "/static/<path:filename>": 404}


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/secret", "/etc/passwd", "a\\..\\b"]
)
async def test_a_name_is_no_path(client: httpx.AsyncClient, tmp_path: Path, name: str) -> None:
    before = outside(tmp_path)
    for path in (f"packages/download?name={name}", f"models/{name}/download", f"clients/{name}", f"packages/{name}"):
        assert (await client.get(f"/api/v1/{path}")).status_code == 404
    package = {"file": (f"{name}.tgz", b"code")}
    assert (await client.post("/api/v1/packages/", files=package, data={"name": "../up"})).status_code == 200
    added = await client.post("/api/v1/clients/add", json={"client_id": name, "name": name, "package": "local"})
    assert added.status_code == 200
    assert outside(tmp_path) == before
    listed = (await client.get("/api/v1/packages/")).json()["result"][0]
    assert "/" not in listed["file_name"] + listed["storage_file_name"]
    assert all(len(name) == 32 for name in folders(tmp_path / "controller" / "fedn" / "clients"))


async def test_bombs_and_pickles_in_a_model_are_refused(client: httpx.AsyncClient) -> None:
    bomb, pickle, header, long = (io.BytesIO() for _ in range(4))
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.npy", bytes(200 << 20))
    np.savez(pickle, **{"0": np.array([{"a": 1}], dtype=object)})
    with zipfile.ZipFile(header, "w") as file:
        member = io.BytesIO()
        np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
        file.writestr("0.npy", member.getvalue() + bytes(80))
    with zipfile.ZipFile(long, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("0.npy", b"\x93NUMPY\x02\x00" + (1 << 20).to_bytes(4, "little") + b" " * (1 << 20))
    for hostile in (bomb, pickle, header, long, io.BytesIO(b"PK\x05\x06" + bytes(18)), io.BytesIO(b"")):
        answer = await client.post(
            MODELS, files={"file": ("m.npz", hostile.getvalue())}, data={"helper": "numpyhelper"}
        )
        assert answer.status_code == 400, answer.text
    assert (await client.get(f"{MODELS}count")).json() == 0


async def test_bodies_have_bounds_whatever_they_say_of_their_length(client: httpx.AsyncClient) -> None:
    async def endless(piece: bytes) -> AsyncIterator[bytes]:
        for _ in range(64):
            yield piece * (1 << 16)

    deep = b"[" * 200_000 + b"]" * 200_000
    for content, kind in (
        (endless(b" "), "application/json"),
        (endless(b"a=1&"), "application/x-www-form-urlencoded"),
        (deep, "application/json"),
        (b"7", "application/json"),
        (b'{"rounds": 1e999, "session_id": "x"}', "application/json"),
    ):
        told = await client.post("/api/v1/sessions/start", content=content, headers={"Content-Type": kind})
        assert told.status_code == 400, told.text
    endless_file = await client.post(
        MODELS, content=endless(b"x"), headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert endless_file.status_code == 400
    assert "says its length" in endless_file.json()["message"]


async def test_queries_that_multiply_are_refused(client: httpx.AsyncClient) -> None:
    for number in range(30):
        await seeded(client, [np.full(1, number, np.float32)])
    model = (await client.get(MODELS)).json()["result"][0]["model_id"]
    config = {
        "aggregator": "fedavg", "round_timeout": 5, "buffer_size": -1, "delete_models_storage": True, "model_id": model,
        "clients_required": 1, "validate": False, "helper_type": "numpyhelper",
    }  # fmt: skip
    for _ in range(3):
        await client.post("/api/v1/sessions/", json={"name": "s", "session_config": config})
    aliases = " ".join(f"a{number}: models(limit: 100000) {{ name }}" for number in range(180))
    for query, said in (
        (
            "{ sessions { models { session { models { session { models { session { models { name } } } } } } } } }",
            "fields deep",
        ),
        ("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }", ""),
        ("{" + "a" * 30_000 + "}", "characters"),
        ("{ " + " ".join("sessions { name }" for _ in range(900)) + " }", ""),
        ("{ " + aliases + aliases.replace("a", "b").replace("nbme", "name") + " }", ""),
    ):
        told = (await client.post("/api/v1/graphql", json={"query": query})).json()
        assert said in json.dumps(told.get("errors", [])), query[:60]
    many = (
        "{ "
        + " ".join(f"a{n}: sessions(limit: 9) {{ models {{ name }} validations {{ data }} }}" for n in range(90))
        + " }"
    )
    answer = await client.post("/api/v1/graphql", json={"query": many})
    assert answer.status_code == 200
    listed = await client.post("/api/v1/graphql", json={"query": "{ sessions { name } }", "variables": [1]})
    assert listed.status_code == 400


async def test_no_address_in_a_request_is_ever_dialled(made: Fleet, client: httpx.AsyncClient) -> None:
    dialled: list[object] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(writer.get_extra_info("peername"))
        writer.close()

    trap = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/"
    async with trap:
        await made.start(FleetClient(made.server.grpc_address, "a", adds(1, 1), name="a"))
        model = await seeded(client)
        fields = {"presigned_url": url, "url": url, "host": url, "fqdn": url, "address": url, "callback": url}
        await client.post(
            "/api/v1/clients/add", json={"client_id": "b", "name": url, "preferred_combiner": url, **fields}
        )
        await client.post("/api/v1/predictions/start", json={"prediction_id": "p", "model_id": model, **fields})
        await client.post("/api/v1/predictions/start", json={"prediction_id": url, "model_id": url})
        await client.post("/api/v1/sessions/", json={"name": url, "session_config": fields, **fields})
        await client.post(
            "/api/v1/attributes/", json={"key": "k", "value": url, "sender": {"client_id": url, **fields}}
        )
        await client.get(f"/api/v1/clients/config?url={url}", headers={"Host": url.split("/")[2]})
        tasks = made.clients[0].tasks
        async with asyncio.timeout(20):
            while not tasks:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)
    assert json.loads(tasks[0].data) == {"presigned_url": ""}
    assert dialled == []


async def test_another_projects_models_and_people_are_not_there(made: Fleet, client: httpx.AsyncClient) -> None:
    control = made.made.controller
    await control.create_project("cardiology")
    own = await seeded(client)
    arrays = codec.load(await control.objects.fetch(own))
    other = await control.artifacts.add_model("cardiology", b"".join(codec.encode(Arrays({"w": arrays["0"] + 1}))))
    for path in ("", "/download", "/parameters", "/ancestors", "/descendants"):
        assert (await client.get(f"{MODELS}{other.id}{path}")).status_code == 404
    await made.server.gateway.add("a", "a", "")
    calls = Calls(made.server.grpc_address, (("client", "a"),))
    assert await calls.download(other.id) is None
    await calls.channel.close()
    await control.people.create_account("stranger")
    token, _ = await control.people.issue("stranger", called="scripts")
    for path in (MODELS, "/api/v1/clients/", "/api/v1/packages/download", "/get_controller_status"):
        refused = await client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code in {401, 403, 404}, path


async def test_a_client_fills_neither_disk_nor_store(made: Fleet, client: httpx.AsyncClient) -> None:
    sender = await made.start(FleetClient(made.server.grpc_address, "a", adds(1, 1), name="a"))
    model = await seeded(client)
    assert await sender.calls.download(model) is not None
    with pytest.raises(grpc.aio.AioRpcError):
        await sender.calls.upload("large", bytes(4 << 20))
    for number in range(10):
        await sender.calls.upload(f"u-{number}", npz([np.zeros(2, np.float32)]))
    status = pb.Status(sender=sender.sender(), status="s" * 200_000, log_level=pb.INFO)
    for _ in range(40):
        await asyncio.gather(*(sender.calls.unary("SendStatus", status) for _ in range(20)))
    kept = await made.made.controller.store.list(NoteRecord, Query("default", {"kind": "status"}, limit=1000))
    assert len(folders(made.settings.data / "fedn" / "uploads")) == 4
    assert kept.total <= 1200
    assert max(len(str(note.data["status"])) for note in kept.items) <= 1 << 16


def outside(folder: Path) -> set[Path]:
    """What lies in a folder, and not in the controller's."""
    return {path for path in folder.rglob("*") if "controller" not in path.parts}


def folders(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
