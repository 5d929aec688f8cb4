"""FEDn's REST API: the statuses, keys and types of its own server's answers."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fedn_fleet import (
    CppClient,
    Fleet,
    FleetClient,
    adds,
    differences,
    ended,
    fleet,
    npz,
    scripts,
    seeded,
    tensors_of,
)

from hansa.compat.fedn.catalogue import Catalogue
from hansa.compat.fedn.formats import NUMPY, helper_of, read_model, write_model
from hansa.compat.fedn.listing import Asked, select
from hansa.store.records import SampleRecord, SessionState

ANSWERS: dict[str, Any] = json.loads(Path(__file__).with_name("fedn_answers.json").read_text())
"""Of every answer of FEDn 0.33.0's own server that was looked at: its status, and its body's keys with their types."""
CONFIG = {
    "aggregator": "fedavg", "aggregator_kwargs": None, "round_timeout": 30, "buffer_size": -1,
    "delete_models_storage": True, "clients_required": 3, "requested_clients": 8, "validate": True,
    "helper_type": "numpyhelper", "server_functions": None,
}  # fmt: skip
SURFACE: dict[str, Any] = json.loads(Path(__file__).with_name("fedn_surface.json").read_text())
"""Its routes, its commands, and the tensors of a model file that it has written."""
BETTER: dict[str, tuple[int, str]] = {
    "add_client_badpref": (400, "an unknown combiner is refused with the status of a refusal"),
    "filter_in_post": (200, "a list with commas is one of its values, and no failure"),
    "model_parameters": (200, "the tensors are shown, and no failure"),
    "package_checksum": (200, "the checksum is known wherever the server runs"),
}
"""Answers that differ on purpose: the status here, and why."""
COLLECTIONS = (
    "attributes", "clients", "combiners", "metrics", "models", "packages", "predictions", "rounds", "runs", "sessions",
    "statuses", "telemetry", "validations",
)  # fmt: skip


QUERY = """{ sessions(limit: 1) {
  sessionId name committedAt models { modelId } validations { data } statuses { status }
  sessionConfig {
    aggregator bufferSize clientsRequired deleteModelsStorage helperType modelId roundTimeout validate
  }
} }"""


async def run(made: Fleet, client: httpx.AsyncClient, rounds: int = 2, **config: Any) -> str:
    """The id of a session, which has ended."""
    model = await seeded(client)
    told = {"name": "s1", "seed_model_id": model, "session_config": {**CONFIG, "model_id": model, **config}}
    created = await client.post("/api/v1/sessions/", json=told)
    assert created.status_code == 201, created.text
    session: str = created.json()["session_id"]
    started = await client.post("/api/v1/sessions/start", json={"session_id": session, "rounds": rounds})
    assert started.json() == {"message": "Session started"}
    record = await ended(made, session)
    assert record.state is SessionState.FINISHED, record.cause
    return session


def flaws_of(answers: dict[str, httpx.Response]) -> list[str]:
    """Where answers are not as FEDn's own, of all that were looked at."""
    assert set(answers) >= set(ANSWERS), "every one is compared"
    flaws = []
    for name, wanted in ANSWERS.items():
        got, status = answers[name], BETTER[name][0] if name in BETTER else wanted["status"]
        if got.status_code != status:
            flaws.append(f"{name}: {got.status_code} != {status} {got.text[:200]}")
        for header, value in wanted.get("headers", {}).items():
            if not re.fullmatch(re.escape(value).replace(r"\*", "[^;]+"), got.headers.get(header, "")):
                flaws.append(f"{name}: {header} is {got.headers.get(header)!r}, and not {value!r}")
        if "body" in wanted and name not in BETTER:
            flaws += differences(wanted["body"], got.text if name == "health" else got.json(), name)
    return flaws


def check_values(answers: dict[str, httpx.Response]) -> None:
    """What they say, beside keys and types."""
    bodies = {name: answers[name].json() for name in (*BETTER, "metrics_list")}
    assert bodies["add_client_badpref"] == {"success": False, "message": "Combiner nope not found or unavailable."}
    assert {each["name"] for each in bodies["filter_in_post"]["result"]} == {"c1", "c2"}
    assert bodies["model_parameters"] == {"array": [[2, 2]]}
    assert bodies["package_checksum"]["checksum"] == hashlib.sha256(b"a package").hexdigest()
    assert answers["package_download_headers"].content == b"a package"
    assert tensors_of(answers["model_download_headers"].content)[0].tolist() == [2, 2]
    assert answers["session_start_toofew"].json() == {
        "message": "Number of available clients is lower than the required minimum of 99"
    }
    assert answers["session_patch"].json()["status"] == "Terminated"
    assert answers["client_delete404"].json() == {"message": "Entity with id: x not found"}
    (shown, *_) = answers["graphql_sessions"].json()["data"]["sessions"]
    assert shown["name"] == "ok"
    assert (answers["health"].text, answers["health"].headers["content-type"]) == ("OK", "text/html; charset=utf-8")
    assert answers["attributes_current"].json() == {
        "x": {"charging": "True"}, "nope": "Entity with client_id: nope not found",
    }  # fmt: skip
    metrics = bodies["metrics_list"]["result"]
    assert {(each["key"], each["value"], each["sender"]["name"]) for each in metrics} == {("train_loss", 0.0, "c1")}
    assert {each["round_id"] for each in metrics} <= {"1", "2"}


async def test_every_answer_has_the_status_keys_and_types_of_fedns_own(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made, scripts(made) as client:
        for name, kind in (("c1", FleetClient), ("c2", FleetClient), ("c3", CppClient)):
            await made.start(kind(made.server.grpc_address, f"id-{name}", adds(1, 1), name=name))
        logging = made.clients[0]
        logging.metrics = {"train_loss": 0.0}
        package = io.BytesIO(b"a package")
        v1 = "/api/v1"
        await client.post(
            f"{v1}/packages/", files={"file": ("p.tgz", package)}, data={"name": "p", "helper": "numpyhelper"}
        )
        session = await run(made, client)
        await logging.telemetry({"cpu_usage": 1.5})
        model = (await client.get(f"{v1}/sessions/{session}")).json()["session_config"]["model_id"]
        sender = {"client_id": "x"}
        charging = {"key": "charging", "value": "True", "sender": sender}
        reverse = {"headers": {"X-Reverse": "true"}}
        calls: dict[str, tuple[str, str, dict[str, Any]]] = {
            "attributes_add": ("POST", f"{v1}/attributes/", {"json": charging}),
            "attributes_current": ("POST", f"{v1}/attributes/current", {"json": {"client_ids": ["x", "nope"]}}),
            "client_attributes": ("GET", f"{v1}/clients/x/attributes", {}),
            "client_config": ("GET", f"{v1}/clients/config?checksum=false", {}),
            "combiners_clients_count": ("POST", f"{v1}/combiners/clients/count", {"json": {"combiners": "root"}}),
            "controller_status": ("GET", "/get_controller_status", {}),
            "deprecated_list_models": ("GET", "/list_models", {}),
            "filter_clients_status": ("GET", f"{v1}/clients/?status=online", {}),
            "filter_dotted": ("GET", f"{v1}/statuses/?sender.name=c1", {"headers": {"X-Limit": "1"}}),
            "filter_gte": ("GET", f"{v1}/models/?committed_at__gte=2020-01-01T00:00:00", {}),
            "helper_active": ("GET", f"{v1}/helpers/active", {}),
            "model_ancestors": ("GET", f"{v1}/models/{model}/ancestors?include_self=true", reverse),
            "model_descendants": ("GET", f"{v1}/models/{model}/descendants", {}),
            "model_leaf": ("GET", f"{v1}/models/leaf-nodes", {}),
            "models_active": ("GET", f"{v1}/models/active", {}),
            "package_active": ("GET", f"{v1}/packages/active", {}),
            "session_create_bad": ("POST", f"{v1}/sessions/", {"json": {"session_config": {"aggregator": "fedavg"}}}),
            "session_create_ok": (
                "POST", f"{v1}/sessions/",
                {"json": {"name": "ok", "session_config": {**CONFIG, "model_id": model, "clients_required": 99}}},
            ),
            "session_start_nosid": ("POST", f"{v1}/sessions/start", {"json": {"rounds": 1}}),
            "add_client_badpref": (
                "POST", f"{v1}/clients/add", {"json": {"client_id": "y", "name": "y", "preferred_combiner": "nope"}},
            ),
            "filter_in_post": ("POST", f"{v1}/clients/list", {"json": {"name": "c1,c2"}}),
            "graphql_sessions": ("POST", f"{v1}/graphql", {"json": {"query": QUERY}}),
            "health": ("GET", "/health", {}),
            "model_download_headers": ("GET", f"{v1}/models/{model}/download", {}),
            "model_parameters": ("GET", f"{v1}/models/{model}/parameters", {}),
            "package_checksum": ("GET", f"{v1}/packages/checksum", {}),
            "package_download_headers": ("GET", f"{v1}/packages/download", {}),
            "session_start_unknown": ("POST", f"{v1}/sessions/start", {"json": {"session_id": "nope"}}),
            "telemetry_add": ("POST", f"{v1}/telemetry/", {"json": {"key": "load", "value": 1.5, "sender": sender}}),
            "add_client_noname": ("POST", f"{v1}/clients/add", {"json": {"client_id": "z", "package": "local"}}),
            "add_client_nopackage": ("POST", f"{v1}/clients/add", {"json": {"client_id": "x", "name": "x"}}),
        }  # fmt: skip
        for collection in COLLECTIONS:
            calls[f"{collection}_list"] = ("GET", f"{v1}/{collection}/", {"headers": {"X-Limit": "2"}})
            calls[f"{collection}_listpost"] = (
                "POST",
                f"{v1}/{collection}/list",
                {"headers": {"X-Limit": "1"}, "json": {}},
            )
            calls[f"{collection}_count"] = ("GET", f"{v1}/{collection}/count", {})
            calls[f"{collection}_countpost"] = ("POST", f"{v1}/{collection}/count", {"json": {}})
            calls[f"{collection}_get404"] = ("GET", f"{v1}/{collection}/nope", {})
        answers = {}
        for name, (method, path, options) in calls.items():
            answers[name] = await client.request(method, path, **options)
        for collection in COLLECTIONS:
            if f"{collection}_get" in ANSWERS:
                found = answers[f"{collection}_list"].json()["result"][0]
                field = {"statuses": "status_id", "telemetry": "telemetry_id"}.get(collection, f"{collection[:-1]}_id")
                got = answers[f"{collection}_get"] = await client.get(f"{v1}/{collection}/{found[field]}")
                assert got.json() == found
        too_few = {"session_id": answers["session_create_ok"].json()["session_id"], "rounds": 1}
        answers["session_start_toofew"] = await client.post(f"{v1}/sessions/start", json=too_few)
        ended_ = {"status": "Terminated"}
        answers["session_patch"] = await client.patch(f"{v1}/sessions/{too_few['session_id']}", json=ended_)
        for name in ("client_delete", "client_delete404"):
            answers[name] = await client.delete(f"{v1}/clients/x")
    assert flaws_of(answers) == []
    check_values(answers)


async def test_every_route_of_fedns_own_is_there(tmp_path: Path) -> None:
    """`/static` held pages of its own."""
    missing = []
    async with fleet(tmp_path) as made, scripts(made) as client:
        for methods, path in SURFACE["routes"]:
            for method in methods:
                answer = await client.request(method, re.sub("<[^>]*>", "nope", path), json={})
                if answer.status_code == 405 or "Not Found" in answer.text:
                    missing.append(f"{method} {path}")
    assert len(SURFACE["routes"]) > 120
    assert missing == ["GET /static/<path:filename>"]


def test_a_model_file_of_fedns_own_is_read_and_written_alike() -> None:
    tensors = [np.array(values, dtype).reshape(shape) for dtype, shape, values in SURFACE["model"].values()]
    read = read_model(io.BytesIO(npz(tensors)), helper_of(NUMPY), 1 << 20)
    written = io.BytesIO()
    write_model(read, helper_of(NUMPY), written)
    again = np.load(io.BytesIO(written.getvalue()))
    assert {name: [again[name].dtype.str, list(again[name].shape), again[name].tolist()] for name in again.files} == (
        SURFACE["model"]
    )


def test_every_command_of_fedns_own_has_its_place_in_the_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "how-to" / "from-fedn.md").read_text()
    rows = [line.split("|")[1] for line in guide.splitlines() if line.startswith("| `fedn ")]
    named = set()
    for row in rows:
        words = re.findall(r"`([^`]+)`", row)
        group = words[0].split()[1]
        for each in words:
            parts = each.split()
            named.add(" ".join(parts[1:]) if parts[0] == "fedn" else f"{group} {each}")
    assert sorted(set(SURFACE["commands"]) - named) == []


async def test_of_what_clients_tell_no_more_is_read_than_is_shown(tmp_path: Path) -> None:
    """And what is found is what looking through all of it finds."""
    async with fleet(tmp_path) as made:
        gateway, store = made.server.gateway, made.made.controller.store
        for session in ("s1", "s2"):
            gateway.numbers.of(session, 1)
        for number in range(60):
            session, sender = f"s{1 + number % 2}", {"name": f"n{number % 3}", "role": "CLIENT", "client_id": "c"}
            told = {"session_id": session, "status": f"{number}", "type": "LOG", "sender": sender}
            gateway.notes.tell("status", told, session=session)
            gateway.notes.tell("telemetry", {"key": "load", "value": number, "sender": sender})
        samples = [
            SampleRecord(f"{task}/{n}", "default", "s1" if task else "", 1, task, "c", f"k{n % 2}", n, 0.5, 1.0 + n)
            for n in range(50)
            for task in ("train", "")
        ]
        await gateway.notes.settled()
        await store.put(*samples)
        catalogue = Catalogue(gateway, ("localhost", 1))
        read = 0
        found = store.list

        async def counted(kind: Any, query: Any) -> Any:
            nonlocal read
            page = await found(kind, query)
            read += len(page.items)
            return page

        made.made.controller.store.list = counted  # type: ignore[method-assign]  # to see what is read
        asks: list[tuple[str, dict[str, Any], dict[str, str], int]] = [
            ("statuses", {}, {"x-limit": "3", "x-skip": "2"}, 5),
            ("statuses", {"sessionId": "s1"}, {"x-limit": "4"}, 4),
            ("statuses", {"session_id": "s2", "sender.name": "n1"}, {"x-limit": "4"}, 30),
            ("statuses", {"session_id": "s1,s2"}, {"x-limit": "4"}, 60),
            ("statuses", {"session_id": "unknown"}, {}, 60),
            ("statuses", {"status__gt": "50"}, {"x-sort-order": "asc"}, 60),
            ("statuses", {}, {"x-sort-key": "status", "x-limit": "4"}, 60),
            ("telemetry", {}, {"x-limit": "5"}, 10),
            ("telemetry", {"key": "k1"}, {"x-limit": "5"}, 85),
            ("metrics", {"key": "k1", "session_id": "s1"}, {"x-limit": "6"}, 6),
            ("metrics", {"step": "7"}, {}, 50),
            ("validations", {"model_id": "m"}, {}, 0),
            ("attributes", {}, {}, 0),
        ]
        for collection, where, headers, most in asks:
            asked = Asked.of(where, headers)
            expected = select(await catalogue.every(collection), asked)
            read = 0
            assert await catalogue.find(collection, asked) == expected, (collection, where)
            assert read == most, (collection, where)
