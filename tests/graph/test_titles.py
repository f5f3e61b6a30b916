"""Titles that name the same thing meet; titles that do not stay apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.graph.titles import LONGEST_TITLE, fold, joined, parse_title

TAGS = frozenset(["film", "album", "series"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Usual Suspects, The (1995)", "The Usual Suspects (film)"),
        ("Postino, Il", "Il Postino"),
        ("Avventura, L'", "L'Avventura"),
        ("Cité des enfants perdus, La", "La cite des enfants perdus"),
        ("Rocky II", "Rocky 2"),
        ("Back to the Future Part II", "Back to the Future 2"),
        ("Twelve Monkeys", "12 Monkeys"),
        ("Love & Human Remains", "Love and Human Remains"),
        ("Who's Afraid of Virginia Woolf?", "Who's Afraid of Virginia Woolf%3F (film)"),
        ("ROBOCOP", "Robocop (1987 film)"),
        ("9½ Weeks", "Nine 1/2 Weeks"),
    ],
)
def test_ways_to_write_one_title_meet(one: str, other: str) -> None:
    assert parse_title(one, TAGS).bare == parse_title(other, TAGS).bare


@pytest.mark.parametrize(
    ("one", "other"),
    [("Alien", "Aliens"), ("Rocky", "Rocky II"), ("Rocky II", "Rocky III"), ("Airport 1975", "Airport '77")],
)
def test_different_titles_stay_apart(one: str, other: str) -> None:
    assert parse_title(one).bare != parse_title(other).bare
    assert joined(parse_title(one).bare) != joined(parse_title(other).bare)


def test_spaces_and_inner_articles_can_be_ignored() -> None:
    assert joined("texas chain saw massacre") == joined("texas chainsaw massacre")
    assert joined("leatherface the texas chainsaw") == joined("leatherface texas chainsaw")
    assert joined("the a an") == "theaan"  # nothing else is left of it


def test_years_tags_and_other_names_come_out_of_parentheses() -> None:
    title = parse_title("City of Lost Children, The (Cité des enfants perdus, La) (1995)", TAGS)
    assert (title.key, title.year, title.tag) == ("the city of lost children", 1995, "")
    assert "cite des enfants perdus" in title.aliases
    tagged = parse_title("Contact (1997 American film)", TAGS)
    assert (tagged.year, tagged.tag) == (1997, "american film")
    assert parse_title("Foo (a.k.a. Bar)").aliases[-1] == "bar"
    assert {"sydney", "bar"} <= {*parse_title("Hard 8 (a.k.a. Sydney, a.k.a. Hard Eight)").aliases, "bar"}


def test_parts_of_titles_and_owners() -> None:
    assert "return of jedi" not in parse_title("Star Wars: Episode VI - Return of the Jedi").parts
    assert "return of the jedi" in parse_title("Star Wars: Episode VI - Return of the Jedi").parts
    assert parse_title("Disney's The Kid").parts == ("kid",)


def test_a_year_in_the_title_is_a_number_and_not_the_year() -> None:
    title = parse_title("2001: A Space Odyssey")
    assert (title.year, "2001" in title.numbers) == (None, True)


def test_signs_alone_are_a_name() -> None:
    assert parse_title("!!!").key == "!!!"
    assert parse_title("!!!").bare != parse_title("???").bare


@given(st.text(max_size=500))
def test_any_text_can_be_parsed(text: str) -> None:
    title = parse_title(text, TAGS)
    assert fold(title.bare) == title.bare or not fold(title.bare)
    assert len(title.key) <= 4 * LONGEST_TITLE
    assert parse_title(text, TAGS) == title
