"""Values of the model as JSON documents. Their names are those of the model, and are stable."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any

import attrs


def to_document(value: Any) -> Any:
    """Return a value as plain JSON data: a class as an object of its fields, a time as ISO 8601 in UTC."""
    if attrs.has(type(value)):
        return {field.name: to_document(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: to_document(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_document(one) for one in value]
    return value
