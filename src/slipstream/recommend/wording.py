"""Sentences for reasons, in English and Chinese, built from event kinds, relation names and labels.

A phrase for a relation that is not in the tables is built from its name, so any graph gets a sentence. Knows
nothing of scores; whoever calls has a true reason already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from slipstream.models.recommender import SOMEONE, Hop

Language = Literal["en", "zh"]
Label = Callable[[str], str | None]
"""The title of an item by its id, None for anything that is not an item."""

VERBS: dict[str, tuple[str, str]] = {
    "click": ("clicked on", "点过"),
    "view": ("viewed", "浏览过"),
    "watch": ("watched", "看过"),
    "play": ("played", "播放过"),
    "listen": ("listened to", "听过"),
    "read": ("read", "读过"),
    "rate": ("rated", "评价过"),
    "rating": ("rated", "评价过"),
    "like": ("liked", "喜欢过"),
    "favourite": ("marked as a favourite", "收藏过"),
    "favorite": ("marked as a favourite", "收藏过"),
    "cart": ("put in the cart", "加购过"),
    "addtocart": ("put in the cart", "加购过"),
    "purchase": ("bought", "买过"),
    "buy": ("bought", "买过"),
    "transaction": ("bought", "买过"),
    "order": ("ordered", "订购过"),
    "review": ("reviewed", "点评过"),
    "share": ("shared", "分享过"),
    "checkin": ("visited", "去过"),
}
ANY_VERB = ("acted on", "接触过")  # true of every event

# relation: English forward and inverse, Chinese forward and inverse; {h} head, {t} tail of the hop
_RELATIONS: dict[str, tuple[str, str, str, str]] = {
    "director": ("directed by {t}", "who also directed {t}", "由{t}执导", "{h}也执导了{t}"),
    "writer": ("written by {t}", "who also wrote {t}", "由{t}编剧", "{h}也写了{t}"),
    "author": ("written by {t}", "who also wrote {t}", "由{t}所著", "{h}也写了{t}"),
    "cast": ("with {t}", "who is also in {t}", "有{t}参与", "{h}也参与了{t}"),
    "actor": ("with {t}", "who is also in {t}", "由{t}出演", "{h}也出演了{t}"),
    "starring": ("with {t}", "who is also in {t}", "由{t}出演", "{h}也出演了{t}"),
    "producer": ("produced by {t}", "who also produced {t}", "由{t}制作", "{h}也制作了{t}"),
    "production": ("produced by {t}", "who also produced {t}", "由{t}出品", "{h}也出品了{t}"),
    "composer": ("with music by {t}", "who also composed for {t}", "由{t}作曲", "{h}也为{t}作曲"),
    "artist": ("by {t}", "who also made {t}", "由{t}创作", "{h}也创作了{t}"),
    "brand": ("made by {t}", "who also make {t}", "品牌是{t}", "{t}也是这个品牌"),
    "country": ("from {t}", "where {t} is from too", "来自{t}", "{t}也来自那里"),
    "language": ("in {t}", "the language of {t} too", "语言是{t}", "{t}也用这种语言"),
    "genre": ("of the genre {t}", "like {t}", "类型是{t}", "{t}也是这个类型"),
    "category": ("in the category {t}", "like {t}", "类别是{t}", "{t}也是这个类别"),
}
_DERIVED: dict[str, tuple[str, str]] = {
    "similar_to": ("chosen by the same people as {t}", "选它的人也选{t}"),
    "is_similar_to_of": ("chosen by the same people as {t}", "选它的人也选{t}"),
    "next": ("often followed by {t}", "之后人们常选{t}"),
    "is_next_of": ("which people often choose after {t}", "人们常在{t}之后选它"),
}
# relation to another person: who that is, English and Chinese; nobody else is ever named
_TIES: dict[str, tuple[str, str]] = {
    "friend": ("a friend of yours", "你的一位朋友"),
    "trust": ("someone you trust", "你信任的人"),
    "follow": ("someone you follow", "你关注的人"),
}
_ANY_TIE = ("someone you are connected to", "与你有联系的人")
_INVERSE = re.compile(r"^is_(.+)_of$")


@dataclass(frozen=True)
class Wording:
    """The sentences of one language.

    verbs: the home's own words for event kinds, e.g. {"rate": "watched"}. labels: what people read for
    entities whose name is not it.
    """

    language: Language
    verbs: Mapping[str, str]
    title: Label
    labels: Mapping[str, str] = field(default_factory=dict)

    def history(self, item_id: str, kind: str) -> str:
        return self._because(kind, self._name(item_id))

    def shared_values(self, item_id: str, kind: str, values: Sequence[str]) -> str:
        """For an item without a model of its own: what it shares with something of the history."""
        names = ", ".join(values) if self._english else "、".join(values)
        tail = f", which also has {names}" if self._english else f"，它同样有{names}"
        return self._because(kind, self._name(item_id)) + tail

    def popularity(self, people: int, who: str = "") -> str:
        """who: what those people have in common."""
        if self._english:
            common = f" ({who})" if who else ""
            return f"popular with {people:,} {'person' if people == 1 else 'people'}{common}"
        return f"受到{people}人{f'（{who}）' if who else ''}欢迎"

    def path(self, hops: Sequence[Hop], also: Sequence[str] = ()) -> str:
        """The whole path in one sentence; the last tail is called "this".

        also: items of the history from which the same leads on, by the same kind of event.
        """
        last, begin = len(hops) - 1, 1
        parts = [self._first(hops[0], also, this=last == 0)]
        if last and hops[0].tail == SOMEONE:
            parts, begin = [self._tied(hops[0].relation, hops[1], this=last == 1)], 2
        for number in range(begin, len(hops)):
            hop = hops[number]
            if number < last and self._is_event(hops[number + 1]):
                hop = replace(hop, tail=self._pick("others", "别人"))  # a person, who is never named
            parts.append(self._step(hop, this=number == last))
        return ", ".join(parts) if self._english else "，".join(parts)

    @property
    def _english(self) -> bool:
        return self.language == "en"

    def _pick(self, english: str, chinese: str) -> str:
        return english if self._english else chinese

    def _verb(self, kind: str) -> str:
        if kind in self.verbs:
            return self.verbs[kind]
        return self._pick(*VERBS.get(kind.lower().replace("_", "").replace("-", ""), ANY_VERB))

    def _because(self, kind: str, name: str) -> str:
        return self._pick(f"because you {self._verb(kind)} {name}", f"因为你{self._verb(kind)}{name}")

    def _first(self, hop: Hop, also: Sequence[str], *, this: bool) -> str:
        if this or self.title(hop.tail) is not None:
            names = [self._tail(hop, this=this), *map(self._name, also)]
            return self._because(hop.relation, self._listed(names))
        name, value = _words(hop.relation), self._tail(hop, this=False)
        return self._pick(f"because your {name} is {value}", f"因为你的{name}是{value}")

    def _tied(self, relation: str, event: Hop, *, this: bool) -> str:
        plain = re.split(r"[:/#.]", relation)[-1].lower().removesuffix("s")
        who, verb = self._pick(*_TIES.get(plain, _ANY_TIE)), self._verb(event.relation)
        tail = self._tail(event, this=this)
        return self._pick(f"because {who} {verb} {tail}", f"因为{who}{verb}{tail}")

    def _listed(self, names: Sequence[str]) -> str:
        *others, last = names
        if not others:
            return last
        return self._pick(f"{', '.join(others)} and {last}", f"{'、'.join(others)}和{last}")

    def _step(self, hop: Hop, *, this: bool) -> str:
        head, tail = self._value(hop.head, hop.relation), self._tail(hop, this=this)
        if hop.relation in _DERIVED:
            return self._pick(*_DERIVED[hop.relation]).format(t=tail, h=head)
        inverse = _INVERSE.match(hop.relation)
        relation = inverse[1] if inverse else hop.relation
        if phrases := _phrases(relation):
            english, chinese = phrases[1::2] if inverse else phrases[0::2]
            return self._pick(english, chinese).format(t=tail, h=head)
        if self._is_event(replace(hop, relation=relation)):
            return self._by_people(relation, tail, inverse=inverse is not None)
        name = _words(relation)
        if inverse:
            return self._pick(f"like {tail}", f"{tail}也是如此")
        return self._pick(f"whose {name} is {tail}", f"其{name}是{tail}")

    def _is_event(self, hop: Hop) -> bool:
        return hop.relation in VERBS or hop.relation in self.verbs

    def _by_people(self, kind: str, tail: str, *, inverse: bool) -> str:
        verb = self._verb(kind)
        if inverse:
            return self._pick(f"which others {verb} too", f"也有人{verb}它")
        return self._pick(f"who also {verb} {tail}", f"他们也{verb}{tail}")

    def _tail(self, hop: Hop, *, this: bool) -> str:
        return self._pick("this", "这一项") if this else self._value(hop.tail, hop.relation)

    def _value(self, name: str, relation: str) -> str:
        """The label of a node: an item's title, else an entity's name without its `column:` prefix."""
        if self.title(name) is not None:
            return self._name(name)
        if name in self.labels:
            return self.labels[name]
        inverse = _INVERSE.match(relation)
        column = inverse[1] if inverse else relation
        for prefix in (f"{column}:", "entity:"):
            if name.startswith(prefix):
                return name.removeprefix(prefix)
        return name

    def _name(self, item_id: str) -> str:
        title = self.title(item_id) or item_id
        return self._pick(f"*{title}*", f"《{title}》")


def _phrases(relation: str) -> tuple[str, str, str, str] | None:
    """The table row of a relation, however its name is dressed: `dbo:Director`, `film/genres`, `cast`."""
    plain = re.split(r"[:/#.]", relation)[-1].lower()
    return _RELATIONS.get(plain) or _RELATIONS.get(plain.removesuffix("s"))


def _words(relation: str) -> str:
    """A relation's name as words: `productionCompany` and `production_company` are "production company"."""
    plain = re.split(r"[:/#.]", relation)[-1]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", plain).replace("_", " ").lower()
