"""People: who may log in, and who is what in a project."""

import time
from typing import Annotated, Any

from fastapi import Path, Request
from starlette.responses import Response

from hansa.api.documents import record_document
from hansa.api.guard import Routes
from hansa.api.headers import forget_token, keep_token
from hansa.api.permissions import Permission
from hansa.api.requests import ChangedPassword, Login, NewMember, NewPassword, NewUser, Subject
from hansa.api.requests import LoginCode as LoginByCode
from hansa.api.results import IssuedToken, LoginCode, User
from hansa.api.routes.lists import Cursors, add_list, list_shape
from hansa.api.routes.network import Caller, Limit, Offset
from hansa.api.shapes.people import IssuedTokenShape, LoginCodeShape, MemberShape, UserShape
from hansa.errors import InputError
from hansa.network.controller.controller import Controller
from hansa.network.controller.logins import HOLDS
from hansa.store.ports import Query
from hansa.store.records import INSTALLATION, AccountRecord, MemberRecord, SubjectRecord, TokenRecord
from hansa.wire.tokens import Identity

__all__ = ["MemberRoutes", "UserRoutes", "address_of", "kept"]

Name = Annotated[str, Path(description="The user's name.")]


class MemberRoutes:
    """Who is what in a project."""

    def __init__(self, controller: Controller, cursors: Cursors) -> None:
        """controller: knows people."""
        self._controller = controller
        self._cursors = cursors

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        store, cursors, fixed = self._controller.store, self._cursors, {"removed": False}
        about = "The project's members, and what each is there."
        one, manage = "/members/{user}", Permission.MANAGE_MEMBERS
        add_list(
            routes,
            "/members",
            MemberRecord,
            MemberShape,
            about,
            needs=Permission.READ,
            store=store,
            cursors=cursors,
            fixed=fixed,
        )
        routes.add(manage, one, self.put_member, methods=["PUT"], response_model=MemberShape)
        routes.add(manage, one, self.remove_member, methods=["DELETE"], response_model=MemberShape)

    async def put_member(self, project: str, user: Name, me: Caller, body: NewMember) -> dict[str, Any]:
        """Make a user a member of the project, or give a member another role. It is so at once."""
        return record_document(await self._controller.people.add_member(project, user, body.role, me.name))

    async def remove_member(self, project: str, user: Name, me: Caller) -> dict[str, Any]:
        """Remove a member. At once they know the project no more, and their API tokens for it hold no more."""
        return record_document(await self._controller.people.remove_member(project, user, me.name))


class UserRoutes:
    """Accounts, which belong to the installation, and logging in."""

    def __init__(self, controller: Controller) -> None:
        """controller: knows people."""
        self._controller = controller

    def add(self, routes: Routes) -> None:
        """Add the routes."""
        administer, one = Permission.ADMINISTER, "/users/{user}"
        issued: dict[str, Any] = {"methods": ["POST"], "status_code": 201, "response_model": IssuedTokenShape}
        routes.add(Permission.STRANGERS, "/login", self.log_in, **issued)
        routes.add(Permission.STRANGERS, "/login/code", self.log_in_by_code, **issued)
        routes.add(
            Permission.USE_SERVER,
            "/login/codes",
            self.create_login_code,
            methods=["POST"],
            status_code=201,
            response_model=LoginCodeShape,
        )
        routes.add(Permission.USE_SERVER, "/login/browser", self.log_in_browser, **issued)
        none: dict[str, Any] = {"status_code": 204, "response_class": Response}
        routes.add(Permission.USE_SERVER, "/logout", self.log_out, methods=["POST"], **none)
        routes.add(Permission.USE_SERVER, "/me/password", self.change_password, methods=["PUT"], **none)
        routes.add(administer, f"{one}/password", self.set_password, methods=["PUT"], response_model=UserShape)
        routes.add(administer, "/users", self.list_users, response_model=list_shape(UserShape))
        routes.add(administer, "/users", self.create_user, methods=["POST"], status_code=201, response_model=UserShape)
        routes.add(administer, f"{one}/disable", self.disable_user, methods=["POST"], response_model=UserShape)
        routes.add(administer, f"{one}/enable", self.enable_user, methods=["POST"], response_model=UserShape)
        routes.add(administer, f"{one}/subject", self.link_user, methods=["PUT"], response_model=UserShape)
        routes.add(administer, f"{one}/subject", self.unlink_user, methods=["DELETE"], response_model=UserShape)

    async def list_users(self, limit: Limit = 100, offset: Offset = 0) -> dict[str, Any]:
        """The users of the installation, oldest first."""
        page = await self._controller.store.list(AccountRecord, Query(INSTALLATION, limit=limit, offset=offset))
        bound = await self._controller.people.subjects()
        users = [record_document(_user(account, bound.get(account.id))) for account in page.items]
        return {"items": users, "total": page.total, "limit": limit, "offset": offset, "cursor": 0}

    async def create_user(self, me: Caller, body: NewUser) -> dict[str, Any]:
        """Let a person in. They are a member of no project yet."""
        password = body.password.get_secret_value() if body.password is not None else ""
        subject = None if body.subject is None else (self._controller.sign_on.issuer, body.subject)
        logins = self._controller.logins
        made = await logins.create_account(body.name, password, admin=body.admin, by=me.name, subject=subject)
        return await self._told(made)

    async def set_password(self, user: Name, me: Caller, body: NewPassword) -> dict[str, Any]:
        """Give a user another password. What was logged in with the former one is logged out; API tokens stay."""
        password = body.password.get_secret_value()
        return await self._told(await self._controller.logins.set_password(user, password, by=me.name))

    async def log_in(self, body: Login, request: Request, response: Response) -> dict[str, Any]:
        """A token that holds for 12 hours, for a name and a password. Failed attempts are counted, and slowed down."""
        made = await self._controller.logins.log_in(body.name, body.password.get_secret_value(), address_of(request))
        return kept(request, response, made) if body.cookie else record_document(IssuedToken(*made))

    async def create_login_code(self, me: Caller) -> dict[str, Any]:
        """A code that logs the caller in, once and within ten minutes: for a link that opens the Studio."""
        await self._unbounded(me)
        return record_document(LoginCode(*await self._controller.logins.make_code(me.name, me)))

    async def log_in_by_code(self, body: LoginByCode, request: Request, response: Response) -> dict[str, Any]:
        """Log a browser in with a code: it keeps the token, which holds for 12 hours, in a cookie."""
        logins = self._controller.logins
        made = await logins.log_in_by_code(body.code.get_secret_value(), address_of(request))
        return kept(request, response, made)

    async def log_in_browser(self, me: Caller, request: Request, response: Response) -> dict[str, Any]:
        """Log a browser in with the token of this request: it keeps another, which may do the same for as long.

        For 12 hours at most, and no longer than the token of the request holds.
        """
        people = self._controller.people
        bounds = await people.bounds(me, me.project)
        made = await people.issue(
            me.name,
            called="studio",
            project=me.project,
            bound=bounds.token,
            expires_in=bounds.login(HOLDS),
            action="login",
        )
        return kept(request, response, made)

    async def log_out(self, me: Caller, request: Request) -> Response:
        """Refuse the token of this request from now on; a browser forgets it."""
        await self._controller.people.revoke(me.name, me.project, me.token_id)
        response = Response(status_code=204)
        forget_token(request.scope, response)
        return response

    async def change_password(self, me: Caller, body: ChangedPassword, request: Request) -> Response:
        """Another password for the caller. What else was logged in with the former one is logged out."""
        current, new = body.current.get_secret_value(), body.password.get_secret_value()
        await self._controller.logins.change_password(me.name, current, new, address_of(request), me.token_id)
        return Response(status_code=204)

    async def disable_user(self, user: Name, me: Caller) -> dict[str, Any]:
        """Refuse a user and every token of theirs from now on. The last site administrator cannot be disabled."""
        return await self._told(await self._controller.people.disable(user, by=me.name))

    async def enable_user(self, user: Name, me: Caller) -> dict[str, Any]:
        """Let a disabled user log in again; tokens of before hold no more."""
        return await self._told(await self._controller.people.disable(user, disabled=False, by=me.name))

    async def link_user(self, user: Name, me: Caller, body: Subject) -> dict[str, Any]:
        """Let a user log in by the OpenID provider of this server, as whom it means by the subject."""
        people = self._controller.people
        await people.bind(user, self._controller.sign_on.issuer, body.subject, by=me.name)
        return await self._told(await people.account(user))

    async def unlink_user(self, user: Name, me: Caller) -> dict[str, Any]:
        """Let nobody log in as this user by an OpenID provider any more, and refuse what is logged in."""
        people = self._controller.people
        await people.unbind(user, by=me.name)
        return await self._told(await people.account(user))

    async def _unbounded(self, me: Identity) -> None:
        """Raise `InputError` for a token that may do less than the person it acts for."""
        if me.project or (await self._controller.people.bounds(me)).token is not None:
            raise InputError(
                "a token that is bounded to a project cannot make a code, which would log in without its bounds"
            )

    async def _told(self, account: AccountRecord) -> dict[str, Any]:
        bound = await self._controller.people.subjects()
        return record_document(_user(account, bound.get(account.id)))


def address_of(request: Request) -> str:
    """Where a request comes from: of a proxy that is believed, where it says that its caller is."""
    return request.client.host if request.client is not None else ""


def kept(request: Request, response: Response, made: tuple[str, TokenRecord]) -> dict[str, Any]:
    """A token that goes into the browser's cookie, and is not told."""
    token, record = made
    keep_token(request.scope, response, token, HOLDS if record.expires_at is None else record.expires_at - time.time())
    return record_document(IssuedToken("", record))


def _user(account: AccountRecord, bound: SubjectRecord | None) -> User:
    """An account as it is told: without the hash of its password."""
    subject = bound.id if bound is not None else None
    return User(account.id, account.created_at, account.admin, account.disabled, bool(account.password), subject)
