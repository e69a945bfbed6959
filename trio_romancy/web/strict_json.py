"""Strict parsing of untrusted JSON: text that Python accepts and JSON does not allow is refused."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from .._data.large import LARGE
from .._data.patient_json import PatientDecoder

MAX_DEPTH = 100
"""Greatest depth of nested arrays and objects. Stored data is parsed again, possibly deep in a stack."""
_LONGEST_KEY = 100
"""Most characters of a key in a message."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Readers of a key that occurs twice differ in which value they take."""
    made = dict(pairs)
    if len(made) != len(pairs):
        times = Counter(key for key, _ in pairs)
        twice = next(key for key, number in times.items() if number > 1)
        raise ValueError(f"an object has the key {twice[:_LONGEST_KEY]!r} twice")
    return made


_decoder = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_object)
_patient_decoder = PatientDecoder(parse_constant=_refuse, object_pairs_hook=_object)


def loads(body: bytes) -> Any:
    """Return the value of JSON text.

    Raises:
      ValueError: if it is not JSON in UTF-8, is nested too deeply, has a key twice in an object, or contains text that
        is not Unicode.
    """
    try:
        text = body.decode()
        value = (_decoder if len(text) < LARGE else _patient_decoder).decode(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None
    _check_depth(value)
    if "\\ud" in text.lower():
        _check_surrogates(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _check_surrogates(value: Any) -> None:
    """Raise if an escape is half of a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it has half a surrogate pair in it, which is not Unicode text") from None


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
