"""What may be done with predictions: each is started, stopped and deleted here."""

import asyncio
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

import structlog

from hansa.errors import ConfigError, ConflictError, HansaError
from hansa.messages import RunSpec
from hansa.network.controller.artifacts import Artifacts
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.names import checked_name
from hansa.network.controller.people import People
from hansa.network.controller.quotas import Quotas
from hansa.network.controller.tree import ProjectTree
from hansa.run import resolve
from hansa.store.ports import MetadataStore
from hansa.store.records import PredictionRecord, ProjectRecord, SessionState

__all__ = ["Predictions"]

_log = structlog.get_logger(__name__)


class Predictions:
    """The predictions of every project; the tree of their project asks for them."""

    def __init__(
        self,
        store: MetadataStore,
        *,
        people: People,
        quotas: Quotas,
        artifacts: Artifacts,
        tree: Callable[[str], ProjectTree],
    ) -> None:
        """tree: of a project."""
        self._store = store
        self._people = people
        self._quotas = quotas
        self._artifacts = artifacts
        self._tree = tree

    async def start(
        self, project: str, spec: RunSpec, *, model: str, package: str | None = None, by: str = SERVER
    ) -> PredictionRecord:
        """Ask the clients that the spec's rules choose what a model predicts of their data.

        Raises `ConfigError`, and `NotFoundError` for a foreign model or package.
        """
        spec = replace(spec, project=project)
        if spec.parties or spec.transforms:
            raise ConfigError("a prediction has neither parties nor transforms: leave them out")
        resolve(spec)
        await self._store.get(ProjectRecord, project, project)
        await self._quotas.need_prediction(project, by)
        prediction = PredictionRecord(
            id=uuid.uuid4().hex[:12],
            project=project,
            name=checked_name(spec.name, "prediction"),
            model=model,
            package=package,
            spec=spec,
            state=SessionState.RUNNING,
            created_at=time.time(),
        )
        async with self._artifacts.held(project, model, package):
            tree = self._tree(project)
            told = audit_line(project, by, "prediction.start", prediction.id, detail=prediction.name)
            await self._store.create(prediction, told)
            try:
                tree.predict(prediction)
            except HansaError as error:
                ended = replace(prediction, state=SessionState.FAILED, cause=str(error), ended_at=time.time())
                await self._store.put(ended)
                raise
            await asyncio.sleep(0)  # it holds the model itself
        return prediction

    async def stop(self, project: str, prediction: str, by: str = SERVER) -> PredictionRecord:
        """Stop a prediction that is under way; what was answered is kept."""
        await self._store.get(PredictionRecord, project, prediction)
        await self._people.note(audit_line(project, by, "prediction.stop", prediction))
        await self._tree(project).stop_prediction(prediction, f"stopped by {by}")
        return await self._store.get(PredictionRecord, project, prediction)

    async def delete(self, project: str, prediction: str, by: str = SERVER) -> None:
        """Delete a prediction that is not under way, with its answers."""
        found = await self._store.get(PredictionRecord, project, prediction)
        if self._tree(project).is_predicting(prediction):
            raise ConflictError(f"prediction {found.name} is under way; stop it before you delete it")
        told = audit_line(project, by, "prediction.delete", prediction, detail=found.name)
        await self._store.delete_prediction(project, prediction, told)

    async def take_up(self, prediction: PredictionRecord) -> None:
        """Go on with one that was under way when the controller last ended; one that cannot has failed."""
        try:
            self._tree(prediction.project).predict(prediction)
        except HansaError as error:  # for example a plug-in that is not installed any more
            cause = f"it could not go on when the controller came back: {type(error).__name__}: {error}"
            await self._store.put(replace(prediction, state=SessionState.FAILED, cause=cause, ended_at=time.time()))
            _log.error("a prediction could not go on", prediction=prediction.id, why=str(error))
