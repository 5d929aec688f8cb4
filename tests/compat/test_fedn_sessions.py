"""Sessions with FEDn's clients: they are clients as all others, and what they train is the same to the bit."""

import importlib.util
from pathlib import Path
from typing import Any

from fedn_fleet import CppClient, Fleet, FleetClient, KotlinClient, Tensors, fleet

import hansa
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.store.records import SessionState

APP = Path(__file__).with_name("softmax.py")
_spec = importlib.util.spec_from_file_location("softmax", APP)
assert _spec is not None
assert _spec.loader is not None
softmax: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(softmax)


def spec_of(clients: int, rounds: int = 2, **more: Any) -> RunSpec:
    rules = RoundRules(min_clients=clients, quorum=clients, deadline=60)
    return RunSpec(rounds=rounds, rules=rules, evaluation=EvaluationRules(central=False), **more)


def member(made: Fleet, share: int, kind: type[FleetClient] = FleetClient, **more: Any) -> FleetClient:
    """A FEDn client that trains what the app's client of this share does."""
    x, y = softmax.examples(share)

    def train(model: Tensors, _: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        return list(softmax.step(*model, x, y)), {"num_examples": len(y)}

    def validate(model: Tensors) -> dict[str, Any]:
        return {"accuracy": softmax.accuracy(*model, x, y)}

    return kind(made.server.grpc_address, f"client-{share}", train, validate, name=f"n-{share}", **more)


async def test_a_session_of_fedn_clients_has_the_bits_of_the_simulation(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made:
        clients = [await made.start(member(made, share)) for share in range(3)]
        session = await made.made.run(APP, spec_of(3), package=False)
        metrics = await made.made.metrics(session, name="accuracy", client="")
    assert session.state is SessionState.FINISHED, session.cause
    simulated = hansa.simulate(APP, spec_of(3), clients=3)
    assert session.model == simulated.model_hash
    for share, client in enumerate(clients):
        assert client.replies == [f"RECEIVED ModelUpdate from client n-{share}: received"] * 2
    assert [round(record.value, 6) for record in metrics] == [
        round(record.evaluation["accuracy"], 6) for record in simulated.rounds
    ]


async def test_three_families_and_hansa_clients_make_one_model(tmp_path: Path) -> None:
    async with fleet(tmp_path, ["north"]) as made:
        for share, kind in enumerate((FleetClient, CppClient, KotlinClient)):
            await made.start(member(made, share, kind))
        await made.made.client("client-3", 3, 4, app=APP)
        spec = spec_of(4)
        session = await made.made.run(APP, spec, package=False)
        rounds = await made.made.rounds(session)
    assert session.state is SessionState.FINISHED, session.cause
    assert session.model == hansa.simulate(APP, spec, clients=4).model_hash
    assert [record.weight for record in rounds] == [20 + 21 + 22 + 23] * 2
