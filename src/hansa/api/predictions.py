"""Predictions as the Python client knows them: asked for, waited for, read."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from hansa.api.documents import from_document
from hansa.api.nouns import Listed, Models, Packages, listing
from hansa.api.results import Waiting
from hansa.api.sessions import Sessions
from hansa.api.transport import Transport
from hansa.errors import InputError
from hansa.messages import RoundRules, Value
from hansa.store.records import AnswerRecord, PredictionRecord, SessionState

__all__ = ["Predictions"]

_PAGE: Final = 20
_LONGEST_PAUSE: Final = 2.0
"""Seconds between two looks whether a prediction is over."""


class Predictions(Listed[PredictionRecord]):
    """What models say of clients' data, of those clients whose owners let predictions leave."""

    _kind = PredictionRecord
    _name = "predictions"

    def __init__(
        self, transport: Transport, project_path: str, *, models: Models, packages: Packages, sessions: Sessions
    ) -> None:
        """models, packages, sessions: of the same project."""
        super().__init__(transport, project_path)
        self._models = models
        self._packages = packages
        self._sessions = sessions

    def start(
        self,
        *,
        session: str | None = None,
        model: str | Path | None = None,
        app: str | Path | None = None,
        name: str = "prediction",
        rules: RoundRules | None = None,
        config: Mapping[str, Value] | None = None,
    ) -> PredictionRecord:
        """Ask clients what a model predicts of their data.

        Args:
            session: its newest model and its package, where `model` and `app` do not say another.
            model: the digest of a model of the project, or the path of a safetensors file, which is uploaded.
            app: whose `@app.predict` runs on the clients. With neither this nor a session's package, clients bring
                their own.
            name: what it is called.
            rules: who is asked, and until when: `only`, `labels`, `count`, `fraction`, `deadline`, `lease`.
            config: handed to user code as `task.config`.

        """
        found = self._sessions.get(session) if session is not None else None
        newest = None if found is None else found.model or found.seed_model
        digest = newest if model is None else self._models.named(model)
        if digest is None:
            raise InputError("say which model predicts: give model=…, or a session that has one")
        package = self._packages.upload(app).id if app is not None else found.package if found is not None else None
        body = {"name": name, "model": digest, "package": package, "config": dict(config or {})}
        if rules is not None:
            plain = asdict(rules)
            body["rules"] = {**plain, "only": list(plain["only"]), "labels": list(plain["labels"])}
        return from_document(PredictionRecord, self._transport.json("POST", f"{self._path}/predictions", body=body))

    def get(self, prediction: str) -> PredictionRecord:
        """A prediction, by its id."""
        return self._get(f"/predictions/{prediction}")

    def why(self, prediction: str) -> Waiting:
        """What a prediction waits for."""
        return from_document(Waiting, self._transport.json("GET", f"{self._path}/predictions/{prediction}/why"))

    def wait(self, prediction: str) -> PredictionRecord:
        """Wait until a prediction is over, and return it as it is then."""
        pause = 0.05
        while (found := self.get(prediction)).state is SessionState.RUNNING:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        return found

    def answers(self, prediction: str, client: str | None = None) -> Iterator[AnswerRecord]:
        """What clients have predicted (`value`), or why they did not (`reason`), by name."""
        offset, total = 0, 1
        while offset < total:
            query = {"client": client, "limit": _PAGE, "offset": offset}
            path = f"{self._path}/predictions/{prediction}/answers"
            page = listing(AnswerRecord, self._transport.json("GET", path, query=query))
            yield from page
            offset, total = offset + _PAGE, page.total

    def stop(self, prediction: str) -> PredictionRecord:
        """Ask no more; what was answered is kept."""
        path = f"{self._path}/predictions/{prediction}/stop"
        return from_document(PredictionRecord, self._transport.json("POST", path))

    def delete(self, prediction: str) -> None:
        """Delete a prediction that is not under way, with its answers."""
        self._transport.json("DELETE", f"{self._path}/predictions/{prediction}")
