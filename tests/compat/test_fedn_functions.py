"""FEDn's server functions: a session's class steers its rounds, in processes of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fedn_fleet import FleetClient, Tensors, ended, fleet, pb, scripts, seeded

from hansa.compat.fedn.functions import app_of, functions_of
from hansa.errors import InputError
from hansa.store.records import SessionState

CONFIG = {
    "aggregator": "fedavg", "round_timeout": 30, "buffer_size": -1, "delete_models_storage": True,
    "clients_required": 3, "validate": False, "helper_type": "numpyhelper",
}  # fmt: skip
STEERING = """
class ServerFunctions(ServerFunctionsBase):
    def __init__(self) -> None:
        self.round = 0
        self.rate = 8.0

    def client_selection(self, client_ids: List[str]) -> List:
        known = api_client.get_current_attributes(client_ids)
        return [each for each in client_ids if known[each].get("charging") == "yes"]

    def client_settings(self, global_model: List[np.ndarray]) -> Dict:
        if self.round:
            self.rate = self.rate * 0.5
        self.round += 1
        return {"learning_rate": self.rate, "tensors": len(global_model)}
"""
WHOLE = """
class ServerFunctions(ServerFunctionsBase):
    def aggregate(self, previous_global: List[np.ndarray], client_updates: Dict) -> List[np.ndarray]:
        assert sorted(client_updates) == ["c-0", "c-1", "c-2"], client_updates
        assert client_updates["c-2"][1] == {"num_examples": 3, "loss": 0.5}
        return [np.max([model[0] for model, _ in client_updates.values()], axis=0)]
"""
GROWING = """
class ServerFunctions(ServerFunctionsBase):
    def __init__(self):
        self.momentum = [np.zeros(2, np.float32)]
        self.total = None

    def incremental_aggregate(self, client_id, model, client_metadata, previous_global):
        change = [client_metadata["num_examples"] * (a - b) for a, b in zip(model, previous_global)]
        self.total = change if self.total is None else [a + b for a, b in zip(self.total, change)]
        self.before = previous_global

    def get_incremental_aggregate_model(self):
        self.momentum = [0.5 * old + new for old, new in zip(self.momentum, self.total)]
        after = [a + b for a, b in zip(self.before, self.momentum)]
        self.total = None
        return after
"""


async def run(folder: Path, source: str, rounds: int, **config: Any) -> tuple[list[float], list[FleetClient], Any]:
    """(the model at the end, the clients, the session)."""
    rates: dict[str, list[float]] = {}

    def trains(examples: int, name: str) -> Any:
        def train(model: Tensors, settings: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
            rate = settings.get("learning_rate", 1.0)
            rates.setdefault(name, []).append(rate)
            return [each + np.float32(rate * examples) for each in model], {"num_examples": examples, "loss": 0.5}

        return train

    async with fleet(folder) as made, scripts(made) as client:
        for number in range(3):
            name = f"c-{number}"
            started = await made.start(FleetClient(made.server.grpc_address, name, trains(number + 1, name), name=name))
            if number:
                await started.attributes({"charging": "yes"})
                await made.labelled(name, "charging", "yes")
        model = await seeded(client)
        told = {"name": "s", "session_config": {**CONFIG, "model_id": model, "server_functions": source, **config}}
        created = await client.post("/api/v1/sessions/", json=told)
        assert created.status_code == 201, created.text
        session = created.json()["session_id"]
        started_ = await client.post("/api/v1/sessions/start", json={"session_id": session, "rounds": rounds})
        assert started_.status_code == 200, started_.text
        record = await ended(made, session)
        assert record.state is SessionState.FINISHED, record.cause
        (array,) = (await made.made.model(record)).values()
        return [float(each) for each in array], made.clients, record


async def test_clients_are_selected_by_attributes_and_set_by_what_is_remembered(tmp_path: Path) -> None:
    """Rates 8, 4, 2 and clients 1 and 2: each round adds rate · (2·2 + 3·3) / 5."""
    result, clients, record = await run(tmp_path, STEERING, 3)
    assert record.spec.functions == ("configure", "select")
    assert [len([task for task in each.tasks if task.type == pb.MODEL_UPDATE]) for each in clients] == [0, 3, 3]
    assert result == pytest.approx([14 * 13 / 5] * 2, rel=1e-6)


async def test_models_are_aggregated_whole_or_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "growing").mkdir()
    most, _, record = await run(tmp_path / "whole", WHOLE, 2, aggregator="fedopt")
    assert (most, record.spec.algorithm, record.spec.functions) == ([6, 6], "fedavg", ("aggregate",))
    summed, _, _ = await run(tmp_path / "growing", GROWING, 2)
    assert summed == [14 + 14 + 7] * 2  # 1·1 + 2·2 + 3·3, and half of it again


async def test_functions_end_with_their_session(tmp_path: Path) -> None:
    """And the next one is FedAvg again."""

    def trains(model: Tensors, _: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        return [each + np.float32(1) for each in model], {"num_examples": 1}

    doubled = """
class ServerFunctions(ServerFunctionsBase):
    def aggregate(self, previous_global, client_updates):
        return [2 * model for model in next(iter(client_updates.values()))[0]]
"""
    async with fleet(tmp_path) as made, scripts(made) as client:
        await made.start(FleetClient(made.server.grpc_address, "a", trains, name="a"))
        results = []
        for source in (doubled, None):
            model = await seeded(client)
            config = {**CONFIG, "clients_required": 1, "model_id": model, "server_functions": source}
            told = await client.post("/api/v1/sessions/", json={"name": "s", "session_config": config})
            session = told.json()["session_id"]
            await client.post("/api/v1/sessions/start", json={"session_id": session, "rounds": 1})
            (array,) = (await made.made.model(await ended(made, session))).values()
            results.append(array.tolist())
    assert results == [[2, 2], [1, 1]]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("class ServerFunctions(:", "is no Python"),
        ("class Other: pass", "must have one class ServerFunctions, and has 0"),
        ("class ServerFunctions:\n    pass", "has none of client_selection"),
        ("x = 1\n" * 200_000, "at most 262,144 characters"),
        (7, "is source text"),
        ("(" * 100_000, "is no Python"),
    ],
)
def test_what_is_no_server_function_is_refused_before_anything_runs(source: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        functions_of(source)


def test_reading_the_class_runs_nothing_of_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    source = f"open({str(mark)!r}, 'w')\nclass ServerFunctions:\n    def client_settings(self, m): return {{}}\n"
    assert functions_of(source) == ("configure",)
    assert app_of(source) is not None
    assert not mark.exists()
