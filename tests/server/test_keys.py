"""Who may do what, and when a server without keys refuses to start."""

from __future__ import annotations

import hashlib

import httpx
import pytest
import served_home

from slipstream.config import Home
from slipstream.errors import ConfigError, UsageError
from slipstream.server.keys import Keys, check_bind
from slipstream.server.service import serve
from slipstream.server.wire import Problem


def allowed(keys: Keys, scope: str, **headers: bytes) -> int:
    """200, or the status of the refusal."""
    try:
        keys.check({name.replace("_", "-").encode(): value for name, value in headers.items()}, scope)  # type: ignore[arg-type]
    except Problem as problem:
        return problem.status
    return 200


def test_without_keys_everybody_may() -> None:
    assert allowed(Keys.parse(None), "admin") == allowed(Keys.parse("  "), "read") == 200


def test_scopes() -> None:
    hashed = hashlib.sha256(b"secret").hexdigest()
    keys = Keys.parse(f"reader:read, app:read+events  sha256={hashed}:admin all")
    assert allowed(keys, "read") == 401
    assert allowed(keys, "read", authorization=b"Bearer wrong") == 401
    assert allowed(keys, "read", authorization=b"Basic reader") == 401
    assert allowed(keys, "read", authorization=b"Bearer reader") == 200
    assert allowed(keys, "read", authorization=b"bearer   reader ") == 200
    assert allowed(keys, "events", authorization=b"Bearer reader") == 403
    assert allowed(keys, "events", x_api_key=b"app") == 200
    assert allowed(keys, "admin", x_api_key=b"secret") == 200
    assert allowed(keys, "read", x_api_key=b"secret") == 403
    assert all(allowed(keys, scope, x_api_key=b"all") == 200 for scope in ("read", "events", "admin"))
    assert allowed(keys, "admin", x_api_key=hashed.encode()) == 401  # the hash is not the key
    assert "secret" not in repr(keys)
    assert "reader" not in repr(keys)


@pytest.mark.parametrize(
    ("text", "fault"), [("k:reed", "reed"), (":read", "empty"), ("sha256=12:read", "64 hex")]
)
def test_a_wrong_entry_is_named_without_its_key(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault) as caught:
        Keys.parse(f"good-key {text}")
    assert "entry 2" in caught.value.message
    assert "good-key" not in caught.value.message


def test_an_open_bind_needs_keys() -> None:
    none = Keys.parse(None)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.0.1"):
        check_bind(host, none, insecure=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):  # noqa: S104
        with pytest.raises(UsageError, match="no API key") as caught:
            check_bind(host, none, insecure=False)
        assert "--insecure" in caught.value.hint
        check_bind(host, none, insecure=True)
        check_bind(host, Keys.parse("k"), insecure=False)


def test_serve_refuses_before_it_binds(fresh_home: Home) -> None:
    with pytest.raises(UsageError, match=r"0\.0\.0\.0"):
        serve(fresh_home, host="0.0.0.0", port=0)  # noqa: S104


def test_a_server_with_keys(fresh_home: Home) -> None:
    with (
        served_home.serving(fresh_home, keys="r:read e:events a:admin") as server,
        httpx.Client(base_url=server.url) as api,
    ):

        def status(method: str, path: str, key: str = "", json: object = None) -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return api.request(method, path, headers=headers, json=json).status_code

        event = {"user_id": "u", "item_id": "f1"}
        assert status("GET", "/healthz") == status("GET", "/readyz") == status("GET", "/docs") == 200
        assert status("GET", "/v1/recommendations/u1") == 401
        assert status("GET", "/v1/recommendations/u1", "r") == 200
        assert status("POST", "/v1/events", "r", event) == 403
        assert status("POST", "/v1/events", "e", event) == 200
        assert status("GET", "/v1/users/u/events", "e") == 403
        assert status("DELETE", "/v1/users/u", "e") == 403
        assert status("DELETE", "/v1/users/u", "a") == 200
        assert status("GET", "/metrics") == 401
        refused = api.get("/v1/recommendations/u1")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["hint"]
