"""That the service answers as the OpenAPI document says, whatever it is sent."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from app.main import app
from tests.test_openapi import development_service

pytestmark = pytest.mark.slow


def fuzzed(examples: int) -> schemathesis.BaseSchema:
    """Return the document, from which so many requests are made for each operation."""
    return schemathesis.openapi.from_dict(
        app.openapi(),
        config=schemathesis.Config.from_dict(
            {
                "seed": 1,
                "generation": {"mode": "all", "max-examples": examples, "deterministic": True},
                # A schema cannot say that a blank message is refused, that a conversation is unknown, or a key used already.
                "checks": {"positive_data_acceptance": {"expected-statuses": [200, 204, 400, 404, 409]}},
            }
        ),
    )


few, many = fuzzed(12), fuzzed(100)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with development_service(tmp_path_factory.mktemp("service")) as address:
        yield address


@few.parametrize()
def test_the_service_keeps_to_the_document(case: schemathesis.Case[Any], address: str) -> None:
    case.call_and_validate(base_url=address)


@many.parametrize()
def test_the_service_keeps_to_the_document_whatever_it_is_sent(case: schemathesis.Case[Any], address: str) -> None:
    case.call_and_validate(base_url=address)
