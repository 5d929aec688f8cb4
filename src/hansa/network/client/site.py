"""A data owner's gate: what comes in is held against the site's policy, and what goes out is written down."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from blake3 import blake3

from hansa.arrays import norm
from hansa.errors import PermissionDeniedError, UserCodeError
from hansa.messages import Kind, RunSpec
from hansa.network.client import ledger
from hansa.network.client.approvals import Approvals, Request
from hansa.network.client.code import Code
from hansa.network.client.ledger import LEDGER, Departure
from hansa.network.client.policy import ANYTHING, SitePolicy
from hansa.wire import codec, packing
from hansa.wire.codec import Buffer
from hansa.wire.frames import Answer, Evaluated, Offer, OpenRound, Predicted, Samples

__all__ = ["Outgoing", "Site"]

_SLACK: Final = 1 + 1e-9
"""Of a norm, for rounding."""

_FIRST_STEP: Final = 1 << 16
"""Bytes of letters that are written down at first."""

_LOOK: Final = 0.5
"""Seconds between two looks whether a person has answered."""


class Site:
    """The gate of one client. Every refusal is a `PermissionDeniedError` that says why, for the session to be told."""

    def __init__(self, work: Path, policy: SitePolicy = ANYTHING) -> None:
        """work: the client's folder."""
        self.policy = policy
        self._ledger = work / LEDGER
        self._approvals = Approvals(work)
        self._kept_back: set[tuple[str, frozenset[str]]] = set()

    def check_run(self, opened: OpenRound) -> None:
        """Before anything is fetched for a task."""
        now = datetime.now()  # noqa: DTZ005 - hours are those of the site
        refuse(self.policy.refusal_of_run(opened.spec, now, predicts=opened.key.kind is Kind.PREDICT))

    async def check_code(self, opened: OpenRound, code: Code, wait: Callable[[], None]) -> None:
        """Before any of its code is loaded; waits for a person where one must approve. wait: called once, if so."""
        digest, signer = "", None
        if code.package:
            package = await asyncio.to_thread(code.opened)
            digest = package.digest
            signer = await asyncio.to_thread(package.signer)
            refuse(self.policy.refusal_of_code(digest, signer, opened.spec))
        if self.policy.approval:
            await self._approved(Request.of(opened.key.run, opened.spec, digest, signer or ""), wait)

    async def _approved(self, request: Request, wait: Callable[[], None]) -> None:
        answer = await asyncio.to_thread(self._approvals.answer, request)
        if answer is None:
            await asyncio.to_thread(self._approvals.ask, request)
            wait()
        while answer is None:
            await asyncio.sleep(_LOOK)
            answer = await asyncio.to_thread(self._approvals.answer, request)
        if not answer:
            raise PermissionDeniedError("a person at this site has refused this session")

    def measures(self, spec: RunSpec) -> bool:
        """Whether updates are held against the largest norm before they leave, whatever their code made of them."""
        return self.policy.privacy.max_norm is not None and self.policy.privacy.shows_norm(spec)

    def check_norm(self, update: Buffer, model: Buffer) -> None:
        """Before an update leaves. model: what was broadcast."""
        limit = self.policy.privacy.max_norm
        length = norm(packing.unpack(update, packing.outline(codec.decode(model))))
        if limit is None or length <= limit * _SLACK:
            return
        refuse(f"updates must be clipped to a norm of {limit:g} or less, and this one has {length:.6g}: it stays here")

    def outbound(self, answer: Answer) -> tuple[Answer, frozenset[str]]:
        """(what may leave of an answer, the names of the metrics that were kept back).

        Raises `PermissionDeniedError` for a prediction that is too large.
        """
        if isinstance(answer, Predicted):
            refuse(self.policy.outbound.refusal_of_prediction(len(answer.document)))
            return answer, frozenset()
        allowed = self.policy.outbound.metrics
        given = answer.contributions[0].metrics if isinstance(answer, Offer) else answer.metrics
        kept = {name: value for name, value in given.items() if allowed is None or name in allowed}
        if isinstance(answer, Evaluated):
            return replace(answer, metrics=kept), frozenset(given) - frozenset(kept)
        contribution = replace(answer.contributions[0], metrics=kept)
        return replace(answer, contributions=(contribution,)), frozenset(given) - frozenset(kept)

    def logged(self, frame: Samples) -> tuple[Samples, frozenset[str]]:
        """(what may leave of what code has logged, the names of the metrics that were kept back)."""
        allowed = self.policy.outbound.metrics
        if allowed is None:
            return frame, frozenset()
        kept = tuple(sample for sample in frame.values if sample.name in allowed)
        return replace(frame, values=kept), frozenset(sample.name for sample in frame.values) - frozenset(allowed)

    def reports(self, names: Sequence[str], size: int) -> None:
        """Write down that this machine tells of itself. size: bytes at most, until it is written down again."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        ledger.append(self._ledger, Departure(now, "", 0, "telemetry", size, "", sorted(names), ""))

    def words(self, error: UserCodeError) -> UserCodeError:
        """What a session is told of a failure of its code."""
        if self.policy.outbound.prints:
            return error
        return UserCodeError("the app failed; its site keeps back what it said")

    def leaves(self, opened: OpenRound, answer: Answer) -> None:
        """Write down an answer that is about to be sent; raises `StorageError`."""
        if isinstance(answer, Offer):
            blob = answer.blob
            self._write(opened, "update", blob.size, blob.digest, tuple(answer.contributions[0].metrics))
        elif isinstance(answer, Predicted):
            self._write(opened, "prediction", len(answer.document), blake3(answer.document).hexdigest(), ())
        else:
            self._write(opened, "evaluation", 8 * len(answer.metrics), "", tuple(answer.metrics))

    def says(self, opened: OpenRound, kind: str, size: int, metrics: Collection[str] = ()) -> None:
        """Write down what is told on the way, or to other parties. kind: failure, prints, log or letters; size: bytes.

        metrics: the names of those that were logged.
        """
        self._write(opened, kind, size, "", tuple(metrics))

    def _write(self, opened: OpenRound, kind: str, size: int, digest: str, metrics: tuple[str, ...]) -> None:
        package = opened.package.digest if opened.package is not None else ""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        key = opened.key
        ledger.append(self._ledger, Departure(now, key.run, key.round, kind, size, digest, sorted(metrics), package))


class Outgoing:
    """The letters of one party, written down before they leave: in steps, each as large as all before it.

    So there are few lines, however many letters, and they never say less than what has left.
    """

    def __init__(self, site: Site, opened: OpenRound) -> None:
        """opened: the party's task."""
        self._site = site
        self._opened = opened
        self._left = 0
        self._noted = 0

    async def leave(self, size: int) -> None:
        """A letter of so many bytes is about to leave; raises `StorageError`."""
        if self._left + size > self._noted:
            step = max(self._left + size - self._noted, self._noted, _FIRST_STEP)
            await asyncio.to_thread(self._site.says, self._opened, "letters", step)
            self._noted += step
        self._left += size


def refuse(why: str) -> None:
    """Raise `PermissionDeniedError` unless there is no reason."""
    if why:
        raise PermissionDeniedError(f"this site's policy: {why}")
