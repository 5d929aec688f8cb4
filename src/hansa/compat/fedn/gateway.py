"""FEDn's clients below a hansa server: who they are, who of them is here, and what each call of theirs means."""

import asyncio
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final

import structlog

from hansa.compat.fedn.errand import Answer
from hansa.compat.fedn.formats import NUMPY
from hansa.compat.fedn.guest import Guest, Membership
from hansa.compat.fedn.models import Files, Room, Uploads
from hansa.compat.fedn.notes import Notes
from hansa.compat.fedn.numbers import Numbers
from hansa.compat.fedn.passes import PREFIX
from hansa.errors import AuthenticationError, InputError, NotFoundError, PermissionDeniedError, StorageError
from hansa.messages import Kind, RoundRules, RunSpec
from hansa.network.controller.controller import Controller
from hansa.store.disk import make_directory, write_whole
from hansa.wire import codec, tokens
from hansa.wire.frames import Blob, Role
from hansa.wire.limits import MAX_LETTER
from hansa.wire.tls import Trust

__all__ = ["Gateway", "Weak", "fits_label", "token_in"]

_log = structlog.get_logger(__name__)

_LONGEST: Final = 256
"""Characters of an id or a name."""
_ATTRIBUTES: Final = 48
"""That a client may have as labels."""
_OUR_LABELS: Final = "fedn."
_TOLD: Final = 600
"""Documents that a client may tell in a minute: statuses, validations and attributes."""
_TEXT: Final = 64 << 10
"""Characters of a text in one."""
_PREDICTING: Final = 600.0
"""Seconds that clients have for a prediction."""
_AS_FLOAT64: Final = 8
"""Times the size of a model's file that an update's may have: what is float64 there may be an int8 here."""
_HEADERS: Final = 1 << 20
_ROOM: Final = 192 << 20
"""Bytes of models that are worked on at once."""
_MEMBER: Final = "member.json"


class Weak(StrEnum):
    """What is let in without a token of its own: clients alone, never people."""

    OFF = "off"
    CALLS = "calls"
    """gRPC calls that name a client which was added with a token: what FEDn's clients send without TLS."""
    JOINING = "joining"
    """Whoever reaches the port, as a client."""


class Gateway:
    """Every FEDn client of one project."""

    def __init__(
        self,
        controller: Controller,
        project: str,
        folder: Path,
        *,
        join: str,
        trust: Trust,
        weak: Weak = Weak.OFF,
        silence: float = 15.0,
        limit: int = 16 << 30,
    ) -> None:
        """folder: for all that is kept of them; join, trust: how their agents find the network.

        silence: seconds after which a client that says nothing is gone; limit: bytes of what all have uploaded.
        """
        self.controller = controller
        self.project = project
        self.weak = weak
        self._join, self._trust = join, trust
        self._silence = silence
        self._clients = folder / "clients"
        self.files = Files(folder / "models")
        self.uploads = Uploads(folder / "uploads", limit)
        self._limit = limit
        self._room = Room(_ROOM, controller.tree(project).hub.slot)
        self._guests: dict[str, Guest] = {}
        """By client id."""
        self._adding = asyncio.Lock()
        """Held while somebody is added or deleted."""
        self._minute = 0
        self._told: Counter[str] = Counter()
        """Documents by client id, in this minute."""
        self._sent_away: set[str] = set()
        """Client ids of those that were deleted since this server began: they are not added again by themselves."""
        self.notes = Notes(controller.store, project)
        self.numbers = Numbers(self.notes)
        self._watching: asyncio.Task[None] | None = None
        self._ends = False

    async def open(self) -> None:
        """Know again who was added before."""
        self.notes.open()
        await self.numbers.open()
        for member in await asyncio.to_thread(self._remembered):
            guest = self._guests[member.client_id] = self._guest(member)
            if await asyncio.to_thread(guest.has_learned):
                guest.return_early()
        self._watching = asyncio.create_task(self._watch())

    async def aclose(self) -> None:
        """Send everybody away, to come again: at another server, though the port of this one answers for a moment."""
        self._ends = True
        for guest in self._guests.values():
            guest.end()
        if self._watching is not None:
            self._watching.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._watching])
        await asyncio.gather(*(guest.leave() for guest in self._guests.values()))
        await self.notes.aclose()

    # ── who calls ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def guests(self) -> tuple[Guest, ...]:
        """All who were ever added."""
        return tuple(self._guests.values())

    async def add(
        self,
        client_id: str,
        name: str,
        token: str,
        *,
        preferred: str = "",
        validates: bool = True,
        package: str = "local",
        ip: str = "",
    ) -> Guest:
        """A client that asks where to go; again, it is the same. token: as it came with the call; see `Membership`.

        Raises `AuthenticationError` for a token that holds not, or is another client's, and `InputError`.
        """
        if not client_id or max(len(client_id), len(name)) > _LONGEST:
            raise InputError(f"client_id and name are needed, of at most {_LONGEST} characters")
        async with self._adding:
            known = self._guests.get(client_id)
            node, join_token = await self._joining(token, client_id, known)
            if any(guest.member.node == node for guest in self._guests.values() if guest is not known):
                raise AuthenticationError(f"the token of {node} is used by a client of another client_id already")
            if known is not None and known.member.node != node:
                raise AuthenticationError(
                    f"the client_id {client_id!r} is another client's: {node} needs one of its own"
                )
            added_at = known.member.added_at if known is not None else time.time()
            name = name or client_id
            attributes = known.member.attributes if known is not None else {}
            member = Membership(
                client_id, name, node, join_token, preferred, validates, package, ip, added_at, attributes
            )
            await asyncio.to_thread(self._remember, member)
            self._sent_away.discard(client_id)
            if known is not None:
                known.become(member)
                return known
            guest = self._guests[client_id] = self._guest(member)
        return guest

    def check_client(self, token: str) -> None:
        """Raise `AuthenticationError` unless a client with this token may have what all clients may."""
        if self._holder(token) is None and (token or self.weak is not Weak.JOINING):
            identity = tokens.verify(self.controller.public_key, token, tokens.JOINING)
            if identity.role is not Role.CLIENT or identity.project != self.project:
                raise AuthenticationError(f"the token of {identity.name} is none of a client of {self.project}")

    async def caller(self, token: str, said: str, name: str, peer: str) -> Guest:
        """As `called`; where everybody may join, whoever comes here straight, without asking where to go, is added."""
        try:
            return self.called(token, said, peer)
        except AuthenticationError:
            stranger = said and said not in self._guests and said not in self._sent_away
            if self.weak is not Weak.JOINING or not stranger:
                raise
            await self.add(said, name, "")
            return self.called(token, said, peer)

    def called(self, token: str, said: str, peer: str) -> Guest:
        """Who makes a gRPC call. token: empty, where it came with none; said: the client id or name that it gives.

        A token that a client was added with holds for it as long as it is a member, also when it has expired: FEDn's
        clients have no other. Raises `AuthenticationError`, and `PermissionDeniedError` for who speaks for another.
        """
        named, guest = self._named(said, peer), self._holder(token)
        if guest is not None:
            if said and named is not guest:
                whose = f"the token is that of {guest.member.node}"
                raise PermissionDeniedError(f"{whose}, which may not speak for {said[:64]!r}")
        elif token and not self._is_foreign(token):
            node = tokens.verify(self.controller.public_key, token, tokens.JOINING).name
            # also where another token, of another project perhaps, has the same name in it
            raise AuthenticationError(f"{node} has not been added with this token: POST /api/v1/clients/add first")
        elif self.weak is Weak.OFF:
            raise AuthenticationError("Token is missing")
        elif named is None:
            raise AuthenticationError(f"{said[:64]!r} has not been added: POST /api/v1/clients/add first")
        else:
            guest = named
        guest.hear()
        return guest

    def _holder(self, token: str) -> Guest | None:
        """Who was added with this token."""
        if not token:
            return None
        return next((each for each in self._guests.values() if _is_same(each.member.join_token, token)), None)

    def _is_foreign(self, token: str) -> bool:
        """Whether it is as none: where everybody may join, a fleet may still send the tokens of its former server."""
        if self.weak is not Weak.JOINING:
            return False
        try:
            tokens.verify(self.controller.public_key, token, tokens.JOINING)
        except AuthenticationError:
            return True
        return False

    def _named(self, said: str, peer: str) -> Guest | None:
        """By id, else by a name that no other has; who says nothing is known by the connection of its stream."""
        if not said:
            return next((guest for guest in self._guests.values() if guest.listens and guest.peer == peer), None)
        if said in self._guests:
            return self._guests[said]
        alike = [guest for guest in self._guests.values() if guest.member.name == said]
        return alike[0] if len(alike) == 1 else None

    async def _joining(self, token: str, client_id: str, known: Guest | None) -> tuple[str, str]:
        """(name in the network, join token) of who is to be added."""
        if token:
            if known is not None and _is_same(known.member.join_token, token):
                return known.member.node, token
            try:
                self.check_client(token)
            except AuthenticationError:
                if self.weak is not Weak.JOINING:
                    raise
            else:
                return tokens.holder(token).name, token
        elif self.weak is not Weak.JOINING:
            raise AuthenticationError("Missing token")
        if known is not None:
            return known.member.node, known.member.join_token
        node = _node_name(client_id)
        made, _ = await self.controller.issue_token(self.project, node, Role.CLIENT, by="fedn")
        return node, made

    # ── models and answers ───────────────────────────────────────────────────────────────────────────────────────

    async def model_file(self, guest: Guest | None, model: str, helper: str) -> Path:
        """A model, in the format of the guest's errand that it is of, else in that of `helper`; `NotFoundError`.

        Of a backward pass, what its gradients are.
        """
        for errand in guest.desk.errands if guest is not None else ():
            if errand.model == model:
                if errand.gradients is not None:
                    return errand.gradients.file
                helper = errand.helper
        found = self.files.find(model, helper)
        if found is not None:
            return found
        await self.controller.artifacts.find_model(self.project, model)
        async with self.controller.retention.holds.holding(model):
            path = await self.controller.objects.fetch(model)
            return await self.files.make(model, helper, lambda: codec.load(path))

    async def fetched(self, guest: Guest, model: str) -> None:
        """A client has all of what it asked for with this id."""
        for errand in guest.desk.errands:
            if errand.model == model and errand.gradients is not None:
                await errand.gradients.note()

    async def uploaded(self, guest: Guest, pieces: AsyncIterator[tuple[str, bytes]]) -> str:
        """A client sends a model, as `Uploads.receive`: one like those that were given out, where any were.

        What it makes of its own examples in a forward pass is like nothing that is known here.
        """
        if any(errand.model.startswith(PREFIX) for errand in guest.desk.errands):
            return await self.uploads.receive(guest.member.client_id, pieces, min(self._limit, MAX_LETTER + _HEADERS))
        largest = self.files.largest
        most = min(self._limit, _AS_FLOAT64 * largest + _HEADERS) if largest else self._limit
        return await self.uploads.receive(guest.member.client_id, pieces, most)

    def updated(self, guest: Guest, model: str, upload: str, metadata: Mapping[str, Any], round_id: str) -> str:
        """A client has trained; returns in a word what becomes of it. round_id: as it says; empty: it says nothing."""
        answer = Answer(model, metadata, file=self.uploads.take(guest.member.client_id, upload))
        if model.startswith(PREFIX):
            return guest.answer(answer, None, Kind.PROGRAM)
        became = guest.answer(answer, self.numbers.key(round_id), Kind.TRAIN)
        _log.debug("an update came", client=guest.member.node, model=model[:12], became=became)
        return became

    def validated(self, guest: Guest, model: str, metrics: Mapping[str, Any]) -> str:
        """A client has evaluated; returns in a word what becomes of it."""
        return guest.answer(Answer(model, metrics), None, Kind.EVALUATE)

    def stepped(self, guest: Guest, gradients: str, metadata: Mapping[str, Any]) -> str:
        """A client has done a backward pass; returns in a word what becomes of it. gradients: the id of the pass."""
        return guest.answer(Answer(gradients, metadata), None, Kind.PROGRAM)

    def note(self, kind: str, guest: Guest, document: Mapping[str, Any]) -> None:
        """Something that a client tells. kind: status, validation or attribute. What is too much is left out."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._told = minute, Counter()
        self._told[guest.member.client_id] += 1
        if self._told[guest.member.client_id] > _TOLD:
            if self._told[guest.member.client_id] == _TOLD + 1:
                _log.warning("a client tells too much; left out", client=guest.member.node, a_minute=_TOLD)
            return
        sender = {"name": guest.member.name, "role": "CLIENT", "client_id": guest.member.client_id}
        rest = {key: value for key, value in document.items() if key != "sender"}
        told = {
            "sender": sender,
            **{key: value[:_TEXT] if isinstance(value, str) else value for key, value in rest.items()},
        }
        session = str(document.get("session_id", ""))
        self.notes.tell(kind, told, session=session if session in self.numbers.sessions else "")

    def predicted(self, guest: Guest, model: str, prediction: str, document: str) -> str:
        """A client has predicted; returns in a word what becomes of it. prediction: the id that it was given."""
        return guest.answer(Answer(model, document=document), None, Kind.PREDICT, prediction)

    async def predict(self, prediction: str, model: str, helper: str, by: str) -> None:
        """Have all clients predict with a model, as `Predictions.start`. prediction: the id that its asker gives."""
        config = {} if helper == NUMPY else {"helper_type": helper}
        rules = RoundRules(min_clients=1, deadline=_PREDICTING, lease=_PREDICTING)
        spec = RunSpec(name=prediction, rounds=1, rules=rules, config=config)
        await self.controller.predictions.start(self.project, spec, model=model, by=by)

    async def describe(self, guest: Guest, told: Mapping[str, str]) -> None:
        """A client says something of itself: it is a label of the client, as far as there may be such a label."""
        async with self._adding:
            attributes = dict(guest.member.attributes)
            for key, value in told.items():
                if fits_label(key, value) and len(attributes | {key: value}) <= _ATTRIBUTES:
                    attributes[key] = value
                else:
                    _log.warning("an attribute is no label", client=guest.member.node, attribute=key[:64])
            if attributes != guest.member.attributes and self._guests.get(guest.member.client_id) is guest:
                guest.become(replace(guest.member, attributes=attributes))
                await asyncio.to_thread(self._remember, guest.member)

    def node_of(self, client_id: str) -> str:
        """The name in hansa of a FEDn client; of anybody else what was given."""
        known = self._guests.get(client_id)
        return client_id if known is None else known.member.node

    async def forget(self, client_id: str) -> bool:
        """A client is none any more: it is sent away, and its token holds no more. False: nobody has this id."""
        async with self._adding:
            guest = self._guests.pop(client_id, None)
            if guest is None:
                return False
            self._sent_away.add(client_id)
            await guest.leave()
            with suppress(NotFoundError):
                await self.controller.nodes.revoke(self.project, guest.member.node, by="fedn")
            await asyncio.to_thread(shutil.rmtree, self._folder(client_id), ignore_errors=True)
        return True

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _guest(self, member: Membership) -> Guest:
        guest = Guest(
            member,
            join=self._join,
            trust=self._trust,
            work=self._folder(member.client_id),
            files=self.files,
            room=self._room,
            fetch=self._fetch,
            silence=self._silence,
            round_id=lambda key: self.numbers.of(key.run, key.round),
        )
        if self._ends:
            guest.end()
        return guest

    async def _fetch(self, blob: Blob, target: Path) -> bool:
        """A guest's agent has the server's own object, and no copy of it."""
        if await asyncio.to_thread(target.exists):
            return True
        try:
            found = await self.controller.objects.fetch(blob.digest)
            await asyncio.to_thread(os.link, found, target)
        except (NotFoundError, StorageError, OSError) as error:  # then it comes as it comes to everybody
            _log.info("a model is not at hand", model=blob.digest[:12], why=str(error))
            return False
        return True

    def _folder(self, client_id: str) -> Path:
        """A client may call itself as it likes; it names no path."""
        return self._clients / sha256(client_id.encode()).hexdigest()[:32]

    def _remember(self, member: Membership) -> None:
        folder = self._folder(member.client_id)
        make_directory(folder)
        write_whole(folder / _MEMBER, json.dumps(asdict(member)).encode())

    def _remembered(self) -> list[Membership]:
        return [Membership(**json.loads(file.read_text())) for file in sorted(self._clients.glob(f"*/{_MEMBER}"))]

    async def _watch(self) -> None:
        """End the agents of those who are gone."""
        while True:
            await asyncio.sleep(self._silence / 3)
            gone = [guest for guest in self._guests.values() if not guest.is_here]
            await asyncio.gather(*(guest.leave() for guest in gone))


def fits_label(key: str, value: str) -> bool:
    """Whether an attribute may be a label of a client."""
    return 0 < len(key) <= _LONGEST and len(value) <= _LONGEST and not key.startswith(_OUR_LABELS)


def token_in(header: str) -> str:
    """The token of an authorization header; empty: there is none, which FEDn's Python clients write as "None"."""
    token = header.removeprefix("Bearer").strip()
    return "" if token == "None" else token  # noqa: S105 - no password


def _is_same(token: str, other: str) -> bool:
    return compare_digest(token.encode(), other.encode())


def _node_name(client_id: str) -> str:
    """An id as a name that hansa takes: itself, where it is one."""
    plain = "".join(each if each.isascii() and (each.isalnum() or each in "._@-") else "-" for each in client_id)
    if plain == client_id and plain[0].isalnum() and len(plain) <= 128:  # noqa: PLR2004 - as long as a name may be
        return plain
    return f"fedn-{plain.strip('._@-')[:80]}-{sha256(client_id.encode()).hexdigest()[:12]}"
