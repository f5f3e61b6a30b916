"""Which column of a table is the user, the item, the time: named by the caller, or guessed by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from slipstream.errors import BadInput
from slipstream.events.event import DEFAULT_KIND
from slipstream.events.times import TimeUnit

Role = Literal["user", "item", "time", "value", "kind", "event_id"]
ROLES: tuple[Role, ...] = get_args(Role)

# Names as they look without case and punctuation, likeliest first; a star stands for any ending.
_NAMES: Mapping[Role, str] = {
    "event_id": "eventid eventuuid",
    "user": """userid user uid userno username useridx customerid customer customer* reviewerid visitorid
        memberid accountid personid clientid profileid buyerid listenerid readerid visitor member account
        person client profile buyer listener reader user* sessionid session sid""",
    "item": """itemid item iid itemno itemidx productid product product* movieid movie filmid film asin
        parentasin isbn sku articleid article trackid track songid song artistid artist albumid album bookid
        book businessid business videoid video gameid game newsid news recipeid recipe goodsid contentid
        content locationid item*""",
    "time": """timeus timestamp time ts datetime date eventtime createdat unixreviewtime reviewtime
        occurredat timestamp* eventdate unixtime createdon purchasedat purchasedate orderdate visittime
        dateadded when time* date*""",
    "value": """rating value score stars weight overall plays playcount count quantity qty amount rate
        rating* value* weight*""",
    "kind": """kind eventtype event type action actiontype behavior behaviour behaviortype behaviourtype
        eventname interaction interactiontype kind* action*""",
}


@dataclass(frozen=True)
class ColumnChoice:
    """Names of columns; None is guessed, an empty text means there is none.

    time_unit: the unit of numeric times, else guessed value by value (see `times`). default_kind: the kind
    of rows that name none.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    value: str | None = None
    kind: str | None = None
    event_id: str | None = None
    time_unit: TimeUnit = "guess"
    default_kind: str = DEFAULT_KIND

    def named(self, role: Role) -> str | None:
        name: str | None = getattr(self, role)
        return name


@dataclass(frozen=True)
class ColumnMap:
    """The column of each role that has one, and which of them were guessed."""

    columns: Mapping[Role, str]
    guessed: frozenset[Role] = frozenset()
    choice: ColumnChoice = field(default_factory=ColumnChoice)

    @property
    def time_unit(self) -> TimeUnit:
        """The unit that was chosen, or that the column's name ends in (`_us`, `_ms`), or to be guessed."""
        ending = self.columns.get("time", "").lower().rpartition("_")[2]
        if self.choice.time_unit == "guess" and ending in ("us", "ms"):
            return "us" if ending == "us" else "ms"
        return self.choice.time_unit

    def lines(self) -> list[str]:
        """One line: `columns: user = userId (guessed), item = sku, …`."""
        parts = [
            f"{role} = {self.columns[role]}{' (guessed)' if role in self.guessed else ''}"
            for role in ROLES
            if role in self.columns
        ]
        absent = [role for role in ("time", "value", "kind") if role not in self.columns]
        none = f"; none for {', '.join(absent)}" if absent else ""
        return [f"columns: {', '.join(parts)}{none}"]


def map_columns(where: str, names: Sequence[str], choice: ColumnChoice) -> ColumnMap:
    """Find the columns. Raises BadInput, listing them all, for a chosen one that is not there, or when no
    user or item can be told.
    """
    found: dict[Role, str] = {}
    for role in ROLES:
        name = choice.named(role)
        if name:
            if name not in names:
                raise BadInput(f"{where} has no column {name!r} for the {role}", hint=_listed(names))
            found[role] = name
    guessed = set()
    for role in ("event_id", "user", "item", "time", "value", "kind"):
        if choice.named(role) is None:
            name = _guess(role, [n for n in names if n not in found.values()])
            if name is not None:
                found[role] = name
                guessed.add(role)
    for role in ("user", "item"):
        if role not in found:
            raise BadInput(
                f"{where}: no column looks like the {role}",
                hint=f"name it: --{role} COLUMN; {_listed(names)}",
            )
    if found["user"] == found["item"]:
        raise BadInput(f"{where}: column {found['user']!r} cannot be both user and item", hint=_listed(names))
    return ColumnMap(found, frozenset(guessed), choice)


def _guess(role: Role, names: Sequence[str]) -> str | None:
    plain = {name: re.sub(r"[^a-z0-9]", "", name.lower()) for name in names}
    for pattern in _NAMES[role].split():
        start = pattern.removesuffix("*")
        for name, text in plain.items():
            if text == start or (start != pattern and text.startswith(start)):
                return name
    return None


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:50]) + (", …" if len(names) > 50 else "")
    return f"the columns are: {shown}"


def map_headerless(where: str, first: Sequence[str], choice: ColumnChoice) -> ColumnMap:
    """The columns of a table without names, called "1", "2", …, told by its first row.

    Up to four fields: user, item, and then whichever of value and time the numbers look like (a time is a
    number of at least 1e8, or a date). With more fields the caller has to say which are which.
    """
    names = [str(place) for place in range(1, len(first) + 1)]
    if choice.user or choice.item:
        return map_columns(where, names, choice)  # names are numbers: nothing else can be guessed from them
    if not 2 <= len(first) <= 4:
        raise BadInput(
            f"{where} has no header and {len(first)} fields a row",
            hint=f"name the columns by number, --user 1 --item 2; the first row is: {', '.join(first)[:200]}",
        )
    found: dict[Role, str] = {"user": "1", "item": "2"}
    for name, text in list(zip(names, first, strict=True))[2:]:
        role: Role = "time" if looks_like_time(text) else "value"
        if role not in found and choice.named(role) is None:
            found[role] = name
    guessed = frozenset(found)
    for role in ROLES:
        if chosen := choice.named(role):
            if chosen not in names:
                raise BadInput(f"{where} has no column {chosen!r} for the {role}", hint=_listed(names))
            found[role] = chosen
            guessed -= {role}
    return ColumnMap(found, guessed, choice)


def looks_like_number(text: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text) is not None


def looks_like_time(text: str) -> bool:
    if looks_like_number(text):
        return abs(float(text)) >= 1e8
    return re.match(r"\s*\d{4}[-/]\d{2}[-/]\d{2}([T ].*)?$", text) is not None
