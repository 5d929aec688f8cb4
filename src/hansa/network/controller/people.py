"""People: who may log in, what they are in each project, and the tokens that act for them.

What a person may do is decided from the store at every request: what is read is kept here until it is changed here.
One controller leads over a store, and whatever changes these rows passes through it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeVar

from hansa.errors import AuthenticationError, ConflictError, InputError, NotFoundError
from hansa.network.controller.audit import SERVER, audit_line
from hansa.network.controller.names import checked_name
from hansa.store.paging import every
from hansa.store.ports import MetadataStore, Query
from hansa.store.records import (
    INSTALLATION,
    AccountRecord,
    AuditRecord,
    MemberRecord,
    ProjectRecord,
    ProjectRole,
    Record,
    SubjectRecord,
    TokenRecord,
)
from hansa.wire import tokens
from hansa.wire.frames import Role
from hansa.wire.tokens import Identity

__all__ = ["Bounds", "People"]

R = TypeVar("R", bound=Record)

_MOST_TOKENS: Final = 10_000
"""Tokens that are remembered between requests."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a person's request is measured by: each of these roles must allow it."""

    member: ProjectRole | None
    """What they are in the project; None: a site administrator, or a request in no project."""
    token: ProjectRole | None
    """What their token is bounded to; None: it is not."""
    admin: bool = False
    """Whether they are a site administrator, by a token that is not bounded."""
    until: float | None = None
    """POSIX seconds until which a token that is bounded holds: none that is made with it holds longer."""
    ends: float | None = None
    """POSIX seconds until which the token holds, bounded or not; None: for ever."""

    def lifetime(self, wanted: float) -> float:
        """Seconds for which a token may hold that is made with this one. wanted: as asked for."""
        return wanted if self.until is None else min(wanted, self.until - time.time())

    def login(self, wanted: float) -> float:
        """Seconds for which a browser may be logged in with this token: for no longer than it holds itself."""
        return wanted if self.ends is None else min(wanted, self.ends - time.time())

    @property
    def roles(self) -> tuple[ProjectRole, ...]:
        """Those that there are."""
        return tuple(role for role in (self.member, self.token) if role is not None)


class People:
    """Accounts, members and their tokens, and what is remembered of them."""

    def __init__(self, store: MetadataStore, key: str, revoked: set[str]) -> None:
        """key: the private key (PEM) that signs tokens; revoked: ids of tokens that are refused, which this adds to."""
        self._store = store
        self._key = key
        self._revoked = revoked
        self._accounts: dict[str, AccountRecord] = {}
        self._members: dict[str, Mapping[str, ProjectRole]] = {}
        self._tokens: dict[tuple[str, str], TokenRecord] = {}
        self._changed = asyncio.Event()
        self._changing = asyncio.Lock()

    # ── what is true now ─────────────────────────────────────────────────────────────────────────────────────────

    async def bounds(self, identity: Identity, project: str = INSTALLATION) -> Bounds:
        """What the holder of a person's token is measured by in a project, or outside of all.

        Raises `AuthenticationError` when the token acts for nobody any more, `NotFoundError` for a project that its
        holder does not know: whether there is one is not told.
        """
        token, account = await self._holder(identity)
        limit = None if token.role == Role.PERSON else ProjectRole(token.role)
        admin, until = account.admin and limit is None, None if limit is None else token.expires_at
        if project == INSTALLATION:
            return Bounds(None, limit, admin, until, token.expires_at)
        member = None
        if token.project in {INSTALLATION, project}:
            members = await self.members(project)
            member = members.get(account.id) if members is not None else None
            if members is not None and (member is not None or account.admin):
                return Bounds(None if account.admin else member, limit, admin, until, token.expires_at)
        raise NotFoundError(f"{identity.name} knows no project {project!r}; `hansa project list` shows those it knows")

    async def members(self, project: str) -> Mapping[str, ProjectRole] | None:
        """Account → role in a project; None: there is no such project."""
        known = self._members.get(project)
        if known is None:
            before = self._changed
            try:
                await self._store.get(ProjectRecord, project, project)
            except NotFoundError:
                return None
            rows = [row async for row in self._every(MemberRecord, project, removed=False)]
            known = MappingProxyType({row.id: row.role for row in rows})
            if before is self._changed:
                self._members[project] = known
        return known

    async def projects(self, identity: Identity) -> tuple[ProjectRecord, ...]:
        """The projects that the holder of a person's token knows, oldest first."""
        token, account = await self._holder(identity)
        found = []
        async for project in self._every(ProjectRecord, INSTALLATION):
            members = await self.members(project.id) or {}
            if token.project in {INSTALLATION, project.id} and (account.admin or account.id in members):
                found.append(project)
        return tuple(found)

    async def changed(self) -> None:
        """Wait until something about people is changed."""
        await self._changed.wait()

    async def account(self, name: str) -> AccountRecord:
        """An account; raises `NotFoundError`."""
        known = self._accounts.get(name)
        if known is None:
            before = self._changed
            try:
                known = await self._store.get(AccountRecord, INSTALLATION, name)
            except NotFoundError as error:
                raise NotFoundError(f"there is no user {name!r}; `hansa user list` shows those there are") from error
            if before is self._changed:
                self._accounts[name] = known
        return known

    async def _holder(self, identity: Identity) -> tuple[TokenRecord, AccountRecord]:
        gone = f"the token of {identity.name} acts for nobody any more: log in again with `hansa login`"
        if identity.token_id in self._revoked:
            raise AuthenticationError(gone)
        key = identity.project, identity.token_id
        try:
            token = self._tokens.get(key) or await self._store.get(TokenRecord, *key)
            account = await self.account(token.account or "")
        except NotFoundError as error:
            raise AuthenticationError(gone) from error
        if token.revoked or account.disabled:
            raise AuthenticationError(gone)
        if len(self._tokens) >= _MOST_TOKENS:
            self._tokens.clear()
        self._tokens[key] = token
        return token, account

    # ── accounts and members ─────────────────────────────────────────────────────────────────────────────────────

    async def create_account(
        self,
        name: str,
        *,
        admin: bool = False,
        password: str = "",
        by: str = SERVER,
        subject: tuple[str, str] | None = None,
    ) -> AccountRecord:
        """A person; raises `ConflictError` when there is one of this name, or of this subject.

        password: its hash; by: who lets them in; subject: (issuer, subject) whom an OpenID provider knows them as.
        """
        account = AccountRecord(checked_name(name, "user"), INSTALLATION, time.time(), admin, password=password)
        told = [audit_line(INSTALLATION, by, "user.create", name, detail="site administrator" if admin else "")]
        async with self._changing:
            bound = [] if subject is None else [await self._unbound(name, *subject)]
            told += [audit_line(INSTALLATION, by, "user.link", name, detail=row.id) for row in bound]
            try:
                await self._store.create(account, *bound, *told)
            except ConflictError as error:
                raise ConflictError(f"there is a user {name!r} already; choose another name") from error
        return account

    async def bound(self, issuer: str, subject: str) -> AccountRecord | None:
        """The account of whom an OpenID provider means by this subject."""
        try:
            row = await self._store.get(SubjectRecord, INSTALLATION, f"{issuer}#{subject}")
        except NotFoundError:
            return None
        return None if row.removed else await self.account(row.account)

    async def subjects(self) -> Mapping[str, SubjectRecord]:
        """Account → whom an OpenID provider knows them as, of those who are bound."""
        return {row.account: row async for row in self._every(SubjectRecord, INSTALLATION, removed=False)}

    async def bind(self, name: str, issuer: str, subject: str, by: str = SERVER) -> SubjectRecord:
        """Let a person in whom the provider knows as this subject; raises `ConflictError` when either is bound."""
        async with self._changing:
            await self.account(name)
            row = await self._unbound(name, issuer, subject)
            async for other in self._every(SubjectRecord, INSTALLATION, account=name, removed=False):
                raise ConflictError(f"{name} is bound to {other.id} already; `hansa user unlink {name}` first")
            await self._write(row, audit_line(INSTALLATION, by, "user.link", name, detail=row.id))
        return row

    async def unbind(self, name: str, by: str = SERVER) -> SubjectRecord:
        """Nobody logs in as this person by a provider from now on, and none of their tokens holds any more.

        Their API tokens are among them: whoever logged in as them may have made some.
        """
        async with self._changing:
            async for row in self._every(SubjectRecord, INSTALLATION, account=name, removed=False):
                told = audit_line(INSTALLATION, by, "user.unlink", name, detail=row.id)
                await self._write(replace(row, removed=True), *await self._revocations(name), told)
                return row
        raise NotFoundError(f"{name!r} is bound to no subject of an OpenID provider")

    async def _unbound(self, name: str, issuer: str, subject: str) -> SubjectRecord:
        """The row that binds; raises `ConflictError` when the subject is somebody's."""
        holder = await self.bound(issuer, subject)
        if holder is not None:
            raise ConflictError(f"the subject {subject!r} of {issuer} is {holder.id} already")
        return SubjectRecord(f"{issuer}#{subject}", INSTALLATION, name, issuer, subject, time.time())

    async def operator(self, name: str) -> AccountRecord:
        """The site administrator of this name, who is made where there is nobody of this name."""
        try:
            return await self.account(name)
        except NotFoundError:
            return await self.create_account(name, admin=True)

    async def disable(self, name: str, *, disabled: bool = True, by: str = SERVER) -> AccountRecord:
        """Refuse a person and their tokens from now on, or let them in again. The last administrator stays."""
        async with self._changing:
            account = await self.account(name)
            if disabled and await self._is_last_admin(account):
                raise ConflictError(f"{name} is the last site administrator; make another first")
            account = replace(account, disabled=disabled)
            told = audit_line(INSTALLATION, by, "user.disable" if disabled else "user.enable", name)
            await self._write(account, *(await self._revocations(name) if disabled else ()), told)
        return account

    async def set_admin(self, name: str, *, admin: bool, by: str = SERVER) -> AccountRecord:
        """Make a person a site administrator, or one no more; the last one stays."""
        async with self._changing:
            account = await self.account(name)
            if account.admin == admin or (not admin and await self._is_last_admin(account)):
                return account
            account = replace(account, admin=admin)
            told = audit_line(INSTALLATION, by, "user.admin", name, detail="yes" if admin else "no")
            await self._write(account, told)
        return account

    async def _is_last_admin(self, account: AccountRecord) -> bool:
        if not account.admin or account.disabled:
            return False
        enabled = Query(INSTALLATION, where={"admin": True, "disabled": False}, limit=1)
        return (await self._store.list(AccountRecord, enabled)).total == 1

    async def keep_password(self, name: str, password: str, keep: str = "", by: str = SERVER) -> AccountRecord:
        """Keep another hash of a password, and refuse every login of before; keep: the id of one that still holds."""
        async with self._changing:
            account = replace(await self.account(name), password=password)
            logins = await self._revocations(name, INSTALLATION)
            told = audit_line(INSTALLATION, by, "user.password", name)
            await self._write(account, *(token for token in logins if token.id != keep), told)
        return account

    async def add_member(self, project: str, name: str, role: ProjectRole, by: str = SERVER) -> MemberRecord:
        """Make a person a member of a project, or give a member another role."""
        async with self._changing:
            await self.account(name)
            await self._store.get(ProjectRecord, project, project)
            member = MemberRecord(name, project, role, time.time())
            await self._write(member, audit_line(project, by, "member.put", name, detail=role.value))
        return member

    async def remove_member(self, project: str, name: str, by: str = SERVER) -> MemberRecord:
        """From now on they know the project no more, and their tokens for it hold no more."""
        async with self._changing:
            try:
                member = await self._store.get(MemberRecord, project, name)
            except NotFoundError:
                member = None
            if member is None or member.removed:
                raise NotFoundError(f"{name!r} is no member of project {project!r}")
            member = replace(member, removed=True)
            told = audit_line(project, by, "member.remove", name, detail=member.role.value)
            await self._write(member, *await self._revocations(name, project), told)
        return member

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def issue(
        self,
        name: str,
        *,
        called: str,
        project: str = INSTALLATION,
        bound: ProjectRole | None = None,
        expires_in: float | None = None,
        action: str = "token.issue",
    ) -> tuple[str, TokenRecord]:
        """A token that acts for a person. called: what it is called; bound: the most that it may do in the project.

        expires_in: seconds, None for ever; action: what the audit record calls it. The token is not kept.
        """
        if (bound is None) != (project == INSTALLATION):
            raise InputError("a token that is bounded by a role is for one project, and only such a one")
        account = await self.account(name)
        token, jti = tokens.issue(self._key, account.id, Role.PERSON, project, expires_in)
        now = time.time()
        record = TokenRecord(
            id=jti,
            project=project,
            name=checked_name(called, "token"),
            role=Role.PERSON.value if bound is None else bound.value,
            created_at=now,
            expires_at=None if expires_in is None else now + expires_in,
            account=account.id,
        )
        told = audit_line(project, account.id, action, jti, detail=f"{record.name} ({record.role})")
        await self._store.create(record, told)
        return token, record

    async def revoke(self, name: str, project: str, token_id: str) -> TokenRecord:
        """Refuse a person's own token; raises `NotFoundError` for another's."""
        record = await self._store.get(TokenRecord, project, token_id)
        if record.account != name:
            raise NotFoundError(f"{name} has no token {token_id!r} here")
        return await self.refuse(record, name)

    async def refuse(self, token: TokenRecord, by: str = SERVER) -> TokenRecord:
        """Refuse a token, a person's or a node's, from now on."""
        revoked = replace(token, revoked=True)
        told = audit_line(token.project, by, "token.revoke", token.id, detail=f"{token.name} ({token.role})")
        await self._write(revoked, told)
        return revoked

    async def recall(self, project: str) -> None:
        """Remember which tokens of a project are revoked: a node's is asked about without a look at the store."""
        self._revoked.update([token.id async for token in self._every(TokenRecord, project, revoked=True)])

    async def note(self, *lines: AuditRecord) -> None:
        """Add lines to the audit record that belong to no other change."""
        await self._store.put(*lines)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _revocations(self, name: str, project: str | None = None) -> Sequence[TokenRecord]:
        """The tokens of a person, in one project or everywhere, as revoked."""
        places = [project] if project is not None else [INSTALLATION, *[p.id async for p in self._all_projects()]]
        found: list[TokenRecord] = []
        for place in places:
            found += [token async for token in self._every(TokenRecord, place, account=name, revoked=False)]
        return [replace(token, revoked=True) for token in found]

    def _all_projects(self) -> AsyncIterator[ProjectRecord]:
        return self._every(ProjectRecord, INSTALLATION)

    async def _write(self, *records: Record) -> None:
        """Store, and remember nothing that was read before."""
        try:
            await self._store.put(*records)
        finally:  # whether a write that failed was done is unknown
            self._revoked.update(r.id for r in records if isinstance(r, TokenRecord) and r.revoked)
            self._accounts.clear()
            self._members.clear()
            self._tokens.clear()
            self._changed.set()
            self._changed = asyncio.Event()

    async def _every(self, kind: type[R], project: str, **where: str | bool) -> AsyncIterator[R]:
        async for record in every(self._store, kind, Query(project, where)):
            yield record
