"""API keys: who may do what. Keys are compared by their hashes and are never kept in the clear.

`SLIPSTREAM_API_KEYS` holds entries separated by commas or spaces: `KEY`, `KEY:read+events`, or the hash in
place of the key, `sha256=HEX:admin`. An entry without scopes has all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from slipstream.errors import ConfigError, UsageError
from slipstream.server.wire import Problem

Scope = Literal["read", "events", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
VARIABLE = "SLIPSTREAM_API_KEYS"
_HASHED = "sha256="
_HINT = f"write {VARIABLE}='KEY:read+events, OTHER:admin'; scopes: " + ", ".join(SCOPES)


@dataclass(frozen=True)
class Keys:
    """{sha256 of a key: its scopes}; without any, everybody may do everything."""

    scopes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | None) -> Keys:
        """Raises ConfigError for an unknown scope or a hash that is none; the message holds no key."""
        found: dict[str, frozenset[str]] = {}
        for place, entry in enumerate(re.split(r"[,\s]+", text.strip()) if text and text.strip() else [], 1):
            key, _, named = entry.partition(":")
            scopes = frozenset(filter(None, named.split("+"))) or frozenset(SCOPES)
            if unknown := sorted(scopes - set(SCOPES)):
                raise ConfigError(f"{VARIABLE}, entry {place}: there is no scope {unknown[0]!r}", hint=_HINT)
            found[_digest_of(key, place)] = scopes
        return cls(found)

    def check(self, headers: Mapping[bytes, bytes], scope: Scope) -> int:
        """The place of the key, 0 where there are none; raises Problem 401 or 403.

        Every key is compared, whatever matches first.
        """
        if not self.scopes:
            return 0
        given = _given(headers)
        if given is None:
            raise Problem(
                401,
                "no-key",
                "this server needs an API key",
                "send Authorization: Bearer KEY",
                headers={"www-authenticate": "Bearer"},
            )
        digest = hashlib.sha256(given).hexdigest()
        entries = enumerate(self.scopes.items())
        granted = [(n, scopes) for n, (known, scopes) in entries if hmac.compare_digest(known, digest)]
        if not granted:
            headers_back = {"www-authenticate": 'Bearer error="invalid_token"'}
            raise Problem(401, "wrong-key", "the API key is not known", "check the key", headers=headers_back)
        place, scopes = granted[0]
        if scope not in scopes:
            hint = f"use a key with the scope {scope}"
            raise Problem(403, "wrong-scope", f"the API key lacks the scope {scope!r}", hint)
        return place


def _digest_of(key: str, place: int) -> str:
    if not key.startswith(_HASHED):
        if not key:
            raise ConfigError(f"{VARIABLE}, entry {place}: the key is empty", hint=_HINT)
        return hashlib.sha256(key.encode()).hexdigest()
    digest = key.removeprefix(_HASHED).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"{VARIABLE}, entry {place}: a hash is 64 hex digits", hint=_HINT)
    return digest


def _given(headers: Mapping[bytes, bytes]) -> bytes | None:
    if own := headers.get(b"x-api-key"):
        return own.strip()
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.strip() if scheme.lower() == b"bearer" and key.strip() else None


def check_bind(host: str, keys: Keys, *, insecure: bool) -> None:
    """Refuse to serve the open network without keys. Raises UsageError with the way out."""
    if keys.scopes or insecure or is_loopback(host):
        return
    raise UsageError(
        f"{host} can be reached from other machines and no API key is set",
        hint=f"set {VARIABLE}, or bind 127.0.0.1, or pass --insecure if something else guards the door",
    )


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
