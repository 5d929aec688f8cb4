"""Split learning with FEDn's clients: the bits of the same program in one process, and what is done once."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from federation import PROJECT
from fedn_fleet import Calls, Fleet, FleetClient, ended, fleet, pb, scripts

from hansa.compat.fedn.split import LogisticTop, labels_in, logistic_score
from hansa.distributed import Split, aligned_vertical, run, star
from hansa.errors import AppError, InputError
from hansa.messages import ClientInfo, RoundRules, RunSpec
from hansa.packages.package import build
from hansa.programs.encoding import encode, named
from hansa.store.records import SessionState
from hansa.training.numpy_parts import DenseBottom

RNG = np.random.default_rng(4)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.float32)
TRAIN, ROUNDS = 30, 3
COLUMNS = {"a": slice(0, 3), "b": slice(3, 6)}
INIT = {name: RNG.normal(size=(3, 2)).astype(np.float32) for name in COLUMNS}
CONFIG = {
    "aggregator": "splitlearningagg", "helper_type": "splitlearninghelper", "model_id": None, "round_timeout": 60,
    "buffer_size": -1, "delete_models_storage": True, "clients_required": 2, "requested_clients": 8, "validate": True,
}  # fmt: skip


def bottom(name: str) -> DenseBottom:
    return DenseBottom({"weight0": INIT[name]}, 0.1, rectify_last=True)


def labels(folder: Path, **arrays: Any) -> Path:
    (folder / "labels").mkdir()
    np.savez(folder / "labels" / "labels.npz", **(arrays or {"y_train": Y[:TRAIN, None], "y_test": Y[TRAIN:]}))
    return folder / "labels"


def member(made: Fleet, name: str) -> tuple[FleetClient, DenseBottom]:
    part, x = bottom(name), X[:, COLUMNS[name]]

    def forward(client_id: str, is_sl_inference: str) -> np.ndarray:
        assert (client_id, is_sl_inference) in {(name, "True"), (name, "False")}
        return np.asarray(part.predict(x[TRAIN:]) if is_sl_inference == "True" else part.forward(x[:TRAIN]))

    address = made.server.grpc_address
    client = FleetClient(address, name, lambda model, _: (model, {}), forward=forward, backward=part.backward)
    return client, part


async def begin(made: Fleet, rounds: int = ROUNDS, **config: Any) -> str:
    async with scripts(made) as client:
        told = {"name": "split", "session_config": CONFIG | config}
        created = await client.post("/api/v1/sessions/", json=told)
        assert created.status_code == 201, created.text
        session: str = created.json()["session_id"]
        started = await client.post(
            "/api/v1/sessions/start_splitlearning_session", json={"session_id": session, "rounds": rounds}
        )
        assert started.json() == {"message": "Splitlearning session started"}
    return session


def together(rounds: int = ROUNDS) -> Any:
    """What the same comes to in one process, with the parties in the order of their ids."""

    def data(client: ClientInfo) -> Split:
        of = Y if client.index == 0 else X[:, COLUMNS["_ab"[client.index]]]
        return Split(of[:TRAIN], of[TRAIN:])

    made = {k: bottom("_ab"[k]) for k in (1, 2)}
    program = aligned_vertical(
        LogisticTop, data, score=logistic_score, bottom=lambda party, _: made[party], rounds=rounds
    )
    return run(program, star(3), seed=0).results


def digest(result: Any) -> str:
    return blake3(named(encode(result))[1]).hexdigest()


async def left(made: Fleet, session: Any) -> str:
    """The model that `central` has left."""
    (told,) = await made.made.events(session, "party.model")
    return str(told.data["model"])


async def test_a_session_of_fedn_clients_has_the_bits_of_one_process(tmp_path: Path) -> None:
    async with fleet(tmp_path, central_data=labels(tmp_path)) as made:
        parts = {}
        for name in "ba":
            client, parts[name] = member(made, name)
            await made.start(client)
        session = await ended(made, await begin(made))
        model = await left(made, session)
        metrics = {each.name: each.value for each in await made.made.metrics(session, client="central")}
    assert session.state is SessionState.FINISHED, session.cause
    lead, *parties = together()
    assert model == digest(lead)
    for name, party in zip("ab", parties, strict=True):
        assert np.array_equal(parts[name].arrays()["weight0"], party.part["weight0"])
    assert metrics == {
        "losses": lead.losses[-1], "test_losses": lead.test_losses[-1], "accuracies": lead.accuracies[-1]
    }  # fmt: skip
    assert lead.losses[-1] < lead.losses[0]
    tasks = [(pb.StatusType.Name(each.type)) for each in made.clients[0].tasks]
    assert tasks == ["FORWARD", "BACKWARD", "FORWARD"] * ROUNDS


async def test_another_top_is_an_app_of_ones_own_in_which_hansa_clients_take_part_too(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text(TOP)
    async with fleet(tmp_path, central_data=labels(tmp_path)) as made:
        client, part = member(made, "a")
        await made.start(client)
        await made.made.client("h", app=tmp_path / "app" / "app.py")
        package = (await made.made.controller.artifacts.add_package(PROJECT, build(tmp_path / "app", name="top"))).id
        spec = RunSpec(parties=("central", "a", "h"), rules=RoundRules(deadline=60))
        session = await made.made.controller.sessions.create(PROJECT, spec, seed_model=None, package=package)
        await made.made.controller.sessions.start(PROJECT, session.id)
        session = await made.made.end(session)
        model = await left(made, session)
    assert session.state is SessionState.FINISHED, session.cause
    other = np.random.default_rng(9).normal(size=(40, 3)).astype(np.float32)

    def data(client: ClientInfo) -> Split:
        of = (Y, X[:, COLUMNS["a"]], other)[client.index]
        return Split(of[:TRAIN], of[TRAIN:])

    def make(party: int, rng: np.random.Generator) -> DenseBottom:
        weights = INIT["a"] if party == 1 else rng.normal(size=(3, 2)).astype(np.float32)
        return DenseBottom({"weight0": weights}, 0.1, rectify_last=True)

    program = aligned_vertical(LogisticTop, data, score=logistic_score, bottom=make, rounds=2)
    lead, first, _ = run(program, star(3), seed=0).results
    assert model == digest(lead)
    assert np.array_equal(part.arrays()["weight0"], first.part["weight0"])


async def test_gradients_are_applied_once_when_the_word_that_they_were_is_lost(tmp_path: Path) -> None:
    """The server goes when a client has its gradients; the client comes back, and goes on."""
    async with fleet(tmp_path, central_data=labels(tmp_path)) as made:
        parts, lost = {}, asyncio.Event()

        class Loses(FleetClient):
            async def stepped(self, task: Any) -> None:
                if not lost.is_set():
                    lost.set()
                    await made.restart()
                    return
                await super().stepped(task)

        for name in "ab":
            client, parts[name] = member(made, name)
            if name == "a":
                client.__class__ = Loses
            await made.start(client)
        session = await ended(made, await begin(made))
        model = await left(made, session)
    assert session.state is SessionState.FINISHED, session.cause
    lead, *parties = together()
    assert model == digest(lead)
    for name, party in zip("ab", parties, strict=True):
        assert np.array_equal(parts[name].arrays()["weight0"], party.part["weight0"])


async def test_an_output_that_was_made_while_the_server_was_away_is_asked_for_again(tmp_path: Path) -> None:
    async with fleet(tmp_path, central_data=labels(tmp_path)) as made:
        parts, lost = {}, asyncio.Event()

        class Loses(FleetClient):
            async def do_forward(self, task: Any) -> None:
                if not lost.is_set():
                    lost.set()
                    await made.restart()
                await super().do_forward(task)

        for name in "ab":
            client, parts[name] = member(made, name)
            if name == "b":
                client.__class__ = Loses
            await made.start(client)
        session = await ended(made, await begin(made, rounds=2))
        model = await left(made, session)
    assert session.state is SessionState.FINISHED, session.cause
    assert model == digest(together(2)[0])


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        ({"meta": {"error": "no such layer"}}, "the backward pass of a failed: no such layer"),
        ({"forward": lambda *_: np.full((TRAIN, 2), np.nan, np.float32)}, "the output of a cannot be used"),
        ({"forward": lambda *_: np.zeros((7, 2), np.float32)}, r"sends an output of shape \(7, 2\)"),
    ],
)
async def test_a_pass_that_fails_is_the_cause_of_its_session(
    tmp_path: Path, spoil: Mapping[str, Any], cause: str
) -> None:
    async with fleet(tmp_path, central_data=labels(tmp_path)) as made:
        client, _ = member(made, "a")
        for name, value in spoil.items():
            setattr(client, name, value)
        await made.start(client)
        session = await ended(made, await begin(made, clients_required=1))
    assert session.state is SessionState.FAILED
    assert session.cause is not None
    assert re.search(cause, session.cause), session.cause


async def test_what_is_said_of_passes_that_nobody_asked_for_changes_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made:
        client, _ = member(made, "a")
        await made.start(client)
        calls = Calls(client.address, client.metadata())
        told = pb.BackwardCompletion(sender=client.sender(), gradient_id="pass-0", meta="{}")
        assert (await calls.unary("SendBackwardCompletion", told)).response.endswith("late")
        await calls.upload("u", b"anything", client.sender())
        assert (await client.update("pass-0", "u", {"training_metadata": {}})).endswith("late")
        await calls.channel.close()


async def test_a_session_cannot_begin_without_enough_clients_and_says_which_labels_it_needs(tmp_path: Path) -> None:
    async with fleet(tmp_path) as made:
        async with scripts(made) as script:
            created = await script.post("/api/v1/sessions/", json={"name": "s", "session_config": CONFIG})
            session = created.json()["session_id"]
            start = {"session_id": session, "rounds": 1}
            refused = await script.post("/api/v1/sessions/start_splitlearning_session", json=start)
            assert refused.status_code == 400
            assert "lower than the required minimum of 2" in refused.json()["message"]
        client, _ = member(made, "a")
        await made.start(client)
        over = await ended(made, await begin(made, clients_required=1))
        assert over.state is SessionState.FAILED
        assert "set HANSA_CENTRAL_DATA" in str(over.cause)
        async with scripts(made) as script:
            again = {"session_id": over.id, "rounds": 1}
            refused = await script.post("/api/v1/sessions/start_splitlearning_session", json=again)
            assert "start another session" in refused.json()["message"]


def test_labels_are_zeros_and_ones_by_their_names(tmp_path: Path) -> None:
    folder = labels(tmp_path, y_train=np.array([0, 1, 2]), y_test=np.array([1]))
    with pytest.raises(AppError, match=r"y_train of .* must be some labels 0 and 1"):
        labels_in(str(folder), testing=True)
    np.savez(folder / "labels.npz", y=np.array([0, 1]))
    with pytest.raises(AppError, match="has no y_train; it has y"):
        labels_in(str(folder), testing=False)
    np.savez(folder / "labels.npz", y_train=np.array([{}], object))
    with pytest.raises(InputError, match=r"is no \.npz of numbers"):
        labels_in(str(folder), testing=False)


TOP = f"""
import numpy as np
import hansa
from hansa.compat.fedn.split import LogisticTop, labels_in, logistic_score
from hansa.distributed import Split, aligned_vertical, star
from hansa.training.numpy_parts import DenseBottom

app = hansa.App()
X = np.random.default_rng(9).normal(size=(40, 3)).astype(np.float32)


def data(client):
    return labels_in(client.settings["data"], testing=True) if client.index == 0 else Split(X[:{TRAIN}], X[{TRAIN}:])


def bottom(party, rng):
    return DenseBottom({{"weight0": rng.normal(size=(3, 2)).astype(np.float32)}}, 0.1, rectify_last=True)


@app.program
def program(parties):
    return aligned_vertical(LogisticTop, data, score=logistic_score, bottom=bottom, rounds=2), star(parties)
"""
