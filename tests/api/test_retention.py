"""Policies over REST: stated, changed, applied, and what a download of a pruned model is told."""

import threading
from pathlib import Path

import numpy as np
import pytest
from served import Served

from hansa.api.client import Client
from hansa.errors import ConfigError, ConflictError, NotFoundError, PrunedError
from hansa.messages import RoundRules
from hansa.store.ports import Query
from hansa.store.records import ModelRecord, SessionRecord

TWO = RoundRules(min_clients=2, quorum=2, deadline=60)


def finished(fresh: Served, client: Client, app: Path, keep: str | None = None) -> SessionRecord:
    fresh.run(fresh.nodes.clients(2))
    client.sessions.start(app, name="heart", rounds=4, rules=TWO, keep=keep)
    return client.sessions.wait("heart")


def test_a_pruned_model_is_gone_with_the_policy_and_what_is_kept(fresh: Served, app: Path, tmp_path: Path) -> None:
    client = fresh.client()
    session = finished(fresh, client, app, keep="last 2")
    assert session.keep == "last 2"
    trail = client.models.list(session=session.id, sort="round")
    assert [model.pruned_by for model in trail] == ["last 2", "last 2", None, None]
    assert client.models.get(trail[0].id) == trail[0]
    assert [model.round for model in client.models.ancestors(session.model or "")] == [3, 2, 1, 0]

    with pytest.raises(PrunedError, match=r"of round 1 of session .* `keep last 2`.* of rounds 4, 3 \(hansa model"):
        client.models.download(trail[0].id, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    refused = fresh.http(fresh.token()).get(f"/api/v1/projects/default/models/{trail[0].id}/file")
    assert (refused.status_code, refused.json()["type"]) == (410, "urn:hansa:problem:pruned")
    with pytest.raises(PrunedError):
        client.sessions.start(app, seed_model=trail[0].id)
    client.models.download(trail[2].id, tmp_path / "model")

    again = client.models.upload(client.models.load(trail[2].id), name="for the paper")
    assert again.id == trail[2].id
    client.sessions.keep("heart", "last 1")
    assert client.prune().sessions == ()
    client.models.download(trail[2].id, tmp_path / "model")  # a person holds on to it
    found = client.sessions.verify("heart")
    assert (found.rounds, found.pruned) == (4, 2)


def test_an_upload_that_nobody_names_is_deleted_and_makes_room(fresh: Served, app: Path) -> None:
    client = fresh.client()
    session = finished(fresh, client, app)
    seed, package = session.seed_model or "", session.package or ""
    for delete, name in ((client.models.delete, seed), (client.packages.delete, package)):
        with pytest.raises(ConflictError, match="is needed by session heart: delete that first"):
            delete(name[:12])
    with pytest.raises(ConflictError, match=f"is that of round 4 of session {session.id}: change which models"):
        client.models.delete(session.model or "")
    assert (client.models.get(seed).id, client.packages.get(package[:12]).id) == (seed, package)
    client.sessions.delete("heart")

    assert client.models.delete(seed[:12]).id == seed
    assert client.packages.delete(package).id == package
    assert client.models.list().total == client.packages.list().total == 0
    kept = fresh.server.controller.objects
    for digest in (seed, package):
        with pytest.raises(NotFoundError):
            fresh.run(kept.size(digest))
    told = [(line.action, line.target) for line in client.audit.list(limit=1000) if line.action.endswith(".delete")]
    assert told[-2:] == [("model.delete", seed), ("package.delete", package)]


def test_a_model_that_is_in_use_is_not_deleted(fresh: Served) -> None:
    client = fresh.client()
    model = client.models.upload({"w": np.zeros(3, np.float32)})
    holds = fresh.server.controller.retention.holds
    fresh.run(holds.hold(model.id))
    with pytest.raises(ConflictError, match="is being used at this moment"):
        client.models.delete(model.id)
    holds.release(model.id)
    client.models.delete(model.id)


def test_a_policy_is_changed_and_the_server_s_own_taken_again(fresh: Served, app: Path) -> None:
    client = fresh.client()
    session = finished(fresh, client, app)
    assert session.keep is None
    assert client.sessions.keep("heart", " best  mse min ,last 1").keep == "last 1, best mse min"
    with pytest.raises(ConfigError, match="`best mse max` or `best mse min`"):
        client.sessions.keep("heart", "best mse")
    with pytest.raises(ConfigError, match="cannot be read at 'lst 3'"):
        client.sessions.start(app, keep="lst 3")

    foreseen = client.prune(dry_run=True)
    assert [model.pruned_at for model in client.models.list(session=session.id)] == [None] * 4
    done = client.prune()

    (given_up,) = done.sessions
    assert (given_up.session, given_up.keep) == (session.id, "last 1, best mse min")
    assert foreseen.sessions == done.sessions
    assert (foreseen.objects, foreseen.bytes) == (done.objects, done.bytes)
    assert foreseen.dry_run
    assert client.prune().sessions == ()
    assert client.sessions.keep("heart", None).keep is None


def test_the_server_s_own_policy_is_for_sessions_that_state_none(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSA_KEEP", "last 1")
    server = Served(tmp_path)
    try:
        session = finished(server, server.client(), app)
        trail = server.client().models.list(session=session.id, sort="round")
        assert [model.pruned_by for model in trail] == ["last 1"] * 3 + [None]
    finally:
        server.close()


def test_a_download_under_way_gets_all_its_bytes(
    fresh: Served, app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fresh.client()
    session = finished(fresh, client, app)
    (first,) = client.models.list(session=session.id, round=1)
    objects, asked, go_on = fresh.server.controller.objects, threading.Event(), threading.Event()
    fetch = objects.fetch

    async def slowly(digest: str) -> Path:
        path = await fetch(digest)
        asked.set()
        await fresh.loop.run_in_executor(None, go_on.wait)
        return path

    monkeypatch.setattr(objects, "fetch", slowly)
    other = fresh.client()
    downloading = threading.Thread(target=other.models.download, args=(first.id, tmp_path / "model"))
    downloading.start()
    asked.wait()
    client.sessions.keep("heart", "last 1")
    (given_up,) = client.prune().sessions
    assert given_up.models == (2, 3)
    go_on.set()
    downloading.join()

    assert (tmp_path / "model").stat().st_size == first.size
    assert client.prune().sessions[0].models == (1,)
    query = Query("default", {"session": session.id, "round": 1})
    (gone,) = fresh.run(fresh.server.controller.store.list(ModelRecord, query)).items
    assert gone.pruned_at is not None
