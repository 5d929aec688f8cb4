"""The Python client against a real server, with real nodes."""

from pathlib import Path

from blake3 import blake3
from served import Served

from hansa.app import load_app
from hansa.messages import RoundRules, RunSpec
from hansa.run import resolve
from hansa.store.records import SessionState
from hansa.wire import codec

TWO = RoundRules(min_clients=2, quorum=2, deadline=60)


def test_a_session_from_start_to_download(fresh: Served, app: Path, tmp_path: Path) -> None:
    fresh.run(fresh.nodes.clients(2))
    with fresh.client() as client:
        session = client.sessions.start(app, name="heart", rounds=3, seed=5, rules=TWO)
        assert session.state is SessionState.RUNNING
        kinds = [happened.kind for happened in client.sessions.watch("heart")]
        ended = client.sessions.wait("heart")
        assert (ended.state, ended.round, ended.id) == (SessionState.FINISHED, 3, session.id)
        assert kinds.count("round.committed") == 3
        assert kinds[-1] == "session.finished"

        rounds = client.rounds.list(session=session.id, sort="-number")
        assert [record.number for record in rounds] == [3, 2, 1]
        assert client.rounds.get(session.id, 2) == rounds[1]
        assert rounds[0].weight == 10 + 11
        contributions = client.rounds.contributions(session.id, 3)
        assert [(record.client, record.outcome) for record in contributions] == [
            ("client-0", "accepted"),
            ("client-1", "accepted"),
        ]
        merged = client.metrics.validations(session=session.id, round=3, client="")
        assert [metric.name for metric in merged] == ["mse"]

        assert ended.model is not None
        file = client.models.download(ended.model[:10], tmp_path / "model.safetensors")
        assert blake3(file.read_bytes()).hexdigest() == ended.model
        trail = client.models.ancestors(ended.model)
        assert [model.round for model in trail] == [2, 1, 0]
        seed = resolve(RunSpec(seed=5)).initial_model(load_app(app))
        assert trail[2].id == codec.digest(seed) == session.seed_model
        assert ended.model in {model.id for model in client.models.descendants(trail[2].id)}
        assert sorted(node.name for node in client.clients.list(connected=True)) == ["client-0", "client-1"]
        client.sessions.delete("heart")
        assert client.sessions.list().total == 0
