"""FEDn's sessions as hansa's: a configuration becomes a run's specification; further rounds continue the session."""

import ast
import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from hansa.compat.fedn.formats import NUMPY, helper_names
from hansa.compat.fedn.functions import functions_of, package_of
from hansa.compat.fedn.gateway import Gateway
from hansa.compat.fedn.split import AGGREGATOR, package_of_top
from hansa.errors import InputError, NotFoundError
from hansa.messages import EvaluationRules, RoundRules, RunSpec
from hansa.run import names
from hansa.store.records import SessionRecord, SessionState
from hansa.wire.frames import CENTRAL

__all__ = ["Sessions"]

_REQUIRED: Final = (
    "aggregator",
    "round_timeout",
    "buffer_size",
    "model_id",
    "delete_models_storage",
    "clients_required",
    "validate",
    "helper_type",
)
_KEPT: Final = (*_REQUIRED, "aggregator_kwargs", "requested_clients", "rounds", "server_functions")
_OPTIMIZERS: Final = {"adam": "fedadam", "yogi": "fedyogi", "adagrad": "fedadagrad"}
_FEDOPT: Final = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "tau": 1e-4}
"""The defaults of FEDn's server optimisers, which are not hansa's."""
_RANGE_BITS: Final = 10
"""A value may change by 1,024 times its tensor's scale: FEDn's scripts were never told that there is a bound."""
_LEASE: Final = 20.0
"""Seconds for which a client that is not heard of keeps its place."""


class Sessions:
    """Sessions that scripts and commands of FEDn make, start and end."""

    def __init__(self, gateway: Gateway) -> None:
        """gateway: whose project they are of."""
        self._gateway = gateway
        self._controller = gateway.controller
        self._project = gateway.project

    async def create(self, told: Mapping[str, Any], by: str) -> SessionRecord:
        """A session, not started; raises `InputError` in FEDn's words, and what hansa has against it."""
        config = told.get("session_config")
        if not isinstance(config, Mapping):
            raise InputError("Class 'SessionDTO' is missing field session_config")
        splits = config.get("aggregator") == AGGREGATOR
        for field in _REQUIRED:
            if config.get(field) is None and not (splits and field == "model_id"):
                raise InputError(f"Class 'SessionConfigDTO' is missing field {field}")
        seed = None if splits else str(told.get("seed_model_id") or config["model_id"])
        name = str(told.get("name") or "session")
        spec, package = spec_of_split(name, config) if splits else spec_of(name, config), None
        if spec.functions or splits:
            make = package_of_top if splits else partial(package_of, str(config["server_functions"]))
            archive = await asyncio.to_thread(make)
            package = (await self._controller.artifacts.add_package(self._project, archive, by)).id
        session = await self._controller.sessions.create(self._project, spec, seed_model=seed, package=package, by=by)
        kept = {field: config.get(field) for field in _KEPT}
        note = {"session_config": kept, "seed_model_id": told.get("seed_model_id")}
        await self._gateway.notes.put("session", note, session=session.id, name=session.id)
        return session

    async def start(self, told: Mapping[str, Any], by: str) -> SessionRecord:
        """Run a session that was made, or so many rounds more of one that has ended."""
        if not told.get("session_id"):
            raise InputError("Session ID is required")
        session = await self.find(str(told["session_id"]))
        rounds = _whole(told.get("rounds") or 1, "rounds")
        if session.state is SessionState.RUNNING:
            raise InputError("A session is already running!")
        first = session.state is SessionState.CREATED
        if session.spec.parties and not first:
            raise InputError(
                "split learning is not continued, since its clients' parts have gone on: start another session"
            )
        needed = session.spec.rules.min_clients
        if self._available(session, told) < needed:
            raise InputError(f"Number of available clients is lower than the required minimum of {needed}")
        if first:
            await self._controller.store.put(self._settled(session, told, rounds))
        try:
            started = await self._controller.sessions.start(
                self._project, session.id, by, further=0 if first else rounds
            )
        except NotFoundError as error:
            raise InputError("Session seed model not found") from error
        run = {
            "model_id": session.model or session.seed_model,
            "round_timeout": int(session.spec.rules.deadline),
            "rounds": rounds,
        }
        self._gateway.notes.tell("run", run, session=session.id)
        return started

    def _settled(self, session: SessionRecord, told: Mapping[str, Any], rounds: int) -> SessionRecord:
        """What is known only when it is started."""
        rules = session.spec.rules
        if told.get("round_timeout"):
            rules = replace(rules, deadline=float(_whole(told["round_timeout"], "round_timeout")))
        prefix = str(told["model_name_prefix"]) if told.get("model_name_prefix") else session.model_prefix
        if session.spec.parties:
            config = {**session.spec.config, "rounds": rounds}
            parties = (CENTRAL, *self._present(told))
            return replace(session, spec=replace(session.spec, rules=rules, parties=parties, config=config))
        if told.get("client_ids"):
            rules = replace(rules, only=self._nodes(str(told["client_ids"])))
        return replace(session, spec=replace(session.spec, rounds=rounds, rules=rules), model_prefix=prefix)

    def _available(self, session: SessionRecord, told: Mapping[str, Any]) -> int:
        """Clients that could take part now."""
        if session.spec.parties:
            return len(self._present(told))
        return len(self._controller.tree(self._project).directory.clients)

    def _present(self, told: Mapping[str, Any]) -> tuple[str, ...]:
        """The parties of split learning, in their order: FEDn's clients that are here, or those that are asked for."""
        connected = self._controller.tree(self._project).directory.clients
        here = {guest.member.client_id: guest.member.node for guest in self._gateway.guests}
        wanted = self._nodes(str(told["client_ids"])) if told.get("client_ids") else tuple(here.values())
        of = {node: client_id for client_id, node in here.items()}
        return tuple(sorted((node for node in wanted if node in connected and node in of), key=lambda node: of[node]))

    def _nodes(self, client_ids: str) -> tuple[str, ...]:
        known = {guest.member.client_id: guest.member.node for guest in self._gateway.guests}
        return tuple(known.get(each.strip(), each.strip()) for each in client_ids.split(","))

    async def change(self, session_id: str, told: Mapping[str, Any], by: str) -> SessionRecord:
        """Terminate it; nothing else of a session is for scripts to say."""
        session = await self.find(session_id)
        status = told.get("status")
        if status == "Terminated":
            if session.state is SessionState.RUNNING:
                return await self._controller.sessions.stop(self._project, session.id, by)
            try:
                note = dict((await self._gateway.notes.get("session", session.id)).data)
            except NotFoundError:
                note = {}
            await self._gateway.notes.put(
                "session", note | {"status": "Terminated"}, session=session.id, name=session.id
            )
        elif status is not None:
            raise InputError(f"a session's status is {status!r} when it is so: only Terminated can be asked for")
        return session

    async def find(self, session_id: str) -> SessionRecord:
        """A session; raises `InputError` in FEDn's words."""
        try:
            return await self._controller.store.get(SessionRecord, self._project, session_id)
        except NotFoundError as error:
            raise InputError("Session with specified ID does not exist") from error


def spec_of_split(name: str, config: Mapping[str, Any]) -> RunSpec:
    """The run of split learning, whose parties and rounds are known when it starts; raises `InputError`."""
    timeout = float(_whole(config["round_timeout"], "round_timeout"))
    least = max(1, int(config["clients_required"]))
    rules = RoundRules(min_clients=least, deadline=timeout, lease=min(_LEASE, timeout))
    told = {"rounds": 1, "validate": _truth(config["validate"])}
    return RunSpec(name=name, algorithm="fedavg", rounds=1, rules=rules, parties=(CENTRAL,), config=told)


def spec_of(name: str, config: Mapping[str, Any]) -> RunSpec:
    """The run of a session's configuration; raises `InputError` for what hansa cannot do."""
    functions = functions_of(config["server_functions"]) if config.get("server_functions") else ()
    if config["helper_type"] not in helper_names():
        raise InputError(f"there is no helper {config['helper_type']!r}; there is: {', '.join(helper_names())}")
    named = "fedavg" if "aggregate" in functions else str(config["aggregator"])  # functions go before it, as in FEDn
    given = {} if "aggregate" in functions else _options(config.get("aggregator_kwargs"))
    algorithm, aggregator, options = _algorithm(named, given)
    timeout, wanted = _whole(config["round_timeout"], "round_timeout"), int(config["buffer_size"])
    rules = RoundRules(
        min_clients=max(1, int(config["clients_required"])),
        enough=wanted if wanted > 0 else None,
        deadline=float(timeout),
        lease=min(_LEASE, float(timeout)),
    )
    helper = config["helper_type"]
    return RunSpec(
        name=name,
        algorithm=algorithm,
        algorithm_options=options if aggregator == "mean" else {},
        aggregator=aggregator,
        aggregator_options={} if aggregator == "mean" else options,
        rounds=1,
        range_bits=_RANGE_BITS,
        rules=rules,
        functions=functions,
        evaluation=EvaluationRules(every=1 if _truth(config["validate"]) else 0, central=False),
        config={} if helper == NUMPY else {"helper_type": helper},
    )


def _algorithm(name: str, options: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]]:
    """(algorithm, aggregator, options of the one that is not the usual): FEDn has one word for both."""
    if name == "fedopt":
        chosen = str(options.get("serveropt", "adam"))
        if chosen not in _OPTIMIZERS:
            raise InputError(f"serveropt is {chosen!r}; there is: {', '.join(_OPTIMIZERS)}")
        given = _FEDOPT | {key: value for key, value in options.items() if key != "serveropt"}
        if chosen == "adagrad":
            given = {key: value for key, value in given.items() if key not in {"beta1", "beta2"}}
        return _OPTIMIZERS[chosen], "mean", given
    if name in names("hansa.algorithms"):
        return name, "mean", options
    if name in names("hansa.aggregators"):
        return "fedavg", name, options
    raise InputError(f"there is no aggregator {name!r}: fedavg, fedopt, or a name of hansa's algorithms or aggregators")


def _options(given: Any) -> Mapping[str, Any]:
    """Keyword arguments, as an object or as the text of one."""
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given or "None")
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise InputError(f"aggregator_kwargs {given[:100]!r} is no dictionary of plain values") from error
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError("aggregator_kwargs must be an object")
    return given


def _whole(value: Any, name: str) -> int:
    """At least 1; raises `InputError`."""
    try:
        whole = int(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a whole number, not {value!r}") from error
    if whole < 1:
        raise InputError(f"{name} must be at least 1, not {value!r}")
    return whole


def _truth(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() == "true"
