"""What the server says of itself: the OpenAPI document, made from the shapes in wire.py.

The page at /docs (page.py) shows the same.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from slipstream.events.event import MAX_ID_BYTES
from slipstream.server.wire import (
    MOST_EVENTS,
    MOST_NEW_ITEMS,
    MOST_RESULTS,
    TITLES,
    EventIn,
    RecommendIn,
)

if TYPE_CHECKING:
    from slipstream.server.app import Route


class HopOut(Struct):
    head: str
    relation: str
    tail: str
    weight: float


class ReasonOut(Struct):
    """kind: path | history | popularity. share: the part of the score it carries, in [0, 1]."""

    kind: str
    text: str
    share: float
    path: list[HopOut]


class ItemOut(Struct):
    item_id: str
    title: str
    score: float
    reasons: list[ReasonOut]


class SlateOut(Struct):
    """tier: model | cache | popularity."""

    request_id: str
    user_id: str | None
    items: list[ItemOut]
    tier: str
    release: str
    release_age_s: float


class RejectedOut(Struct):
    index: int
    code: str
    detail: str


class EventsOut(Struct):
    stored: int
    repeated: int
    rejected: list[RejectedOut]


class ItemsOut(Struct):
    stored: int
    rejected: list[RejectedOut]


class StoredEvent(Struct):
    event_id: str
    user_id: str
    item_id: str
    kind: str
    value: float | None
    time: str | None


class UserEventsOut(Struct):
    user_id: str
    events: list[StoredEvent]


class ForgottenOut(Struct):
    user_id: str
    events_removed: int


class ReasonsOut(Struct):
    user_id: str
    item_id: str
    reasons: list[ReasonOut]


class StatusOut(Struct):
    status: str
    release: str | None = None


class ProblemOut(Struct):
    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str


class EventBatchIn(Struct, forbid_unknown_fields=True):
    events: list[EventIn]


_PARTS: tuple[type[Struct], ...] = (
    EventIn,
    EventBatchIn,
    RecommendIn,
    SlateOut,
    EventsOut,
    ItemsOut,
    UserEventsOut,
    ForgottenOut,
    ReasonsOut,
    StatusOut,
    ProblemOut,
)
_VALUE = {"type": ["string", "number", "boolean", "null", "array"]}
_ROW = {
    "type": "object",
    "required": ["item_id"],
    "properties": {"item_id": {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}},
    "additionalProperties": _VALUE,
}
_ROWS = {
    "type": "object",
    "required": ["items"],
    "properties": {"items": {"type": "array", "items": _ROW, "maxItems": MOST_NEW_ITEMS}},
}

ABOUT: dict[str, dict[str, Any]] = {
    "recommend_user": {
        "summary": "Recommend to a user",
        "query": {"k": (1, MOST_RESULTS, 10), "explain": (False,)},
        "answer": "SlateOut",
        "says": "An unknown user gets the popular items; `tier` says so.",
    },
    "recommend": {
        "summary": "Recommend, with a history, filters and exclusions",
        "body": [{"$ref": "#/components/schemas/RecommendIn"}],
        "example": {"history": ["i1", "i2"], "k": 5, "explain": True},
        "answer": "SlateOut",
        "says": "`history` stands in place of what is stored. Ids that nobody knows are ignored.",
    },
    "post_events": {
        "summary": "Store events",
        "body": [{"$ref": "#/components/schemas/EventIn"}, {"$ref": "#/components/schemas/EventBatchIn"}],
        "example": {"events": [{"event_id": "e1", "user_id": "u1", "item_id": "i1", "kind": "click"}]},
        "answer": "EventsOut",
        "says": f"Answered once durable; a known event_id is stored once. At most {MOST_EVENTS} events.",
    },
    "user_events": {
        "summary": "Events of a user, newest first",
        "query": {"limit": (1, 1000, 100)},
        "answer": "UserEventsOut",
    },
    "forget": {"summary": "Forget a person", "answer": "ForgottenOut"},
    "post_items": {
        "summary": "Add items or change their attributes",
        "body": [_ROW, _ROWS],
        "example": {"items": [{"item_id": "i9", "title": "A new one", "genre": ["Drama"]}]},
        "answer": "ItemsOut",
        "says": "A new item can be recommended at once; it borrows its score from items like it.",
    },
    "similar": {
        "summary": "Items like an item",
        "query": {"k": (1, MOST_RESULTS, 10)},
        "answer": "SlateOut",
        "missing": True,
    },
    "explain": {"summary": "Why an item for a user", "answer": "ReasonsOut", "missing": True},
    "health": {"summary": "The process is alive", "answer": "StatusOut"},
    "readiness": {"summary": "The server is warm", "answer": "StatusOut"},
    "metrics": {"summary": "Metrics for Prometheus", "text": "text/plain"},
    "openapi": {"summary": "This document", "text": "application/json"},
    "docs": {"summary": "The API as a page", "text": "text/html"},
}


def openapi(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    _, schemas = msgspec.json.schema_components(_PARTS, ref_template="#/components/schemas/{name}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.pattern, {})[route.method.lower()] = operation(route)
    security = {"bearer": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "slipstream", "version": importlib.metadata.version("slipstream")},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security},
    }


def operation(route: Route) -> dict[str, Any]:
    about = route.about
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": about["summary"],
        "parameters": parameters(route),
        "responses": _responses(route),
    }
    if "says" in about:
        operation["description"] = about["says"]
    if "body" in about:
        forms = about["body"]
        schema = forms[0] if len(forms) == 1 else {"anyOf": forms}
        content = {"application/json": {"schema": schema, "example": about["example"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.scope is not None:
        operation["security"] = [{"bearer": []}, {}]
    return operation


def parameters(route: Route) -> list[dict[str, Any]]:
    identity = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}
    found: list[dict[str, Any]] = [
        {"name": segment[1:-1], "in": "path", "required": True, "schema": identity}
        for segment in route.segments
        if segment.startswith("{")
    ]
    for name, bounds in route.about.get("query", {}).items():
        schema: dict[str, Any] = {"type": "boolean", "default": False}
        if len(bounds) == 3:
            low, high, default = bounds
            schema = {"type": "integer", "minimum": low, "maximum": high, "default": default}
        found.append({"name": name, "in": "query", "required": False, "schema": schema})
    return found


def _responses(route: Route) -> dict[str, Any]:
    about = route.about
    if "text" in about:
        done: Mapping[str, Any] = {about["text"]: {"schema": {}}}
    else:
        done = {"application/json": {"schema": {"$ref": f"#/components/schemas/{about['answer']}"}}}
    statuses = [503] if route.pattern == "/readyz" else []
    if route.scope is not None:
        statuses = [400, 401, 403, 422, 429, 503]
    if "body" in about:
        statuses += [413]
    if route.scope in ("events", "admin"):
        statuses += [507]
    if about.get("missing"):
        statuses += [404]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    failed = {str(s): {"description": TITLES[s], "content": problem} for s in sorted(statuses)}
    return {"200": {"description": "Done", "content": done}, **failed}
