"""The service as it runs in production: `python -m app`."""

import logging
import sys
from pathlib import Path

import uvicorn
from uvicorn.config import LOGGING_CONFIG

WORKER_SILENCE_SECONDS = 30
"""How long one of several processes may be silent before it is replaced: on a busy machine it takes long to start."""

logger = logging.getLogger("app")


def main() -> int:
    """Serve until the process is stopped; returns 1 if the settings are refused, and otherwise 0."""
    # One of several processes imports this module, and only then begins to answer the parent.
    from app import logs  # noqa: PLC0415
    from app.config import Environment, Settings, SettingsError  # noqa: PLC0415

    try:
        settings = Settings.load()
    except SettingsError as error:
        logs.configure(Environment())
        logger.critical("settings.invalid", extra={"fields": {"reason": str(error)}})
        return 1
    uvicorn.run(
        "app.main:app",
        host=settings.host or ("127.0.0.1" if settings.development else "0.0.0.0"),  # noqa: S104  # Platforms need it.
        port=settings.port,
        workers=settings.web_concurrency,
        # The application sets up its own log; this is for the lines before that, and for the parent of several workers.
        log_config=LOGGING_CONFIG if settings.development else str(Path(__file__).with_name("logging.json")),
        http="app.connections:BoundedProtocol",
        ws="none",  # There are no WebSockets, and an attempt would log its query.
        timeout_worker_healthcheck=WORKER_SILENCE_SECONDS,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
