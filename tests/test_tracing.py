"""OpenTelemetry, for operators who configure a provider."""

import asyncio
import json
from pathlib import Path

import pytest

from tests import commands
from tests.conftest import API_KEY
from tests.fake_openai import FakeOpenAI, completion, failure

PROGRAM = """
import asyncio, json
import httpx2
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)

from app.main import app

async def ask():
    async with app.router.lifespan_context(app) as state:
        async def with_state(scope, receive, send):
            await app({**scope, "state": dict(state)}, receive, send)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(with_state), base_url="http://x") as client:
            await client.post("/chat", json={"message": "Does a secret biped walk?"})

asyncio.run(ask())
print(json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
async def test_a_turn_has_a_span_for_the_request_and_one_for_the_model_without_anybodys_words(
    model_server: FakeOpenAI, tmp_path: Path, *, fails: bool
) -> None:
    model_server.enqueue(failure(500, "no secret biped") if fails else completion("A secret biped walks."))
    environment = {"FASTAPI_ENV": "development", "OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model_server.url}

    status, output = await in_thread(tmp_path, OPENAI_MAX_RETRIES="0", **environment)

    assert status == 0, output
    spans = {span["name"]: span for span in json.loads(output.splitlines()[-1])}
    model, request = spans["chat gpt-6-luna"], spans["POST /chat"]
    assert model["context"]["trace_id"] == request["context"]["trace_id"]
    assert model["attributes"]["gen_ai.request.model"] == "gpt-6-luna"
    if fails:
        assert model["attributes"]["error.type"] == "500"
        assert model["status"]["status_code"] == "ERROR"
    else:
        assert (
            model["attributes"]["gen_ai.usage.input_tokens"],
            model["attributes"]["gen_ai.usage.output_tokens"],
        ) == (
            11,
            7,
        )
    assert "secret" not in json.dumps(list(spans.values()))


async def in_thread(folder: Path, **environment: str) -> tuple[int, str]:
    return await asyncio.to_thread(commands.run, "-c", PROGRAM, folder=folder, **environment)


@pytest.mark.slow
def test_without_a_provider_no_sdk_is_imported(tmp_path: Path) -> None:
    program = "import sys, app.main; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"

    assert commands.run("-c", program, folder=tmp_path) == (0, "[]\n")
