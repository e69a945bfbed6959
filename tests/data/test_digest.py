"""Equal values have equal digests in every process, different ones do not, and what is no data has none."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import pytest

from trio_romancy._data.digest import digest


class Colour(Enum):
    RED = 1
    BLUE = 2


class Point(NamedTuple):
    x: int
    y: int


@attrs.frozen
class Frozen:
    name: str
    parts: tuple[int, ...] = ()


@attrs.define
class Mutable:
    name: str
    note: str = ""
    tags: list[str] = attrs.field(factory=list)


@dataclasses.dataclass(frozen=True)
class FrozenData:
    name: str
    count: int = 1


@dataclasses.dataclass
class MutableData:
    name: str


VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: 1,
    lambda: 1.0,
    lambda: "1",
    lambda: b"1",
    lambda: "",
    lambda: "\ud800",
    lambda: float("nan"),
    lambda: 2**80,
    lambda: Decimal("1.0"),
    lambda: UUID(int=1),
    lambda: date(2030, 1, 1),
    lambda: datetime(2030, 1, 1, tzinfo=UTC),
    lambda: timedelta(seconds=1),
    lambda: PurePosixPath("/a"),
    lambda: Colour.RED,
    lambda: Colour.BLUE,
    list,
    lambda: [1, [2]],
    lambda: [1, 2],
    lambda: ["ab", "c"],
    lambda: ["a", "bc"],
    lambda: {"a": 1},
    lambda: {1: "a"},
    lambda: {"a", "b"},
    lambda: {"a"},
    lambda: Frozen("a"),
    lambda: Frozen("a", (1,)),
    lambda: Mutable("b"),
    lambda: Mutable("b", "note"),
    lambda: FrozenData("c"),
    lambda: MutableData("d"),
]


def text(value: object, salt: str = "") -> str:
    found = digest(value, salt)
    assert found is not None
    return found.text


def test_equal_values_have_equal_digests_and_different_ones_do_not() -> None:
    digests = [text(make()) for make in VALUES]
    assert digests == [text(make()) for make in VALUES]
    assert len(set(digests)) == len(digests)


def test_what_is_the_same_data_has_the_same_digest() -> None:
    same: list[list[Any]] = [
        [[1, 2], (1, 2), deque([1, 2]), Point(1, 2)],
        [{"a": 1, "b": 2}, {"b": 2, "a": 1}, OrderedDict(b=2, a=1)],
        [{"a", "b"}, frozenset("ba")],
        [Mutable("b"), Mutable("b", ""), MutableData("b")],  # a field with its default does not count
    ]
    for values in same:
        assert len({text(value) for value in values}) == 1, values


def test_the_order_of_a_set_in_another_process_does_not_count() -> None:
    program = """if True:
        from trio_romancy._data.digest import digest
        print(digest({'a', 'b', 'c', ('d', frozenset('efgh'))}, 's').text)"""
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1


def test_only_what_cannot_change_is_fixed() -> None:
    fixed = [1, "a", (1, ("b",)), frozenset("a"), Frozen("a"), FrozenData("a"), Colour.RED, Point(1, 2)]
    assert [value for value in fixed if not digest(value, "").is_fixed] == []  # type: ignore[union-attr]
    loose = [[1], {"a": 1}, {"a"}, Mutable("a"), MutableData("a"), ([1],), Frozen("a", [1])]  # type: ignore[arg-type]
    assert [value for value in loose if digest(value, "").is_fixed] == []  # type: ignore[union-attr]


class Hostile:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance() raises
        raise RuntimeError


def test_what_is_no_data_cannot_be_compared() -> None:
    endless: list[Any] = []
    endless.append(endless)
    opaque: list[object] = [object(), print, lambda: 1, Hostile(), endless, [object()], {"a": object()}, iter(())]
    assert [value for value in opaque if digest(value, "") is not None] == []


def test_a_digest_depends_on_its_salt_and_is_short() -> None:
    assert text("secret", "a") != text("secret", "b")
    assert len(text("x" * 10_000_000)) == 12


@pytest.mark.parametrize("cls", [str, int, float])
def test_a_subclass_of_a_plain_type_counts_as_that_type(cls: Any) -> None:
    sub = type("Sub", (cls,), {"__repr__": lambda self: "another"})
    assert text(sub("7")) == text(cls("7"))
