"""Records of the log, made and formatted without a service."""

import logging
import re
from typing import Any

from dirty_equals import IsStr

from app.logs import RequestLogMiddleware, current_request

TIME = IsStr(regex=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")


def failed(error: BaseException, **fields: Any) -> logging.LogRecord:
    """Return a record of the exception, which has a traceback."""
    try:
        raise error  # noqa: TRY301  # That is how it gets a traceback.
    except BaseException as caught:  # noqa: BLE001  # Groups and exits are logged too.
        exc_info = (type(caught), caught, caught.__traceback__)
    return logging.getLogger("app.x").makeRecord(
        "app.x", logging.ERROR, __file__, 1, "it.failed", (), exc_info, extra={"fields": fields}
    )


def chained(error: Exception, cause: Exception) -> Exception:
    """Return the exception, raised from the cause."""
    try:
        try:
            raise cause
        except type(cause) as caught:
            raise error from caught
    except type(error) as caught:
        return caught


async def format_in_request(formatter: logging.Formatter, record: logging.LogRecord, *confidential: str) -> str:
    """Format the record as it would be while a request with these texts is served."""
    lines = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        current_request().confidential += confidential
        lines.append(formatter.format(record))

    async def nothing(*_: Any) -> Any: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"r1")]}
    await RequestLogMiddleware(application)(scope, nothing, nothing)
    return lines[0]


def unescaped(text: str) -> str:
    """Return the text with what JSON spells as `\\uXXXX`, however often it was escaped, as it was."""
    return re.sub(r"\\+u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)
