"""Every route, asked what its own OpenAPI document allows and what it forbids.

No 5xx but those that the contract names, no hang, and each refusal is problem+json with a code and a hint. A
200 has the shape that the document promises.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import served_home
from hypothesis import HealthCheck, Phase, given, settings

from slipstream.config import Home

schemathesis = pytest.importorskip("schemathesis", reason="the dev extra has it")

FEW, MANY = 8, 30
FAILURES = {400, 401, 403, 404, 405, 413, 422, 429, 503, 507}
SECONDS = 10


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server of its own: what is sent here would be found by the other tests."""
    home = Home(tmp_path_factory.mktemp("home"))
    served_home.fill(home)
    with served_home.serving(home) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def fuzz(api: httpx.Client, examples: int) -> dict[str, set[int]]:
    """The statuses that each operation answered with."""
    schema = schemathesis.openapi.from_dict(api.get("/openapi.json").json())
    schema.config.update(base_url=str(api.base_url))
    seen: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses = seen.setdefault(operation.label, set())
        _ask(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE), examples, statuses)
        definition = operation.definition.raw
        if definition["parameters"] or "requestBody" in definition:  # there is something to get wrong
            wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
            _ask(wrong, examples, statuses)
    return seen


def _ask(cases: Any, examples: int, statuses: set[int]) -> None:
    @given(case=cases)
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        reply = case.call(timeout=SECONDS)
        statuses.add(reply.status_code)
        if reply.status_code == 200:
            case.validate_response(reply, checks=[schemathesis.checks.response_schema_conformance])
            return
        assert reply.status_code in FAILURES, (case.as_curl_command(), reply.text)
        assert reply.headers["content-type"] == ["application/problem+json"], case.as_curl_command()
        problem = reply.json()
        assert problem["status"] == reply.status_code
        assert problem["code"]
        assert "hint" in problem
        assert ("retry-after" in reply.headers) == (reply.status_code in (429, 503))

    ask()


def test_no_case_of_the_document_breaks_a_route(fuzzed: httpx.Client) -> None:
    seen = fuzz(fuzzed, FEW)
    assert len(seen) >= 12
    asked = {operation for operation, statuses in seen.items() if 200 in statuses}
    assert "GET /v1/recommendations/{user_id}" in asked
    assert "POST /v1/events" in asked
    assert fuzzed.get("/healthz").status_code == 200


@pytest.mark.slow
def test_many_cases_of_the_document_break_no_route(fuzzed: httpx.Client) -> None:
    fuzz(fuzzed, MANY)
    assert fuzzed.get("/healthz").status_code == 200
