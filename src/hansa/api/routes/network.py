"""The network, its people and its places: clients, combiners, tokens, projects, the server, the caller."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends

import hansa
from hansa.api.documents import record_document
from hansa.api.guard import caller
from hansa.api.requests import NewProject as ProjectToCreate
from hansa.api.requests import NewToken, Prune
from hansa.api.results import IssuedToken, Me, NewProject, ServerInfo
from hansa.api.routes.lists import Cursors, add_list, list_shape, listed
from hansa.api.shapes import (
    ClientShape,
    CombinerShape,
    IssuedTokenShape,
    MeShape,
    NewProjectShape,
    ProjectShape,
    PruneReportShape,
    ServerInfoShape,
    TokenShape,
)
from hansa.network.controller.controller import Controller
from hansa.store.ports import Page
from hansa.store.records import ClientRecord, CombinerRecord, ProjectRecord, TokenRecord
from hansa.wire.frames import Role
from hansa.wire.tokens import Identity

__all__ = ["NetworkRoutes", "ServerRoutes"]

Caller = Annotated[Identity, Depends(caller)]


class NetworkRoutes:
    """Who is on a project's network, and who may be."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: knows who is connected, and issues tokens."""
        self._controller = controller
        self._cursors = cursors

    def add(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        for path, kind, shape, about in (
            ("/clients", ClientRecord, ClientShape, "Clients that have connected at least once."),
            ("/combiners", CombinerRecord, CombinerShape, "Combiners that have connected at least once."),
            ("/tokens", TokenRecord, TokenShape, "Tokens that were issued, without the tokens themselves."),
        ):
            add_list(router, path, kind, shape, about, store=self._controller.store, cursors=self._cursors)
        add("/clients/{name}", self.get_client, response_model=ClientShape)
        add("/combiners/{name}", self.get_combiner, response_model=CombinerShape)
        add("/tokens", self.create_token, methods=["POST"], status_code=201, response_model=IssuedTokenShape)
        add("/tokens/{token}", self.revoke_token, methods=["DELETE"], response_model=TokenShape)
        add("", self.get_project, response_model=ProjectShape)
        add("/prune", self.prune, methods=["POST"], response_model=PruneReportShape)

    async def get_client(self, project: str, name: str) -> dict[str, Any]:
        """A client, by its name."""
        return record_document(await self._controller.store.get(ClientRecord, project, f"{project}/{name}"))

    async def get_combiner(self, project: str, name: str) -> dict[str, Any]:
        """A combiner, by its name."""
        return record_document(await self._controller.store.get(CombinerRecord, project, f"{project}/{name}"))

    async def create_token(self, project: str, body: NewToken) -> dict[str, Any]:
        """Issue a token for an identity. It is shown this once."""
        token, record = await self._controller.issue_token(project, body.name, body.role, body.expires_in)
        return record_document(IssuedToken(token, record))

    async def revoke_token(self, project: str, token: str) -> dict[str, Any]:
        """Refuse a token from now on. The path names its id, never the token itself."""
        return record_document(await self._controller.revoke_token(project, token))

    async def get_project(self, project: str) -> dict[str, Any]:
        """The project."""
        return record_document(await self._controller.store.get(ProjectRecord, project, project))

    async def prune(self, project: str, body: Prune) -> dict[str, Any]:
        """Remove what the policies of the project's sessions give up, and every object that no row names any more."""
        return record_document(await self._controller.prune(project, dry_run=body.dry_run, grace=body.grace))


class ServerRoutes:
    """What is not in a project's path."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: of this server."""
        self._controller = controller
        self._cursors = cursors
        self._started_at = time.time()
        self._started = time.monotonic()

    def add(self, router: APIRouter) -> None:
        """Add the routes."""
        add = router.add_api_route
        add("/me", self.get_me, response_model=MeShape)
        add("/server", self.get_server, response_model=ServerInfoShape)
        add("/projects", self.list_projects, response_model=list_shape(ProjectShape))
        add("/projects", self.create_project, methods=["POST"], status_code=201, response_model=NewProjectShape)

    async def get_me(self, me: Caller) -> dict[str, Any]:
        """Whom the server takes the caller for. Every role may ask."""
        return record_document(Me(me.name, me.role, me.project, me.token_id))

    async def get_server(self, me: Caller) -> dict[str, Any]:
        """The server's version, uptime, and the address that clients and combiners join."""
        directory = self._controller.tree(me.project).directory
        return record_document(
            ServerInfo(
                version=hansa.__version__,
                grpc_address=self._controller.address,
                project=me.project,
                started_at=self._started_at,
                uptime=time.monotonic() - self._started,
                clients=len(directory.clients),
                combiners=len(directory.combiners),
            )
        )

    async def list_projects(self, me: Caller) -> dict[str, Any]:
        """The projects that the caller's token is for."""
        cursor = await self._cursors.newest(me.project)
        found = await self._controller.store.get(ProjectRecord, me.project, me.project)
        return listed(Page((found,), 1), cursor, 1)

    async def create_project(self, me: Caller, body: ProjectToCreate) -> dict[str, Any]:
        """Create a project. The caller gets a token as its admin, which is shown this once."""
        project = await self._controller.create_project(body.name)
        token, record = await self._controller.issue_token(project.id, me.name, Role.ADMIN)
        return record_document(NewProject(project, token, record))
