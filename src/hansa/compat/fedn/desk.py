"""Where the tasks of one FEDn client lie until it has answered them: what a worker process is to a hansa client.

The client's agent (`hansa.network.client.agent`) does all else, as for any client of the network: it is invited, keeps
what was learned until the round is committed, signs it, offers it again. A FEDn client cannot be told to stop, and
says nothing of a failure; so a task that it does not answer ends with the round's deadline, or when it is gone.
"""

import asyncio
import itertools
import json
import math
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from hansa.app import App
from hansa.arrays import Arrays
from hansa.compat.fedn.errand import Answer, Errand
from hansa.compat.fedn.formats import NUMPY, helper_of, read_update
from hansa.compat.fedn.models import Files, Room
from hansa.compat.fedn.passes import Passes
from hansa.errors import InputError, UserCodeError
from hansa.messages import ClientInfo, Contribution, Kind, Metrics, RunSpec, Sample, Task, Update
from hansa.network.client.correspondence import Correspondence
from hansa.network.client.outbox import leave
from hansa.run import resolve
from hansa.wire import codec, packing
from hansa.wire.frames import Answer as Work
from hansa.wire.frames import Blob, Evaluated, FromNode, Offer, OpenRound, Predicted, Progress, RoundKey, Samples
from hansa.wire.limits import MAX_DOCUMENT

__all__ = ["Desk", "round_config"]

_log = structlog.get_logger(__name__)

_EARLY_KEPT: Final = 2
"""Answers that stay whose task has not come (again): this server was restarted while the client trained."""
_COPIES: Final = 4
"""Of a model, that are in memory while an update is made of what a client has trained from it."""
_ANSWERED_KEPT: Final = 16
_LEASE: Final = 20.0
"""Seconds within which it is said that a party is here."""
_LOOKS: Final = 3
"""In a lease: a client that is heard of keeps a training task by it, and has one lease for an evaluation."""


class Desk:
    """Stands in the place of a `Workshop`: one errand at a time is with the client."""

    def __init__(
        self,
        client: ClientInfo,
        client_id: str,
        work: Path,
        files: Files,
        room: Room,
        *,
        here: Callable[[], bool],
        hand_out: Callable[[Errand], bool],
        validates: bool = True,
        round_id: Callable[[RoundKey], str] = lambda key: str(key.round),
    ) -> None:
        """client, client_id: it, and as it calls itself; work: its agent's folder; files: models as clients fetch them.

        room: to work on models; here: whether the client was heard of lately; hand_out: give it an errand now, if it
        listens, which it returns; validates: whether its kind evaluates models at all; round_id: what clients call a
        round.
        """
        self._client = client
        self._client_id = client_id
        self._work = work
        self._objects = work / "objects"
        self._files = files
        self._room = room
        self._here = here
        self._hand_out = hand_out
        self._round_id = round_id
        self._validates = validates
        """Whether it may be expected to evaluate; one that has no function for it says nothing."""
        self._given: dict[RoundKey, tuple[Errand, asyncio.Future[Answer]]] = {}
        self._tell: Callable[[FromNode], None] = lambda _: None
        self._early: dict[RoundKey, Answer] = {}
        self._answered: deque[tuple[RoundKey, str]] = deque(maxlen=_ANSWERED_KEPT)

    # ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Nothing has to be started: the client is there, or comes."""

    async def aclose(self) -> None:
        """Nothing has to be ended."""

    async def work(
        self,
        opened: OpenRound,
        on_frame: Callable[[FromNode], None],
        correspondence: Correspondence | None = None,
    ) -> Work:
        """Have the client do a task; raises `UserCodeError` for an answer that cannot be used."""
        key = opened.key
        if correspondence is not None:
            return await self._passes(opened, on_frame).run(correspondence)
        if key.kind is not Kind.TRAIN and not self._validates:
            raise UserCodeError(f"{self._client.name} does not evaluate models")
        helper = helper_in(opened.spec)
        await self._files.make(opened.model.digest, helper, lambda: self._model(opened.model))
        answer = self._early.pop(key, None)
        if answer is None or answer.model != opened.model.digest:
            lease = opened.spec.rules.lease
            patience = math.inf if key.kind is Kind.TRAIN else lease
            answer = await self._ask(self._errand(opened, helper), lease, patience, on_frame)
        self._answered.append((key, answer.model))
        try:
            if answer.file is None:
                return await asyncio.to_thread(self._finish, opened, helper, answer)
            async with self._room.of(_COPIES * opened.model.size):
                return await asyncio.to_thread(self._finish, opened, helper, answer)
        finally:
            answer.drop()

    def _errand(self, opened: OpenRound, helper: str) -> Errand:
        key, model, session, data = opened.key, opened.model.digest, opened.key.run, ""
        match key.kind:
            case Kind.TRAIN:
                data = json.dumps(round_config(opened.spec, key, self._round_id(key), model, helper))
            case Kind.PREDICT:
                session, data = opened.spec.name, json.dumps({"presigned_url": ""})
            case _:
                pass
        return Errand(str(uuid.uuid4()), key, session, model, helper, data)

    def _passes(self, opened: OpenRound, on_frame: Callable[[FromNode], None]) -> Passes:
        """Of split learning: a pass may take as long as the session's deadline."""
        rules = opened.spec.rules

        def told(number: int) -> Mapping[str, object]:
            key = RoundKey(opened.key.run, number, Kind.TRAIN)
            return round_config(opened.spec, key, self._round_id(key), "", "")

        return Passes(
            opened,
            self._client_id,
            self._work,
            lambda errand: self._ask(errand, min(_LEASE, rules.deadline), rules.deadline, on_frame),
            told,
        )

    async def _ask(self, errand: Errand, lease: float, patience: float, on_frame: Callable[[FromNode], None]) -> Answer:
        """lease: seconds within which it is said that the client is here; patience: for which it may take."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        key = errand.key
        self._given[key] = errand, answered
        self._tell = on_frame
        try:
            if self._hand_out(errand) and errand.gradients is not None and errand.gradients.fetched:
                answered.set_result(Answer(errand.model))
            for look in itertools.count(1):
                if (await asyncio.wait([answered], timeout=lease / _LOOKS))[0]:
                    break
                if look * lease / _LOOKS >= patience:
                    self._validates &= key.kind is not Kind.EVALUATE
                    raise UserCodeError(f"{self._client.name} has not answered ({key.kind}) in {patience:g} seconds")
                if self._here():
                    on_frame(Progress(key, self._client.name, key.kind.value, 0, 0))
            return answered.result()
        finally:
            del self._given[key]

    # ── the client ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def errands(self) -> tuple[Errand, ...]:
        """Those that wait for an answer."""
        return tuple(errand for errand, _ in self._given.values())

    def listened(self) -> tuple[Errand, ...]:
        """The client listens anew: what it is given (again).

        It has then done with whatever it had fetched of gradients: a second time it would step its bottom twice.
        """
        for errand, answered in self._given.values():
            if errand.gradients is not None and errand.gradients.fetched and not answered.done():
                answered.set_result(Answer(errand.model))
        return self.errands

    def waits_for(self, errand: Errand) -> bool:
        """Whether an answer is still wanted."""
        given = self._given.get(errand.key)
        return given is not None and given[0] is errand and not given[1].done()

    def log(self, model: str, values: Sequence[Sample]) -> bool:
        """Numbers that it measured on the way, in the errand with this model; False: it has none of it."""
        for errand, _ in self._given.values():
            if errand.model == model:
                self._tell(Samples(self._client.name, tuple(values), errand.key))
                return True
        return False

    def answer(self, answer: Answer, key: RoundKey | None, kind: Kind, session: str = "") -> str:
        """Take a client's answer; returns in a word what becomes of it. key, session: as it says it, if it can."""
        self._validates |= kind is Kind.EVALUATE
        for errand, answered in self._given.values():
            alike = errand.key.kind is kind and errand.model == answer.model
            if alike and (key is None or key == errand.key) and (not session or session == errand.session):
                if answered.done():
                    answer.drop()
                    return "duplicate"
                answered.set_result(answer)
                return "received"
        if key is None or (key, answer.model) in self._answered:
            answer.drop()
            return "duplicate" if key is not None else "late"
        self._early.setdefault(key, answer)
        if self._early[key] is not answer:
            answer.drop()
            return "duplicate"
        for old in list(self._early)[:-_EARLY_KEPT]:
            self._early.pop(old).drop()
        return "kept until its round is open"

    # ── what was learned ─────────────────────────────────────────────────────────────────────────────────────────

    def _model(self, blob: Blob) -> Arrays:
        if blob.inline or not blob.size:
            return codec.decode(blob.inline)
        return codec.load(self._objects / blob.digest)

    def _finish(self, opened: OpenRound, helper: str, answer: Answer) -> Work:
        """The client's half of the run's algorithm, over what the client has trained or measured."""
        key, name = opened.key, self._client.name
        if key.kind is Kind.PREDICT:
            return Predicted(key, name, _document(answer.document))
        numbers = _numbers(answer.metadata)
        if key.kind is Kind.EVALUATE:
            return Evaluated(key, name, _examples(answer.metadata, otherwise=1), numbers)
        if answer.file is None:
            raise UserCodeError(f"{name} reported an update of round {key.round} without a model")
        model = self._model(opened.model)
        try:
            with answer.file.open("rb") as file:
                trained = read_update(file, helper_of(helper), model)
        except InputError as error:
            raise UserCodeError(f"the update of {name} cannot be used: {error}") from error
        run, app = resolve(opened.spec), _app_of(Update(trained, _examples(answer.metadata), numbers))
        del trained  # what is made of it is as large
        update = run.train(app, model, run.task(app, self._client, key.round, key.kind), private=True)
        contribution = Contribution(name, update.num_examples, update.metrics)
        return Offer(key, name, leave(packing.pack(update), self._objects, key), (contribution,))


def helper_in(spec: RunSpec) -> str:
    """The helper by which a session's models travel to FEDn's clients."""
    named = spec.config.get("helper_type")
    return named if isinstance(named, str) and named else NUMPY


def round_config(spec: RunSpec, key: RoundKey, round_id: str, model: str, helper: str) -> Mapping[str, object]:
    """What a client is told of its round: as FEDn tells it, every value is text."""
    rules = spec.rules
    told: dict[str, object] = {
        "aggregator": spec.algorithm,
        "aggregator_kwargs": "None",
        "round_timeout": f"{rules.deadline:g}",
        "buffer_size": str(-1 if rules.enough is None else rules.enough),
        "rounds": "1",
        "delete_models_storage": "True",
        "clients_required": str(rules.min_clients),
        "requested_clients": str(rules.count),
        "validate": str(spec.evaluation.every > 0 and spec.evaluation.clients),
        "helper_type": helper,
        "model_id": model,
        "server_functions": "None",
        "round_id": round_id,
        "task": "training",
        "session_id": key.run,
        "_job_id": str(uuid.uuid4()),
    }
    settings = spec.config.get("client_settings")
    return told | ({"client_settings": settings} if isinstance(settings, Mapping) else {})


def _app_of(returned: Update) -> App:
    """An app whose training was done elsewhere, once. It keeps nothing, however long it is there itself."""
    app, waiting = App(), [returned]

    @app.train
    def train(_model: Arrays, _task: Task) -> Update:
        return waiting.pop()

    @app.evaluate
    def evaluate(_model: Arrays, _task: Task) -> Metrics:
        raise AssertionError("a FEDn client evaluates by itself")

    return app


def _document(text: str) -> bytes:
    """A prediction; raises `UserCodeError` for what is no JSON, or too much."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserCodeError(f"the prediction is no JSON: {error}") from error
    document = text.encode()
    if len(document) > MAX_DOCUMENT:
        raise UserCodeError(f"the prediction has {len(document):,} bytes, and may have {MAX_DOCUMENT:,}: return less")
    return document


def _examples(metadata: Mapping[str, Any], otherwise: int | None = None) -> int:
    """num_examples; raises `UserCodeError` where it is needed and is none."""
    said = metadata.get("num_examples", otherwise)
    if isinstance(said, bool) or not isinstance(said, int | float) or said != said // 1 or said < 1:
        raise UserCodeError(
            f"num_examples is {said!r} in the update's metadata: save_metadata({{'num_examples': n}}, …) with n ≥ 1"
        )
    return int(said)


def _numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """What of it is a number, by name."""
    return {
        str(name): float(value)
        for name, value in metadata.items()
        if name != "num_examples" and isinstance(value, int | float) and math.isfinite(value)
    }
