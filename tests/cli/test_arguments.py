"""What the text of an argument means."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trio_romancy.cli.arguments import Path, read_conditions, read_duration, read_json, read_limit, read_time
from trio_romancy.cli.failures import StopError

pytestmark = pytest.mark.long

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("customer.id=42", "customer.id", 42),
        ('customer.id="42"', "customer.id", "42"),
        ("sku=A-1", "sku", "A-1"),
        ("sku=", "sku", ""),
        ("is_paid=true", "is_paid", True),
        ("is_paid=True", "is_paid", "True"),
        ("note=null", "note", None),
        ("price=1.50", "price", 1.5),
        ("formula=a=b", "formula", "a=b"),
        ("items.0.sku=ä", "items.0.sku", "ä"),
        ("amount=NaN", "amount", "NaN"),
        ('["a.b","c=d",0]=1', ("a.b", "c=d", "0"), 1),
        ('["]=",""]="x"', ("]=", ""), "x"),
    ],
)
def test_a_condition_is_a_path_and_a_value(text: str, path: Path, value: Any) -> None:
    assert read_conditions([text]) == {path: value}
    assert type(read_conditions([text])[path]) is type(value)


def test_json_is_json_only() -> None:
    assert read_json('{"a": [1, null, "ä"]}', "it") == {"a": [1, None, "ä"]}
    for text in ("", "NaN", "[Infinity]", "'a'", "{a: 1}", "[1] 2"):
        with pytest.raises(StopError, match="it is not JSON"):
            read_json(text, "it")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1.5h", timedelta(minutes=90)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("0s", timedelta(0)),
        ("PT1M30S", timedelta(seconds=90)),
        ("P2DT12H", timedelta(hours=60)),
    ],
)
def test_a_duration_has_a_unit(text: str, duration: timedelta) -> None:
    assert read_duration(text) == duration


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1d2h", "٣d", "999999999999d", "nan s", "-PT1S", "P1M"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(StopError):
        read_duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30", 30.0), ("0.5", 0.5), ("inf", math.inf), ("2m", 120.0), ("PT1H", 3600.0)]
)
def test_a_limit_without_a_unit_is_in_seconds(text: str, seconds: float) -> None:
    assert read_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "-PT1S", "soon"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(StopError, match="a duration is a number with a unit"):
        read_limit(text)


def test_a_time_is_in_utc_if_it_says_nothing_else() -> None:
    assert read_time("2026-01-30", NOW) == datetime(2026, 1, 30, tzinfo=UTC)
    assert read_time("2026-01-30T10:00+02:00", NOW) == datetime(2026, 1, 30, 8, tzinfo=UTC)
    assert read_time("2026-01-30T10:00:05.5Z", NOW) == datetime(2026, 1, 30, 10, 0, 5, 500_000, tzinfo=UTC)


def test_a_duration_is_a_time_so_long_ago() -> None:
    assert read_time("2h", NOW) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert read_time("200000w", NOW) < datetime(2, 1, 1, tzinfo=UTC), "as long ago as can be"
