"""Settings, overrides, the environment, errors and random streams."""

from pathlib import Path

import numpy as np
import pytest

from slipstream import config
from slipstream.config import Settings, parse_assignments, read_settings_file, with_overrides
from slipstream.errors import ConfigError, MissingExtra, SlipstreamError, UnknownName
from slipstream.randomness import derive, generator


class Inner(Settings):
    rate: float = 0.1


class Outer(Settings):
    size: int = 3
    names: tuple[str, ...] = ()
    inner: Inner = Inner()


def test_overrides_are_typed_and_may_be_dotted() -> None:
    changed = with_overrides(Outer(), parse_assignments(["size=5", "inner.rate=0.5", "names=[a, b]"]))
    assert changed == Outer(size=5, names=("a", "b"), inner=Inner(rate=0.5))


@pytest.mark.parametrize("text", ["sise=5", "inner.rat=1", "size.x=1", "nothing.at.all=2"])
def test_unknown_keys_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(Outer(), parse_assignments([text]))
    assert "known settings" in caught.value.hint


@pytest.mark.parametrize("text", ["size=big", "inner.rate=NaN", "size=1.5"])
def test_wrong_values_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        with_overrides(Outer(), parse_assignments([text]))


@pytest.mark.parametrize("text", ["size", "=3", ""])
def test_an_assignment_needs_key_and_value(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_assignments([text])


def test_a_settings_file_says_the_same_as_assignments(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"outer": {"size": 5, "inner.rate": 0.5}, "other": {"x": [1, "a"]}}')
    assert read_settings_file(file) == parse_assignments(
        ["outer.size=5", "outer.inner.rate=0.5", "other.x=[1, a]"]
    )


@pytest.mark.parametrize(
    "text",
    ["[1]", '{"outer": 3}', "not json", "[" * 100_000, '{"a": {"b": "' + "x" * 2_000_000 + '"}}', None],
)
def test_what_is_no_settings_file_is_refused(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ConfigError, match=r"settings\.json"):
        read_settings_file(tmp_path / "settings.json")


def test_the_fingerprint_follows_the_settings() -> None:
    assert Outer().fingerprint() == Outer().fingerprint()
    assert Outer().fingerprint() != Outer(size=4).fingerprint()


def test_the_home_comes_from_argument_then_environment_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPSTREAM_HOME", raising=False)
    assert config.home_folder().root == Path("slipstream-home")
    monkeypatch.setenv("SLIPSTREAM_HOME", "elsewhere")
    assert config.home_folder().root == Path("elsewhere")
    assert config.home_folder("given").root == Path("given")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_thread_count_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SLIPSTREAM_THREADS", value)
    with pytest.raises(ConfigError, match="SLIPSTREAM_THREADS"):
        config.thread_count()


def test_every_error_has_a_code_and_an_exit_code_of_the_contract() -> None:
    todo, seen = [SlipstreamError], {}
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        assert kind.code not in seen, f"{kind} and {seen.get(kind.code)} share a code"
        seen[kind.code] = kind
        assert kind.exit_code in ((1,) if kind is SlipstreamError else (2, 3, 4))


def test_unknown_names_list_the_nearest_first_and_extras_say_how_to_install() -> None:
    assert UnknownName("model", "trnsformer", ["ease", "transformer"]).hint == "known: transformer, ease"
    assert "pip install 'slipstream[serve]'" in MissingExtra("starlette", "serve", "serving").hint


def test_random_streams_depend_on_seed_and_name_only() -> None:
    assert derive(1, "a") == derive(1, "a")
    assert len({derive(1, "a"), derive(2, "a"), derive(1, "b"), derive(1, "a", "b")}) == 4
    np.testing.assert_array_equal(generator(0, "x").random(3), generator(0, "x").random(3))
