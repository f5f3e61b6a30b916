"""JSON on the wire: the shapes of requests, decoded and bounded at the edge.

Every problem a caller can cause becomes a `Problem` here or in routes.py; nothing below sees raw JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from slipstream.events.event import MAX_ID_BYTES, MAX_KIND_BYTES, EventBatch
from slipstream.events.impressions import person_of
from slipstream.events.rows import parse_events
from slipstream.events.sqlite_impressions import Feedback

MOST_EVENTS = 10_000
MOST_NEW_ITEMS = 1_000
MOST_HISTORY = 5_000
MOST_EXCLUDED = 10_000
MOST_RESULTS = 500
MOST_VALUES = 1_000
MOST_CONTEXT_BYTES = 16_384
MOST_BODY_BYTES = 4 * 1024 * 1024

Id = Annotated[
    str,
    Meta(
        description=f"an outside id, kept as it is, 1 to {MAX_ID_BYTES} bytes",
        extra_json_schema={"minLength": 1, "maxLength": MAX_ID_BYTES},
    ),
]
Kind = Annotated[
    str,
    Meta(description="what happened", extra_json_schema={"minLength": 1, "maxLength": MAX_KIND_BYTES}),
]
Time = str | int | float
"""RFC 3339 or unix seconds."""


@dataclass
class Problem(Exception):
    """An answer that is not a success: problem+json with a stable code and a way out."""

    status: int
    code: str
    detail: str
    hint: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        about = {"type": "about:blank", "title": TITLES.get(self.status, "Error"), "status": self.status}
        return encode({**about, "code": self.code, "detail": self.detail, "hint": self.hint, **self.more})


TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    507: "Insufficient Storage",
}


class EventIn(Struct, forbid_unknown_fields=True):
    """One event, as the API describes it; events.rows checks it and has a stable code for each fault.

    `request_id` names the slate that it answers; `context` is free.
    """

    user_id: Id
    item_id: Id
    event_id: Id | None = None
    kind: Kind = "click"
    value: float | None = None
    time: Time | None = None
    request_id: Annotated[str, Meta(max_length=MAX_ID_BYTES)] | None = None
    context: dict[str, Any] | None = None


class EventsIn(Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


class ItemsIn(Struct, forbid_unknown_fields=True):
    items: list[msgspec.Raw]


class RecommendIn(Struct, forbid_unknown_fields=True):
    """What to recommend. Ids that nobody knows are ignored."""

    user_id: Id | None = None
    history: Annotated[list[str], Meta(max_length=MOST_HISTORY)] | None = None
    k: Annotated[int, Meta(ge=1, le=MOST_RESULTS)] = 10
    explain: bool = False
    exclude: Annotated[list[str], Meta(max_length=MOST_EXCLUDED)] | None = None
    allow: Annotated[list[str], Meta(max_length=MOST_EXCLUDED)] | None = None
    filters: dict[str, Annotated[list[str | int | float | bool], Meta(max_length=MOST_VALUES)]] | None = None
    time: Time | None = None
    context: dict[str, Any] | None = None


T = TypeVar("T")
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_encoder = msgspec.json.Encoder()


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def decode(body: bytes | msgspec.Raw, form: type[T]) -> T:
    """The body as `form`. Raises Problem 400 for what is not JSON and 422 for JSON of another shape."""
    decoder = _decoders.get(form)
    if decoder is None:
        decoder = _decoders[form] = msgspec.json.Decoder(form)
    try:
        decoded: T = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, "invalid", str(error), "the shapes are in /openapi.json") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, "malformed", f"the body is not JSON: {error}", "send one JSON object") from error
    return decoded


@dataclass(frozen=True)
class Rejected:
    """One entry of a batch that was not taken, and why."""

    index: int
    code: str
    detail: str

    def json(self) -> dict[str, Any]:
        return {"index": self.index, "code": self.code, "detail": self.detail}


def entries(body: bytes, form: type[EventsIn] | type[ItemsIn], name: str, most: int) -> list[msgspec.Raw]:
    """The entries of a single object or of `{name: [...]}`. Raises Problem 413 for more than `most`."""
    peek = decode(body, dict[str, msgspec.Raw])
    if name not in peek:
        return [msgspec.Raw(body)]
    found: list[msgspec.Raw] = getattr(decode(body, form), name)
    if len(found) > most:
        raise Problem(
            413, "too-many", f"{name} holds {len(found)} entries, at most {most}", "send them in parts"
        )
    if not found:
        raise Problem(422, "empty", f"{name} is empty", f"send at least one entry in {name}")
    return found


@dataclass(frozen=True)
class EventsRead:
    """The good entries as a batch, what they say beyond an event, and the rejected ones by code."""

    batch: EventBatch
    feedback: list[Feedback]
    rejected: list[Rejected]


def read_events(raw: Sequence[msgspec.Raw], now_us: int) -> EventsRead:
    """Codes are those of `events.event.Reject`, and `unknown-field`, `bad-request-id`, `bad-context`."""
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    rejected: list[Rejected] = []
    for index, entry in enumerate(raw):
        try:
            row = decode(entry, dict[str, Any])
            _check_beyond(row)
        except Problem as problem:
            rejected.append(Rejected(index, problem.code, problem.detail))
        else:
            rows.append(row)
            places.append(index)
    parsed = parse_events(rows, now_us=now_us)
    rejected += [Rejected(places[fault.index], fault.code, fault.detail) for fault in parsed.rejected]
    feedback = _feedback([rows[place] for place in parsed.places], parsed.batch)
    return EventsRead(parsed.batch, feedback, sorted(rejected, key=lambda r: r.index))


def _check_beyond(row: Mapping[str, Any]) -> None:
    """What an event may hold that `events.rows` does not look at. Raises Problem."""
    if unknown := row.keys() - _EVENT_FIELDS:
        known = ", ".join(sorted(_EVENT_FIELDS))
        raise Problem(422, "unknown-field", f"an event has no field {min(unknown)!r}; it has {known}")
    request_id, context = row.get("request_id"), row.get("context")
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= MAX_ID_BYTES):
        raise Problem(422, "bad-request-id", f"request_id is text of at most {MAX_ID_BYTES} characters")
    if context is None:
        return
    if not isinstance(context, dict) or len(encode(context)) > MOST_CONTEXT_BYTES:
        raise Problem(422, "bad-context", f"context is an object of at most {MOST_CONTEXT_BYTES} bytes")


def _feedback(rows: Sequence[Mapping[str, Any]], batch: EventBatch) -> list[Feedback]:
    """Of the events that name an answer or bring a context; rows and batch hold the same events."""
    told = [b for b, row in enumerate(rows) if row.get("request_id") or row.get("context")]
    if not told:
        return []
    return [
        Feedback(
            event_id=event_id,
            person=person_of(user_id),
            time_us=time_us,
            request_id=rows[b].get("request_id") or "",
            item_id=item_id,
            kind=kind,
            value=value,
            context=encode(rows[b]["context"]).decode() if rows[b].get("context") else "",
        )
        for b, (event_id, user_id, item_id, kind, value, time_us) in zip(
            told, batch.frame[told].iter_rows(), strict=True
        )
    ]


_EVENT_FIELDS = frozenset(EventIn.__struct_fields__)
Cell = str | int | float | bool | list[str | int | float | bool] | None


def read_items(raw: Sequence[msgspec.Raw]) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Rows of attributes with an `item_id`, and the rejected entries."""
    good: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for index, entry in enumerate(raw):
        try:
            row = decode(entry, dict[str, Cell])
            item_id = row.get("item_id")
            if not isinstance(item_id, str) or not 0 < len(item_id.encode()) <= MAX_ID_BYTES:
                raise ValueError(f"item_id must be text of 1 to {MAX_ID_BYTES} bytes")
            if len(row) > 200 or any(len(column) > 200 for column in row):
                raise ValueError("a row holds at most 200 attributes with names of at most 200 characters")
            good.append(row)
        except Problem as problem:
            rejected.append(Rejected(index, problem.code, problem.detail))
        except ValueError as error:
            rejected.append(Rejected(index, "invalid", str(error)))
    return good, rejected
