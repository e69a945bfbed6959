"""Details that an instance shows to operators, as text to store."""

from __future__ import annotations

from .._storage.outgoing import to_json
from ..errors import PayloadTooLargeError

MAX_DETAILS = 16 * 1024
"""Largest details of an instance, in bytes of JSON."""


def details_text(instance_id: str, value: object, call: str) -> str:
    """Return details as JSON text.

    Args:
      call: what stores them, for messages: ``"ctx.set_details"``.

    Raises:
      InvalidDataError: if the value cannot be stored.
      PayloadTooLargeError: if it is larger than :data:`MAX_DETAILS`.
    """
    text = to_json(value)
    if len(text) > MAX_DETAILS:
        raise PayloadTooLargeError(
            f"instance {instance_id!r}: its details are {len(text)} bytes of JSON, and {call} stores at most "
            f"{MAX_DETAILS}; they tell people about its progress, so store data elsewhere"
        )
    return text
