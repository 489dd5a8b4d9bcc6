"""Logs as JSON lines that can be joined with events and traces, without secrets in them."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

from shared.context import current_cause

# Where a developer has rich, structlog loads it for a console that JSON has no use for: megabytes
# in every process, and pictures of tracebacks that take seconds.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

del sys.modules["rich"]
if _rich is not None:
    sys.modules["rich"] = _rich

#: A key that holds one of these never reaches a log line.
SECRET_KEYS = re.compile(
    r"(?i)(password|secret|token|authorization|cookie|api_?key|dsn|email|full_name|address|"
    r"card|database_url|broker_url|redis_url)"
)
#: Credentials inside URLs and bearer tokens inside texts.
SECRET_TEXT = re.compile(
    r"(?i)(://[^:/@\s]*:)[^@/\s]+(@)|(bearer\s+)[\w.~+/=-]+|[\w.+-]+@[\w-]+\.[\w.-]+"
)
HIDDEN = "[hidden]"


def redact_text(text: str) -> str:
    """The text without passwords in URLs, bearer tokens and e-mail addresses."""

    def hide(match: re.Match[str]) -> str:
        before, after, bearer = match.groups()
        if bearer:
            return f"{bearer}{HIDDEN}"
        return f"{before}{HIDDEN}{after}" if before else HIDDEN

    return SECRET_TEXT.sub(hide, text)


def redact(value: Any) -> Any:
    """The same structure with secrets and personal data hidden, by key and by shape."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if SECRET_KEYS.search(str(key)) else redact(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return redact_text(value) if isinstance(value, str) else value


def _redact_event(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {
        key: HIDDEN if key != "event" and SECRET_KEYS.search(key) else redact(value)
        for key, value in event.items()
    }


def _add_cause(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    cause = current_cause()
    event.setdefault("correlation_id", cause.correlation_id)
    event.setdefault("trace_id", cause.traceparent.split("-")[1])
    if cause.causation_id:
        event.setdefault("causation_id", cause.causation_id)
    return event


def configure_logging(service: str, process: str, level: str) -> None:
    """Every line, ours and the libraries', becomes one JSON object on standard error."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_cause,
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in (
        "aio_pika",
        "aiormq",
        "alembic",
        "httpx",
        "httpcore",
        "uvicorn.access",
        "uvicorn.error",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger: a short sentence, then facts as keywords."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
