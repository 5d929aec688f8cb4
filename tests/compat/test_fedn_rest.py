"""FEDn's REST API: the statuses, keys and types of its own server's answers."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
from fedn_fleet import CppClient, Fleet, FleetClient, adds, differences, ended, fleet, scripts, seeded

from hansa.store.records import SessionState

ANSWERS: dict[str, Any] = json.loads(Path(__file__).with_name("fedn_answers.json").read_text())
"""Of every answer of FEDn 0.33.0's own server that was looked at: its status, and its body's keys with their types."""
CONFIG = {
    "aggregator": "fedavg", "aggregator_kwargs": None, "round_timeout": 30, "buffer_size": -1,
    "delete_models_storage": True, "clients_required": 3, "requested_clients": 8, "validate": True,
    "helper_type": "numpyhelper", "server_functions": None,
}  # fmt: skip
COLLECTIONS = (
    "attributes", "clients", "combiners", "metrics", "models", "packages", "predictions", "rounds", "runs", "sessions",
    "statuses", "telemetry", "validations",
)  # fmt: skip


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
        flaws, bodies = [], {}
        for name, (method, path, options) in calls.items():
            answer = await client.request(method, path, **options)
            bodies[name] = answer.json()
            if name not in ANSWERS:
                continue
            wanted = ANSWERS[name]
            if answer.status_code != wanted["status"]:
                flaws.append(f"{name}: {answer.status_code} != {wanted['status']} {answer.text[:200]}")
            flaws += differences(wanted["body"], answer.json(), name)
        for collection in COLLECTIONS:
            if ANSWERS.get(f"{collection}_get"):
                found = bodies[f"{collection}_list"]["result"][0]
                field = {"statuses": "status_id", "telemetry": "telemetry_id"}.get(collection, f"{collection[:-1]}_id")
                got = await client.get(f"{v1}/{collection}/{found[field]}")
                assert got.json() == found
                flaws += differences(ANSWERS[f"{collection}_get"]["body"], got.json(), f"{collection}_get")
        too_few = bodies["session_create_ok"]["session_id"]
        answer = await client.post(f"{v1}/sessions/start", json={"session_id": too_few, "rounds": 1})
        patched = await client.patch(f"{v1}/sessions/{too_few}", json={"status": "Terminated"})
        deleted = [await client.delete(f"{v1}/clients/x"), await client.delete(f"{v1}/clients/x")]
        health = await client.get("/health")
    assert flaws == []
    assert (answer.status_code, answer.json()) == (
        400,
        {"message": "Number of available clients is lower than the required minimum of 99"},
    )
    assert (patched.status_code, patched.json()["status"]) == (200, "Terminated")
    assert [each.json()["message"] for each in deleted] == ["Client deleted", "Entity with id: x not found"]
    assert (health.text, health.headers["content-type"]) == ("OK", "text/html; charset=utf-8")
    assert bodies["attributes_current"] == {"x": {"charging": "True"}, "nope": "Entity with client_id: nope not found"}
    metrics = bodies["metrics_list"]["result"]
    assert {(each["key"], each["value"], each["sender"]["name"]) for each in metrics} == {("train_loss", 0.0, "c1")}
    assert {each["round_id"] for each in metrics} <= {"1", "2"}
