"""Requests drawn from the API's own description: no error 500, and only answers that it describes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
schemathesis = pytest.importorskip("schemathesis")
# Left out: that every well-formed task is taken. What a task is, records and formats say, not the schema.
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

OPERATIONS = [
    ("POST", "/api/v1/tasks"),
    ("GET", "/api/v1/tasks"),
    ("POST", "/api/v1/suggestions"),
    ("GET", "/api/v1/labels"),
    ("GET", "/api/v1/records/{kind}.csv"),
    ("GET", "/api/v1/records/{kind}.jsonl"),
    ("GET", "/api/v1/figures"),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_the_api_keeps_its_description(site: Any, method: str, path: str) -> None:
    from labeling.store.people import new_token

    bot = site.person("bot", "machine")
    with site.config.store.write() as session:
        token = new_token(session, "api", person=bot)
    site.app.state.news.close()  # nothing comes: nobody waits for it
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", site.app)
    assert {(o.ok().method.upper(), o.ok().path) for o in schema.get_all_operations()} == set(OPERATIONS)

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(schema[path][method].as_strategy())
        response = case.call(headers={"Authorization": f"Bearer {token}"})
        assert response.status_code < 500, response.text
        case.validate_response(response, excluded_checks=[checks.positive_data_acceptance])

    ask()
