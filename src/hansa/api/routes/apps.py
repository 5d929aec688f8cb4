"""Apps that a browser brings: from one file of Python to a package, an initial model, a simulation here."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi import Query as QueryParameter

from hansa.api.apps import Apps
from hansa.api.documents import record_document
from hansa.api.guard import Routes, caller
from hansa.api.permissions import Permission
from hansa.api.requests import NewInitialModel, NewSimulation, spec_of
from hansa.api.results import InitialModel
from hansa.api.shapes.models import InitialModelShape, PackageShape
from hansa.api.shapes.sessions import SessionShape
from hansa.network.controller.controller import Controller
from hansa.wire.tokens import Identity

__all__ = ["AppRoutes"]

Caller = Annotated[Identity, Depends(caller)]
Name = Annotated[str, QueryParameter(max_length=100, description="What the app is called.")]
_SOURCE: dict[str, Any] = {"text/x-python": {"schema": {"type": "string"}}}


class AppRoutes:
    """What `hansa session start` does on a person's machine, for who has but a browser."""

    def __init__(self, controller: Controller, apps: Apps) -> None:
        """controller: keeps the audit record; apps: runs their code, confined."""
        self._controller = controller
        self._apps = apps

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        made: dict[str, Any] = {"methods": ["POST"], "status_code": 201}
        body = {"requestBody": {"required": True, "content": _SOURCE}}
        routes.add(Permission.UPLOAD, "/apps", self.upload_app, response_model=PackageShape, openapi_extra=body, **made)
        routes.add(Permission.UPLOAD, "/apps/example", self.add_example, response_model=PackageShape, **made)
        routes.add(Permission.RUN, "/initial-models", self.draw_initial_model, response_model=InitialModelShape, **made)
        routes.add(Permission.RUN, "/simulations", self.start_simulation, response_model=SessionShape, **made)

    async def upload_app(self, project: str, request: Request, me: Caller, name: Name = "app") -> dict[str, Any]:
        """Make a package of an app that is one file of Python: the body is its source. Nothing of it is run."""
        source = b"".join([chunk async for chunk in request.stream()])
        return record_document(await self._apps.package(project, source, name, me.name))

    async def add_example(self, project: str, me: Caller) -> dict[str, Any]:
        """Make a package of the example: owners of handwritten digits train one classifier."""
        return record_document(await self._apps.example(project, me.name))

    async def draw_initial_model(self, project: str, me: Caller, body: NewInitialModel) -> dict[str, Any]:
        """Have a package's app draw its initial model, in a confined process; it becomes a model of the project."""
        model, spec = await self._apps.draw(project, body.package, spec_of(body.spec, project), me.name)
        return record_document(InitialModel(model, spec))

    async def start_simulation(self, project: str, me: Caller, body: NewSimulation) -> dict[str, Any]:
        """Simulate a package's app on the server's machine, with virtual clients; it is seen as a session."""
        spec = spec_of(body.spec, project)
        return record_document(await self._apps.simulate(project, body.package, spec, body.clients, me.name))
