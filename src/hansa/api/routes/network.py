"""The network and its places: clients, combiners, tokens, projects, the server, the caller."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends
from fastapi import Query as Parameter

import hansa
from hansa.api.documents import record_document
from hansa.api.guard import Routes, caller
from hansa.api.permissions import Permission, allows, covered
from hansa.api.requests import NewApiToken, NewLabels, NewProject, NewQuota, NewToken, Prune
from hansa.api.results import Choice, Installed, IssuedToken, Me, Option, Place, ProjectQuota, ServerInfo, Topology
from hansa.api.routes.lists import Cursors, add_list, list_shape, listed
from hansa.api.shapes.network import ClientShape, CombinerShape, NodeShape, TopologyShape
from hansa.api.shapes.people import IssuedTokenShape, MeShape, TokenShape
from hansa.api.shapes.projects import ProjectQuotaShape, ProjectShape, PruneReportShape
from hansa.api.shapes.server import InstalledShape, ServerInfoShape, SystemStateShape
from hansa.api.shapes.sessions import SampleShape
from hansa.api.state import system_state
from hansa.errors import ConfigError, PermissionDeniedError
from hansa.network.controller.controller import Controller
from hansa.network.controller.quotas import QuotaKind
from hansa.run import names, options_of
from hansa.store.paging import every
from hansa.store.ports import Page, Query
from hansa.store.records import ClientRecord, CombinerRecord, NodeRecord, ProjectRecord, SampleRecord, TokenRecord
from hansa.wire.frames import ROOT, Role
from hansa.wire.tokens import Identity

__all__ = ["NetworkRoutes", "ServerRoutes"]

Caller = Annotated[Identity, Depends(caller)]
Limit = Annotated[int, Parameter(ge=1, le=1000, description="Items on a page.")]
Offset = Annotated[int, Parameter(ge=0, le=2**63 - 1, description="Items before the page.")]


class NetworkRoutes:
    """Who is on a project's network, and who may be."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: knows who is connected, and issues tokens."""
        self._controller = controller
        self._cursors = cursors

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        add = routes.add
        read, admit, own = Permission.READ, Permission.ADMIT_NODES, Permission.OWN_TOKENS
        issued: dict[str, Any] = {"methods": ["POST"], "status_code": 201, "response_model": IssuedTokenShape}
        for needed, path, kind, shape, about in (
            (read, "/clients", ClientRecord, ClientShape, "Clients that have connected at least once."),
            (read, "/combiners", CombinerRecord, CombinerShape, "Combiners that have connected at least once."),
            (read, "/nodes", NodeRecord, NodeShape, "Clients and combiners that have joined, with the keys they have."),
            (Permission.READ_TOKENS, "/tokens", TokenRecord, TokenShape, "The project's tokens, of nodes and people."),
        ):
            store, cursors = self._controller.store, self._cursors
            add_list(routes, path, kind, shape, about, needs=needed, store=store, cursors=cursors)
        add_list(
            routes, "/telemetry", SampleRecord, SampleShape, "What clients' machines have told of themselves.",
            needs=read, store=self._controller.store, cursors=self._cursors, fixed={"session": ""},
        )  # fmt: skip
        add(read, "/clients/{name}", self.get_client, response_model=ClientShape)
        label = Permission.LABEL_NODES
        add(label, "/clients/{name}/labels", self.label_client, methods=["PATCH"], response_model=ClientShape)
        add(read, "/combiners/{name}", self.get_combiner, response_model=CombinerShape)
        add(admit, "/nodes/{name}", self.revoke_node, methods=["DELETE"], response_model=NodeShape)
        add(admit, "/tokens", self.create_token, **issued)
        add(admit, "/tokens/{token}", self.revoke_token, methods=["DELETE"], response_model=TokenShape)
        add(own, "/api-tokens", self.list_api_tokens, response_model=list_shape(TokenShape))
        add(own, "/api-tokens", self.create_api_token, **issued)
        add(own, "/api-tokens/{token}", self.revoke_api_token, methods=["DELETE"], response_model=TokenShape)
        add(read, "/network", self.get_network, response_model=TopologyShape)
        add(read, "", self.get_project, response_model=ProjectShape)
        add(read, "/quota", self.get_quota, response_model=ProjectQuotaShape)
        add(Permission.ADMINISTER, "/quota", self.set_quota, methods=["PUT"], response_model=ProjectQuotaShape)
        add(Permission.DELETE, "/prune", self.prune, methods=["POST"], response_model=PruneReportShape)

    async def get_client(self, project: str, name: str) -> dict[str, Any]:
        """A client, by its name."""
        return record_document(await self._controller.store.get(ClientRecord, project, f"{project}/{name}"))

    async def label_client(self, project: str, name: str, me: Caller, body: NewLabels) -> dict[str, Any]:
        """Give a client labels beside its own, or take them away; sessions choose clients by them."""
        return record_document(await self._controller.tree(project).label(name, body.labels, me.name))

    async def get_combiner(self, project: str, name: str) -> dict[str, Any]:
        """A combiner, by its name."""
        return record_document(await self._controller.store.get(CombinerRecord, project, f"{project}/{name}"))

    async def get_network(self, project: str) -> dict[str, Any]:
        """The controller and the combiners below it, with how many clients are connected to each."""
        cursor, store = await self._cursors.newest(project), self._controller.store
        directory = self._controller.tree(project).directory
        load = Counter(present.combiner for present in directory.clients.values())
        servers = [Place(ROOT, "", self._controller.address, connected=True, last_seen=time.time(), clients=load[ROOT])]
        async for one in every(store, CombinerRecord, Query(project, sort="name")):
            parent = one.parent or ROOT
            servers.append(Place(one.name, parent, one.address, one.connected, one.last_seen, load[one.name]))
        known = await store.list(ClientRecord, Query(project, limit=1))
        made = Topology(tuple(servers), sum(load.values()), known.total)
        return record_document(made) | {"cursor": cursor}

    async def revoke_node(self, project: str, name: str, me: Caller) -> dict[str, Any]:
        """Refuse a client or combiner from now on: its streams end. It may join again with a new token."""
        return record_document(await self._controller.nodes.revoke(project, name, me.name))

    async def create_token(self, project: str, me: Caller, body: NewToken) -> dict[str, Any]:
        """Issue a token with which a client or a combiner joins, once. It is shown this once."""
        role = Role(body.role)
        token, record = await self._controller.issue_token(project, body.name, role, body.expires_in, me.name)
        return record_document(IssuedToken(token, record))

    async def revoke_token(self, project: str, token: str, me: Caller) -> dict[str, Any]:
        """Refuse a token, a node's or a person's, from now on. The path names its id, never the token itself."""
        return record_document(await self._controller.revoke_token(project, token, me.name))

    async def list_api_tokens(self, project: str, me: Caller, limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
        """The caller's own API tokens for the project, oldest first; never the tokens themselves."""
        where = {"account": me.name}
        page = await self._controller.store.list(TokenRecord, Query(project, where, limit=limit, offset=offset))
        return listed(page, await self._cursors.newest(project), limit, offset)

    async def create_api_token(self, project: str, me: Caller, body: NewApiToken) -> dict[str, Any]:
        """Issue a token that acts for the caller in this project, at most as the role. It is shown this once.

        One that is made with an API token ends with that one at the latest.
        """
        people = self._controller.people
        bounds = await people.bounds(me, project)
        if not bounds.admin and not covered(body.role, bounds.roles):
            held = " bounded to ".join(role.value for role in bounds.roles)
            raise PermissionDeniedError(
                f"{me.name} ({held}) cannot make a token of the role {body.role.value}, which may do more; choose a "
                "role that may not"
            )
        made = await people.issue(
            me.name, called=body.name, project=project, bound=body.role, expires_in=bounds.lifetime(body.expires_in)
        )
        return record_document(IssuedToken(*made))

    async def revoke_api_token(self, project: str, token: str, me: Caller) -> dict[str, Any]:
        """Refuse one of the caller's own API tokens from now on. The path names its id, never the token itself."""
        return record_document(await self._controller.people.revoke(me.name, project, token))

    async def get_project(self, project: str) -> dict[str, Any]:
        """The project."""
        return record_document(await self._controller.store.get(ProjectRecord, project, project))

    async def prune(self, project: str, me: Caller, body: Prune) -> dict[str, Any]:
        """Remove what the policies of the project's sessions give up, and every object that no row names any more."""
        sessions = self._controller.sessions
        return record_document(await sessions.prune(project, dry_run=body.dry_run, grace=body.grace, by=me.name))

    async def get_quota(self, project: str) -> dict[str, Any]:
        """What the project uses of its quotas."""
        use = await self._controller.quotas.use(project, self._controller.tree(project).running)
        return record_document(ProjectQuota(**{kind.value: found for kind, found in use.items()}))

    async def set_quota(self, project: str, me: Caller, body: NewQuota) -> dict[str, Any]:
        """Set quotas of the project; one that is left out stays. What is used already stays too."""
        given = body.model_dump(exclude_unset=True)
        await self._controller.quotas.change(project, {QuotaKind(name): most for name, most in given.items()}, me.name)
        return await self.get_quota(project)


class ServerRoutes:
    """What is not in a project's path."""

    def __init__(self, controller: Controller, cursors: Cursors, ca: str = "", data: Path | None = None) -> None:
        """controller: of this server; ca: fingerprint by which nodes know it; data: its folder."""
        self._data = data if data is not None else Path(tempfile.gettempdir())
        self._ca = ca
        self._controller = controller
        self._cursors = cursors
        self._started_at = time.time()
        self._started = time.monotonic()

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        add = routes.add
        add(Permission.KNOW_ONESELF, "/me", self.get_me, response_model=MeShape)
        add(Permission.USE_SERVER, "/server", self.get_server, response_model=ServerInfoShape)
        add(Permission.ADMINISTER, "/system", self.get_system, response_model=SystemStateShape)
        add(Permission.USE_SERVER, "/installed", self.get_installed, response_model=InstalledShape)
        add(Permission.USE_SERVER, "/projects", self.list_projects, response_model=list_shape(ProjectShape))
        add(
            Permission.ADMINISTER,
            "/projects",
            self.create_project,
            methods=["POST"],
            status_code=201,
            response_model=ProjectShape,
        )

    async def get_me(self, me: Caller) -> dict[str, Any]:
        """Whom the server takes the caller for, and what they are in which project. Every role may ask."""
        if me.role is not Role.PERSON:
            return record_document(Me(me.name, me.role, me.project, me.token_id))
        people, roles, may = self._controller.people, dict[str, str](), dict[str, tuple[str, ...]]()
        for project in await people.projects(me):
            bounds = await people.bounds(me, project.id)
            roles[project.id] = " bounded to ".join(bounds.roles) or "site administrator"
            may[project.id] = tuple(
                permission.name.lower() for permission in Permission if bounds.admin or allows(permission, bounds.roles)
            )
        admin = (await people.bounds(me)).admin
        return record_document(Me(me.name, me.role, me.project, me.token_id, admin, roles, may))

    async def get_server(self, me: Caller) -> dict[str, Any]:
        """The server's version, uptime, and the address that clients and combiners join."""
        known = await self._controller.people.projects(me)
        directories = [self._controller.tree(project.id).directory for project in known]
        return record_document(
            ServerInfo(
                version=hansa.__version__,
                grpc_address=self._controller.address,
                started_at=self._started_at,
                uptime=time.monotonic() - self._started,
                clients=sum(len(directory.clients) for directory in directories),
                combiners=sum(len(directory.combiners) for directory in directories),
                ca=self._ca,
            )
        )

    async def get_system(self) -> dict[str, Any]:
        """How the installation is: its replicas, what passes through it, what it stores, and which nodes fail."""
        return record_document(await system_state(self._controller, self._data))

    async def get_installed(self) -> dict[str, Any]:
        """The algorithms and aggregators that sessions can name here, with their options."""
        return record_document(await asyncio.to_thread(_installed))

    async def list_projects(self, me: Caller) -> dict[str, Any]:
        """The projects that the caller knows, oldest first."""
        cursor = await self._cursors.newest(me.project)
        found = await self._controller.people.projects(me)
        return listed(Page(found, len(found)), cursor, max(1, len(found)))

    async def create_project(self, me: Caller, body: NewProject) -> dict[str, Any]:
        """Create a project, without members: a site administrator adds its first owner."""
        return record_document(await self._controller.create_project(body.name, me.name))


def _installed() -> Installed:
    return Installed(tuple(_choices("hansa.algorithms")), tuple(_choices("hansa.aggregators")))


def _choices(group: str) -> Iterator[Choice]:
    """Those that can be loaded; a plug-in that cannot says why where it is named."""
    for name in names(group):
        with suppress(ConfigError):
            found = options_of(group, name).values()
            yield Choice(
                name,
                tuple(
                    Option(one.name, None if one.default is one.empty else one.default, one.default is one.empty)
                    for one in found
                ),
            )
