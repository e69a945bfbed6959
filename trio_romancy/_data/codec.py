"""Codecs: convert values to JSON text and back, by annotation.

A value is read back as it was stored: one that JSON would change (a tuple where the annotation says ``Any``, NaN, a key
that is no string) is refused with its path. The caller goes on with the value that was read back from the JSON, so that
the first run gets the very value that a replay will get.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from json.scanner import make_scanner
from typing import Any, Generic, TypeVar

from cattrs.errors import StructureHandlerNotFoundError

from .._exceptions import text_of
from ..errors import DataProblem, InvalidDataError
from . import patient_json
from .annotations import field_names, is_class
from .converter import make_converter
from .diagnosis import LONGEST_CAUSE, expected, fault_of_scalar, name_of, problems_of_error, problems_of_value
from .large import LARGE
from .models import is_model
from .readable import MOST_DIGITS, why_unreadable
from .scalars import AlteredError, altered

T = TypeVar("T")

_CONTAINS_ITSELF = DataProblem("$", "it contains itself, or is nested too deeply")

# ASCII only: no database's character set, collation or treatment of NUL can change what is stored.
_json = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dumps(raw: object) -> str:
    """Return plain JSON data as compact ASCII text."""
    return _json.encode(raw)


_decoder = json.JSONDecoder()
_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(typing.cast(Any, _decoder))


def loads(text: str) -> Any:
    """Return the plain JSON data that a text stands for. For text that may be large see :func:`.patient_json.loads`.

    What :func:`dumps` has written has no space around it, for which the decoder of Python searches first. Without this
    the benchmark ``replay`` loses half a microsecond for each entry.

    Raises:
      ValueError: if it is not JSON.
    """
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    return _decoder.decode(text)


def _of_float(value: float) -> str:
    return repr(value) if math.isfinite(value) else _json.encode(value)


_text_of: dict[Any, Callable[[Any], str]] = {
    str: encode_basestring_ascii,
    int: repr,
    float: _of_float,
    bool: _json.encode,
    type(None): _json.encode,
}
"""Encoders of scalars by exact type, which skip the type checks of the general encoder."""


class Codec(Generic[T]):
    """Converts the values of one annotation to JSON text and back. Get one by :func:`codec`."""

    __slots__ = ("_scalar", "_scalar_text", "_structure", "_unstructure", "annotation")

    annotation: Any
    """The annotation whose values it converts."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self._structure = _fast.get_structure_hook(annotation)  # first: it resolves forward references
        self._unstructure = _fast.get_unstructure_hook(annotation)
        self._scalar = annotation if annotation in _text_of else None
        self._scalar_text = _text_of.get(annotation, _json.encode)

    def encode(self, value: T) -> tuple[str, T]:
        """Return a value as JSON text, and as it will be read back from that.

        Raises:
          InvalidDataError: naming every bad place, if the value does not match the annotation, or would be read back as
            another one.
        """
        try:
            if type(value) is self._scalar:
                text = self._scalar_text(value)
                # JSON joins two surrogates into one character.
                if "\\ud" not in text and (len(text) <= MOST_DIGITS or self._scalar is not int):
                    return text, value
            restored: Any = None
            text = _json.encode(self._unstructure(value))
            if (why := why_unreadable(text)) is None:
                raw = loads(text) if len(text) < LARGE else patient_json.loads(text)
                restored = self._structure(raw, self.annotation)
                if restored == value or _same(restored, value):
                    return text, restored
        except RecursionError:
            raise InvalidDataError("this value cannot be stored", [_CONTAINS_ITSELF]) from None
        except Exception as error:
            problems = self._problems(value) or [_whole(error)]
            raise InvalidDataError("this value cannot be stored", problems) from None
        if why is not None:
            raise InvalidDataError("this value cannot be stored", [DataProblem("$", why)])
        problems = self._problems(value) or [DataProblem("$", altered(value, restored))]
        raise InvalidDataError("this value would not survive being stored", problems)

    def encode_json(self, raw: Any) -> tuple[str, T]:
        """Return what was read from JSON as JSON text, and as the value that it stands for.

        Raises:
          InvalidDataError: naming every bad place, if the data do not match the annotation.
        """
        if self.annotation is not Any:
            return self.encode(self.decode(raw))
        try:
            text = dumps(raw)  # and nothing to compare: it is read back as it was read
        except ValueError:  # infinity, which a number of JSON may mean
            return self.encode(raw)
        if (why := why_unreadable(text)) is not None:
            raise InvalidDataError("this value cannot be stored", [DataProblem("$", why)])
        return text, raw

    def decode(self, raw: object) -> T:
        """Return the value that plain JSON data stand for.

        Raises:
          InvalidDataError: naming every bad place, if the data do not match the annotation.
        """
        try:
            value: T = self._structure(raw, self.annotation)
            return value
        except Exception as error:
            problems = _problems_of_data(raw, self.annotation) or [_whole(error)]
            raise InvalidDataError("this data does not match its type", problems) from None

    def decode_stored(self, raw: object) -> T:
        """Return the value that stored data stand for, which an earlier version may have stored in another form.

        Raises: as of :meth:`decode`.
        """
        try:
            value: T = self._structure(raw, self.annotation)
            return value
        except Exception:
            return self._decode_earlier(raw)

    def _decode_earlier(self, raw: object) -> T:
        try:
            value: T = _of_stored.structure(raw, self.annotation)
            return value
        except Exception:
            return self.decode(raw)  # for its message

    def fault(self, value: object) -> str | None:
        """Return why a value as a whole cannot be stored; None: it can."""
        raw = None
        try:
            raw = self._unstructure(value)
            restored = self._structure(loads(_json.encode(raw)), self.annotation)
            if restored == value or _same(restored, value):
                return None
        except AlteredError as error:
            return str(error)
        except Exception:
            return fault_of_scalar(raw) or expected(self.annotation, value)
        return fault_of_scalar(raw) or altered(value, restored, self.annotation)

    def _problems(self, value: object) -> list[DataProblem]:
        """Return why encoding a value has failed. This is slow, and called only after a failure."""
        try:
            return problems_of_value(value, self.annotation, _fault)
        except RecursionError:
            return [_CONTAINS_ITSELF]
        except Exception:  # the user's class raises when it is looked at
            return []


@lru_cache(maxsize=4096)
def _cached_codec(annotation: Any) -> Codec[Any]:
    return Codec(annotation)


def codec(annotation: Any) -> Codec[Any]:
    """Return the codec of an annotation.

    Raises:
      TypeError: if the annotation contains a type that cannot be stored as JSON.
    """
    try:
        return _cached_codec(_hashable(annotation))
    except (NameError, AttributeError, SyntaxError) as error:  # in the annotations of a class
        what = f"an annotation in it cannot be resolved: {error}"
        raise TypeError(f"{name_of(annotation)} cannot be stored as JSON: {what}") from None
    except StructureHandlerNotFoundError as error:
        unsupported = getattr(error, "type_", annotation)
        raise TypeError(f"{name_of(unsupported)} cannot be stored as JSON") from None
    except TypeError as error:  # members of a union that cannot be distinguished, or an annotation without a hash
        raise TypeError(f"{name_of(annotation)} cannot be stored as JSON: {error}") from None
    except RecursionError:
        what = "only attrs classes, dataclasses and what is in lists or dicts may contain themselves"
        raise TypeError(f"{name_of(annotation)} cannot be stored as JSON: {what}") from None


def is_structured(annotation: Any) -> bool:
    """Tell whether values of an annotation are JSON objects: attrs classes, dataclasses, TypedDicts, mappings."""
    origin = typing.get_origin(annotation) or annotation
    if typing.is_typeddict(origin):
        return True
    return isinstance(origin, type) and (is_class(origin) or is_model(origin) or issubclass(origin, Mapping))


def _hashable(annotation: Any) -> Any:
    """Return an annotation, without the ``Annotated`` in it if one of those contains a value without a hash."""
    try:
        hash(annotation)
        return annotation
    except TypeError:
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        return typing.get_type_hints(holder)["it"]


def _fault(value: object, annotation: Any) -> str | None:
    try:
        inner = codec(annotation)
    except TypeError:  # a part of a type that has a meaning only inside of it
        return None
    return inner.fault(value)


_fast = make_converter(detailed=False)
_detailed = make_converter(detailed=True)
_of_stored = make_converter(detailed=False, reads_stored=True)


def _problems_of_data(raw: object, annotation: Any) -> list[DataProblem]:
    try:
        try:
            _detailed.structure(raw, annotation)
        except Exception as error:
            return problems_of_error(error, raw)
    except KeyboardInterrupt:
        raise
    except BaseException:  # of an exception of the user's class, which raises when cattrs or the diagnosis looks at it
        pass
    return []


def _whole(error: Exception) -> DataProblem:
    return DataProblem("$", text_of(error, LONGEST_CAUSE) or type(error).__name__)


def _same(one: object, other: object) -> bool:
    """Compare two values, also of classes without ``__eq__``, and datetimes in an hour that occurs twice."""
    if one == other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(map(_same, one.items(), other.items()))  # JSON keeps the order
    if isinstance(one, (list, tuple, deque)) and isinstance(other, (list, tuple, deque)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, datetime) and isinstance(other, datetime):  # in such an hour Python calls all datetimes unequal
        moments = [(it.replace(tzinfo=None, fold=0), it.utcoffset()) for it in (one, other)]
        return moments[0] == moments[1]
    if is_class(type(one)):
        return all(_same(getattr(one, name), getattr(other, name)) for name in field_names(type(one)))
    return False
