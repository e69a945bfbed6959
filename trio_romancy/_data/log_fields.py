"""Log records about an instance: their fields, texts of users in them, and recorded exceptions."""

from __future__ import annotations

import logging
from types import TracebackType

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_LONGEST_CAUSE = 1_000
"""The most characters of an exception's text in the line of a record. The traceback below has more of it."""


def about(
    instance_id: str | None, workflow: str | None = None, operation_id: str | None = None
) -> dict[str, str | None]:
    """Return the ``extra`` of a log record about an instance. A field is None if it is not known, or does not exist."""
    return {"instance_id": instance_id, "workflow": workflow, "operation_id": operation_id}


def visible(text: str) -> str:
    """Return text without control characters: each one that does not print becomes an escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cause_text(error_type: str, message: str) -> str:
    """Return the type and the text of a recorded exception on one line."""
    text = f"{error_type}: {message}" if message else error_type
    return visible(text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]}...")


def log_with_traceback(
    logger: logging.Logger,
    level: int,
    message: str,
    *args: str | int,
    traceback: str,
    extra: dict[str, str | None],
    exc_info: ExcInfo | None = None,
) -> None:
    """Log a record with the recorded traceback of an exception, which need not live any more.

    Formatters show the traceback as they show that of ``exc_info``. Control characters are escaped, and the lines of
    the traceback are indented: no id and no text of an exception can look like another record.

    Args:
      exc_info: the exception, if it lives.
    """
    if logger.isEnabledFor(level):
        file, line, function, _ = logger.findCaller(stacklevel=2)
        shown = tuple(visible(arg) if isinstance(arg, str) else arg for arg in args)
        record = logger.makeRecord(logger.name, level, file, line, message, shown, exc_info, function, extra)
        record.exc_text = "\n".join(f"  {visible(each)}" for each in traceback.splitlines())
        logger.handle(record)
