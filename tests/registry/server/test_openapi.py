"""Requests made up from the OpenAPI document: whatever they say, the server does not fail."""

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.registry.conftest import weights_bytes
from tests.registry.server.conftest import Served
from tests.registry.server.test_own_protocol import publish

EXAMPLES = [1, pytest.param(100, marks=pytest.mark.long)]


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_that_the_document_allows_makes_the_server_fail(served: Served, examples: int) -> None:
    document: dict[str, Any] = served.ask("GET", "/openapi.json").table
    headers = {"Authorization": f"Bearer {served.tokens['alice']}"}
    rules = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    asked = 0

    def sending(name: str) -> Callable[[Any], None]:
        def check(case: Any) -> None:
            nonlocal asked
            asked += 1
            if "namespace" in case.path_parameters and asked % 4:  # most reach an adapter
                case.path_parameters |= dict(zip(("namespace", "name"), name.split("/"), strict=True))
            answer = case.call(base_url=served.url, headers=headers)
            assert answer.status_code < 500 or answer.status_code == 501, (case, answer.content)

        return check

    for number, found in enumerate(schemathesis.openapi.from_dict(document).get_all_operations()):
        operation, name = found.ok(), served.registry.create(f"acme/made-up-{examples}-{number}")
        publish(served, name, weights_bytes(1))

        rules(given(operation.as_strategy())(sending(name)))()
    assert asked >= len(document["paths"])
