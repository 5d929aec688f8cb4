"""FEDn's GraphQL queries, which read what its lists have."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from graphql import DocumentNode, GraphQLError, build_schema, execute, parse, validate
from graphql.validation import specified_rules

from hansa.compat.fedn.catalogue import Catalogue
from hansa.compat.fedn.listing import Asked, Document, select

__all__ = ["Graph"]

_LISTED: Final = 'limit: Int = 25, skip: Int = 0, sortKey: String = "committed_at", sortOrder: String = "desc"'
_DEEPEST: Final = 8
_LISTS: Final = 2000
_OBJECTS: Final = 20_000
"""That one query may make: its types link to each other, so that each level multiplies."""
_LONGEST: Final = 20_000
"""Characters of a query."""

_SCHEMA: Final = build_schema(f"""
type Query {{
  session(id: String!): SessionType
  sessions(name: String, {_LISTED}): [SessionType]
  model(id: String!): ModelType
  models(sessionId: String, session_id: String, {_LISTED}): [ModelType]
  validation(id: String!): ValidationType
  validations(sessionId: String, session_id: String, {_LISTED}): [ValidationType]
  status(id: String!): StatusType
  statuses(sessionId: String, session_id: String, {_LISTED}): [StatusType]
}}
type ActorType {{ name: String role: String }}
type SessionConfigType {{
  aggregator: String roundTimeout: Int bufferSize: Int modelId: String deleteModelsStorage: Boolean
  clientsRequired: Int helperType: String validate: Boolean sessionId: String
}}
type SessionType {{
  sessionId: String name: String committedAt: String sessionConfig: SessionConfigType
  models({_LISTED}): [ModelType] validations({_LISTED}): [ValidationType] statuses({_LISTED}): [StatusType]
}}
type ModelType {{
  name: String committedAt: String modelId: String sessionId: String parentModel: String
  validations({_LISTED}): [ValidationType] session: SessionType
}}
type ValidationType {{
  correlationId: String data: String meta: String modelId: String receiver: ActorType sender: ActorType
  sessionId: String timestamp: String session: SessionType
}}
type StatusType {{
  data: String extra: String logLevel: String sender: ActorType sessionId: String status: String
  timestamp: String type: String session: SessionType
}}
""")
_COLLECTIONS: Final = ("sessions", "models", "validations", "statuses")


class Graph:
    """Answers queries; what they need is read before, so that no field waits."""

    def __init__(self, catalogue: Catalogue) -> None:
        """catalogue: of the documents."""
        self._catalogue = catalogue

    async def answer(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """{"data", "errors"?}, as GraphQL has it."""
        try:
            document = _parsed(query)
        except GraphQLError as error:
            return {"data": None, "errors": [error.formatted]}
        flaws = validate(_SCHEMA, document, specified_rules, max_errors=10)
        if flaws:
            return {"data": None, "errors": [flaw.formatted for flaw in flaws]}
        found = {each: await self._catalogue.every(each) for each in _COLLECTIONS if each[:-2] in query}
        root = _Roots(found)
        result = execute(_SCHEMA, document, root_value=root.query(), variable_values=dict(variables))
        answer = {"data": getattr(result, "data", None)}
        errors = getattr(result, "errors", None)
        return answer | ({"errors": [error.formatted for error in errors]} if errors else {})


class _Roots:
    """Documents with the fields and links that GraphQL's types have."""

    def __init__(self, found: Mapping[str, list[Document]]) -> None:
        self._found = found
        self._lists = self._objects = 0
        """That were made for this query."""

    def query(self) -> dict[str, Any]:
        one = {"session": "sessions", "model": "models", "validation": "validations", "status": "statuses"}
        return {
            **{name: partial(self._one, collection) for name, collection in one.items()},
            **{collection: partial(self._many, collection, {}) for collection in one.values()},
        }

    def _one(self, collection: str, _info: Any, id: str) -> dict[str, Any] | None:  # noqa: A002 - the schema's name
        field = {"statuses": "status_id"}.get(collection, f"{collection[:-1]}_id")
        for each in self._found.get(collection, ()):
            if each[field] == id:
                return self._linked(collection, each)
        return None

    def _many(self, collection: str, where: Mapping[str, Any], _info: Any, **asked: Any) -> list[dict[str, Any]]:
        self._lists += 1
        if self._lists > _LISTS:
            raise GraphQLError(f"a query may have {_LISTS:,} lists: ask for less at once")
        headers = {
            "x-limit": str(asked.get("limit") or ""),
            "x-skip": str(asked.get("skip") or ""),
            "x-sort-key": asked.get("sortKey") or "",
            "x-sort-order": asked.get("sortOrder") or "desc",
        }
        named = {key: asked[key] for key in ("name", "sessionId", "session_id") if asked.get(key) is not None}
        _, found = select(self._found.get(collection, []), Asked.of({**where, **named}, headers))
        self._objects += len(found)
        if self._objects > _OBJECTS:
            raise GraphQLError(f"a query may have {_OBJECTS:,} objects: ask for less at once")
        return [self._linked(collection, each) for each in found]

    def _linked(self, collection: str, document: Document) -> dict[str, Any]:
        made = {_camel(key): _value(value) for key, value in document.items()}
        session = document.get("session_id")
        if collection == "sessions":
            config = {_camel(key): _value(value) for key, value in document["session_config"].items()}
            made["sessionConfig"] = config | {"sessionId": session}
            for other in ("models", "validations", "statuses"):
                made[other] = partial(self._many, other, {"session_id": session})
        else:
            made["session"] = lambda info: self._one("sessions", info, session) if session else None
        if collection == "models":
            made["validations"] = partial(self._many, "validations", {"model_id": document["model_id"]})
        return made


def _parsed(query: str) -> DocumentNode:
    """Raise `GraphQLError` for a query that is none, or that asks for too much: the types link to each other."""
    if len(query) > _LONGEST:
        raise GraphQLError(f"a query may have {_LONGEST:,} characters")
    document = parse(query, max_tokens=2000)
    deepest, stack = 0, [(each, 0) for each in document.definitions]
    fragments = 0
    while stack:
        node, depth = stack.pop()
        deepest = max(deepest, depth)
        fragments += type(node).__name__ == "FragmentSpreadNode"
        selections = getattr(getattr(node, "selection_set", None), "selections", ()) or ()
        stack += [(each, depth + 1) for each in selections]
    if deepest > _DEEPEST or fragments:
        raise GraphQLError(f"a query may be {_DEEPEST} fields deep, and spread no fragments")
    return document


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat()
    return value if not isinstance(value, list) else json.dumps(value)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
