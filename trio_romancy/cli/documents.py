"""Values of the model as JSON documents. The names in them are those of the model, and stay."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any

import attrs


def to_document(value: Any) -> Any:
    """A value as plain JSON data: classes as objects by the names of their fields, times in ISO 8601 and UTC."""
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
