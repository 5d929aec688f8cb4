"""Predictions: asked for, looked at, read."""

from typing import Annotated, Any

from fastapi import Depends, Response
from fastapi import Query as Parameter

from hansa.api.documents import record_document
from hansa.api.guard import Routes, caller
from hansa.api.permissions import Permission
from hansa.api.requests import NewPrediction
from hansa.api.results import Waiting
from hansa.api.routes.lists import Cursors, add_list, list_shape, listed
from hansa.api.shapes.predictions import AnswerShape, PredictionShape
from hansa.api.shapes.waiting import WaitingShape
from hansa.network.controller.audit import audit_line
from hansa.network.controller.controller import Controller
from hansa.store.documents import spec_from_json
from hansa.store.ports import Query
from hansa.store.records import AnswerRecord, PredictionRecord, SessionState
from hansa.wire.tokens import Identity

__all__ = ["PredictionRoutes"]

Caller = Annotated[Identity, Depends(caller)]
Limit = Annotated[int, Parameter(ge=1, le=100, description="Answers on a page; each may have a megabyte.")]
Offset = Annotated[int, Parameter(ge=0, le=2**63 - 1, description="Answers before the page.")]


class PredictionRoutes:
    """What models say of clients' data."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: asks the clients."""
        self._controller = controller
        self._cursors = cursors

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        add, one = routes.add, "/predictions/{prediction}"
        about, store = "What clients were asked to predict.", self._controller.store
        add_list(
            routes, "/predictions", PredictionRecord, PredictionShape, about,
            needs=Permission.READ, store=store, cursors=self._cursors,
        )  # fmt: skip
        made: dict[str, Any] = {"methods": ["POST"], "status_code": 201, "response_model": PredictionShape}
        add(Permission.RUN, "/predictions", self.start_prediction, **made)
        add(Permission.READ, one, self.get_prediction, response_model=PredictionShape)
        add(Permission.READ, f"{one}/why", self.why_prediction_waits, response_model=WaitingShape)
        add(Permission.DOWNLOAD, f"{one}/answers", self.list_answers, response_model=list_shape(AnswerShape))
        add(Permission.RUN, f"{one}/stop", self.stop_prediction, methods=["POST"], response_model=PredictionShape)
        gone: dict[str, Any] = {"methods": ["DELETE"], "status_code": 204, "response_class": Response}
        add(Permission.DELETE, one, self.delete_prediction, **gone)

    async def start_prediction(self, project: str, me: Caller, body: NewPrediction) -> dict[str, Any]:
        """Ask clients what a model predicts of their data. Only those answer whose owners let predictions leave."""
        document = body.model_dump(include={"name", "rules", "config", "seed"}, exclude_unset=True)
        spec = spec_from_json({"name": body.name, **document, "project": project})
        predictions = self._controller.predictions
        made = await predictions.start(project, spec, model=body.model, package=body.package, by=me.name)
        return record_document(made)

    async def get_prediction(self, project: str, prediction: str) -> dict[str, Any]:
        """A prediction."""
        return record_document(await self._controller.store.get(PredictionRecord, project, prediction))

    async def why_prediction_waits(self, project: str, prediction: str) -> dict[str, Any]:
        """What a prediction waits for."""
        found = await self._controller.store.get(PredictionRecord, project, prediction)
        phase = self._controller.tree(project).why(prediction)
        said = str(phase) if phase is not None else f"prediction {found.name} waits for nothing: {found.cause}"
        if phase is None and found.state is SessionState.RUNNING:
            said = f"prediction {found.name} begins"
        return record_document(Waiting(found.id, found.state, said, phase))

    async def list_answers(  # noqa: PLR0917 - the framework fills them in by name
        self,
        project: str,
        prediction: str,
        me: Caller,
        client: str | None = None,
        limit: Limit = 20,
        offset: Offset = 0,
    ) -> dict[str, Any]:
        """What clients have predicted, or why they did not, by name."""
        store, cursor = self._controller.store, await self._cursors.newest(project)
        await store.get(PredictionRecord, project, prediction)
        await self._controller.people.note(audit_line(project, me.name, "prediction.read", prediction))
        where = {"prediction": prediction} | ({"client": client} if client is not None else {})
        page = await store.list(AnswerRecord, Query(project, where, sort="client", limit=limit, offset=offset))
        return listed(page, cursor, limit, offset)

    async def stop_prediction(self, project: str, prediction: str, me: Caller) -> dict[str, Any]:
        """Ask no more; what was answered is kept."""
        return record_document(await self._controller.predictions.stop(project, prediction, me.name))

    async def delete_prediction(self, project: str, prediction: str, me: Caller) -> Response:
        """Delete a prediction that is not under way, with its answers."""
        await self._controller.predictions.delete(project, prediction, me.name)
        return Response(status_code=204)
