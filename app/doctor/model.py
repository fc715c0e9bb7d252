"""The model's server: whether it can be reached, takes the key, and has the model."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx2
from openai import APIConnectionError, APIStatusError, OpenAIError

from app.config import Settings, SettingsError
from app.doctor.findings import Finding
from app.errors import ModelError
from app.llm import LanguageModel
from app.prompt import Background, PromptMessage
from app.provider import endpoint, openai_client

LIST_SECONDS = 10.0

_OPENAI = "api.openai.com"


async def examine_model(settings: Settings, *, ask: bool) -> AsyncIterator[Finding]:
    """Yield what the server's list of models tells, and with `ask` whether the model answers, which costs a few tokens."""
    if settings.openai_api_key is None:
        yield Finding("advice", "model", "OPENAI_API_KEY is not set: the offline stand-in answers, and only quotes.")
        return
    try:
        listed = await _list(settings, ask=ask)
        yield listed
        if ask and listed.verdict != "FAULT":
            yield await _answer(settings)
    except SettingsError as error:
        yield Finding("FAULT", "model", str(error))


async def _list(settings: Settings, *, ask: bool) -> Finding:
    """Return what the server's list of models tells: whether it can be reached, takes the key, and has the model."""
    client = openai_client(settings).with_options(max_retries=0, timeout=LIST_SECONDS)
    url = endpoint(client, "models")
    where = url.partition("?")[0]
    more = "" if ask else " To be sure: python -m app.admin doctor --ask"
    try:
        async with asyncio.timeout(LIST_SECONDS):
            response = await client.get(url, cast_to=httpx2.Response)
        listed = _names(json.loads(response.content))
    except APIStatusError as error:
        return _refused(error.status_code, where, more)
    except (APIConnectionError, httpx2.HTTPError, TimeoutError) as error:
        why = str(error.__cause__ or error) or type(error).__name__
        return Finding("FAULT", "model", f"{where} cannot be reached: {why}. Correct OPENAI_BASE_URL.")
    except (OpenAIError, ValueError, RecursionError):
        return Finding("advice", "model", f"{where} does not answer in JSON. Is OPENAI_BASE_URL right?{more}")
    finally:
        await client.close()
    return _listed(settings, listed, ask=ask, more=more)


def _names(body: Any) -> set[str]:
    """Return the names of the models in a list of them, in whatever form servers send it."""
    items = (
        next((body[key] for key in ("data", "models") if isinstance(body.get(key), list)), [])
        if isinstance(body, dict)
        else body
    )
    items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {str(item[key]) for item in items for key in ("id", "name", "model") if item.get(key)}


def _refused(status: int, where: str, more: str) -> Finding:
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return Finding("FAULT", "model", f"{where} refuses the key. Copy OPENAI_API_KEY again from your provider.")
        case HTTPStatus.FORBIDDEN:
            return Finding("ok", "model", f"The key may not list models, as restricted keys may not.{more}")
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED | HTTPStatus.NOT_IMPLEMENTED:
            return Finding("ok", "model", f"The server lists no models.{more}")
        case _:
            return Finding("advice", "model", f"{where} answers {status}.{more}")


def _listed(settings: Settings, names: set[str], *, ask: bool, more: str) -> Finding:
    model = settings.openai_model
    if not names:
        return Finding("ok", "model", f"The server lists no models.{more}")
    if any(name == model or name.endswith(f"/{model}") or name.partition(":")[0] == model for name in names):
        return Finding("ok", "model", f"The server takes the key, and has {model}.{more}")
    said = f"{model} is not among the {len(names)} models that the server lists. Correct OPENAI_MODEL."
    # Others also list their models under other names than they take.
    is_certain = urlsplit(settings.openai_base_url).hostname == _OPENAI and not ask
    return Finding("FAULT" if is_certain else "advice", "model", said + ("" if is_certain else more))


async def _answer(settings: Settings) -> Finding:
    """Ask the model for a small answer."""
    model = LanguageModel(settings)
    prompt = [
        PromptMessage(role="system", content="Answer with one word."),
        PromptMessage(role="user", content="What is the opposite of no?"),
    ]
    try:
        completion = await model.answer(lambda _: prompt, Background())
    except ModelError as error:
        said = f"{settings.openai_model} gave no answer ({error.code}{_status(error.__cause__)}): {error.message}"
        return Finding(
            "FAULT", "model", f"{said} See OPENAI_API_KEY, OPENAI_MODEL, OPENAI_BASE_URL and OPENAI_EXTRA_BODY."
        )
    finally:
        await model.close()
    return Finding("ok", "model", f"{settings.openai_model} answers, in {completion.duration_ms / 1000:.1f} s.")


def _status(cause: BaseException | None) -> str:
    if not isinstance(cause, APIStatusError):
        return ""
    code = cause.code if isinstance(cause.code, str) and re.fullmatch(r"[\w.-]{1,60}", cause.code) else None
    return f", status {cause.status_code}{f' {code}' if code else ''}"
