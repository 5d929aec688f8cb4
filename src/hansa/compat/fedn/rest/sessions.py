"""Sessions, predictions and queries over all that there is."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response

from hansa.api.permissions import Permission
from hansa.compat.fedn.catalogue import Catalogue
from hansa.compat.fedn.formats import NUMPY
from hansa.compat.fedn.gateway import Gateway
from hansa.compat.fedn.graphql import Graph
from hansa.compat.fedn.rest.exchange import Way, answer, read_object
from hansa.compat.fedn.sessions import Sessions
from hansa.errors import InputError

__all__ = ["SessionRoutes"]


class SessionRoutes:
    """Of one project."""

    def __init__(self, gateway: Gateway, catalogue: Catalogue) -> None:
        """gateway: whose project they are of."""
        self._gateway = gateway
        self._catalogue = catalogue
        self._sessions = Sessions(gateway)
        self._graph = Graph(catalogue)

    def ways(self) -> Iterator[Way]:
        """What is answered here."""
        read, run = Permission.READ, Permission.RUN
        yield Way("predictions/start", self._predict, run, ("POST",))
        yield Way("sessions", self._create, run, ("POST",))
        yield Way("sessions/start", self._start, run, ("POST",))
        yield Way("sessions/start_splitlearning_session", self._start_split, run, ("POST",))
        yield Way("sessions/{id}", self._change, run, ("PATCH", "PUT"))
        yield Way("graphql", self._query, read, ("POST",))

    async def state(self, _: Request) -> Response:
        """What the controller does: its only answer below the root."""
        sessions = await self._catalogue.every("sessions")
        return answer({"state": "monitoring" if any(each["status"] == "Started" for each in sessions) else "idle"})

    async def _create(self, request: Request) -> Response:
        session = await self._sessions.create(await read_object(request), request.state.by)
        return answer(await self._catalogue.get("sessions", session.id), 201)

    async def _start(self, request: Request) -> Response:
        await self._sessions.start(await read_object(request), request.state.by)
        return answer({"message": "Session started"})

    async def _start_split(self, request: Request) -> Response:
        await self._sessions.start(await read_object(request), request.state.by)
        return answer({"message": "Splitlearning session started"})

    async def _change(self, request: Request) -> Response:
        name = request.path_params["id"]
        await self._catalogue.get("sessions", name)
        await self._sessions.change(name, await read_object(request), request.state.by)
        return answer(await self._catalogue.get("sessions", name))

    async def _predict(self, request: Request) -> Response:
        told = await read_object(request)
        prediction = str(told.get("prediction_id") or "")
        if not prediction:
            raise InputError("prediction_id is required")
        models = await self._catalogue.every("models")
        model = told.get("model_id") or max(models, key=lambda each: each["committed_at"], default={}).get("model_id")
        if model is None:
            raise InputError("No models found in the repository")
        document = await self._catalogue.get("models", str(model))
        helper = await self._catalogue.helper_of(document) or NUMPY
        await self._gateway.predict(prediction, str(model), helper, request.state.by)
        return answer({"message": "Prediction session started"})

    async def _query(self, request: Request) -> Response:
        told = await read_object(request)
        variables = told.get("variables") or {}
        if not isinstance(variables, dict):
            raise InputError("variables must be an object")
        return answer(await self._graph.answer(str(told.get("query", "")), variables))
