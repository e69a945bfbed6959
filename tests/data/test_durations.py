"""Durations as JSON, in ISO 8601. What earlier versions have stored is read, but not taken from outside."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import trio
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy import App, InvalidDataError, InvalidInputError, WorkflowContext, activity, workflow
from trio_romancy._data.codec import codec, dumps
from trio_romancy._storage.sql import tables

from ..support.databases import SHARED_KINDS
from ..support.probe import probe


@frozen
class Pause:
    wait: timedelta
    by_name: dict[str, timedelta | None]


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "PT0S"),
        (timedelta(minutes=1), "PT1M"),
        (timedelta(seconds=90), "PT1M30S"),
        (timedelta(hours=36), "P1DT12H"),
        (timedelta(days=400), "P400D"),
        (timedelta(microseconds=1), "PT0.000001S"),
        (timedelta(seconds=-1.5), "-PT1.5S"),
        (timedelta(days=-1, seconds=1), "-PT23H59M59S"),
        (timedelta.max, "P999999999DT23H59M59.999999S"),
        (timedelta.min, "-P999999999D"),
    ],
)
def test_a_duration_is_written_in_iso_8601(duration: timedelta, text: str) -> None:
    assert codec(timedelta).encode(duration) == (dumps(text), duration)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("P2W", timedelta(weeks=2)),
        ("P1DT0H", timedelta(days=1)),
        ("PT36H", timedelta(hours=36)),
        ("PT90M", timedelta(minutes=90)),
        ("+PT1S", timedelta(seconds=1)),
        ("PT0,5S", timedelta(seconds=0.5)),
        ("PT1.1234560000S", timedelta(seconds=1, microseconds=123456)),
    ],
)
def test_other_forms_of_iso_8601_are_read(text: str, duration: timedelta) -> None:
    assert codec(timedelta).decode(text) == duration


@pytest.mark.parametrize(
    "raw",
    [
        60,
        60.0,
        0,
        "60",
        "",
        "P",
        "PT",
        "P1DT",
        "1M",
        "P1M",
        "P1Y",
        "pt1m",
        "PT1M ",
        "PT1.1234567S",
        "PT-1S",
        "PT٣S",
        "P9999999999D",
        "PT" + "9" * 5000 + "S",
        True,
        None,
        [60],
    ],
    ids=lambda raw: ascii(raw)[:20],
)
def test_what_is_no_duration_is_refused_from_outside(raw: Any) -> None:
    with pytest.raises(InvalidDataError, match=r"\$: (expected timedelta \(in ISO 8601|a timedelta has at most)"):
        codec(timedelta).decode(raw)


@given(st.timedeltas())
def test_every_duration_survives_also_as_a_key(duration: timedelta) -> None:
    assert codec(timedelta).decode_stored(duration // timedelta(microseconds=1)) == duration
    for annotation, value in ((timedelta, duration), (dict[timedelta, int], {duration: 1})):
        assert codec(annotation).encode(value)[1] == value


def test_what_an_earlier_version_has_stored_is_read_wherever_a_duration_is() -> None:
    hour = timedelta(hours=1)
    stored = {"wait": 3_600_000_000, "by_name": {"a": None, "b": -3_600_000_000}}
    assert codec(Pause).decode_stored(stored) == Pause(hour, {"a": None, "b": -hour})
    assert codec(dict[timedelta, int]).decode_stored({"3600000000": 1}) == {hour: 1}
    assert codec(str | timedelta).decode_stored(3_600_000_000) == hour
    with pytest.raises(InvalidDataError, match=r"\$\.wait: expected timedelta"):
        codec(Pause).decode(stored)
    with pytest.raises(InvalidDataError, match=r"\$\.wait: expected timedelta .* got 1.5"):
        codec(Pause).decode_stored(stored | {"wait": 1.5})


@activity(name="durations_longest")
async def longest(wait: timedelta) -> timedelta:
    return 2 * wait


@workflow(name="durations_reminder")
async def reminder(ctx: WorkflowContext, wait: timedelta) -> timedelta:
    twice = await longest(wait)
    event = await ctx.wait_event("durations.more", data_type=timedelta)
    return twice + event.data


@pytest.mark.parametrize("kind", SHARED_KINDS, indirect=True)
async def test_an_instance_of_an_earlier_version_goes_on_and_events_with_bare_numbers_are_refused(
    database: str,
) -> None:
    async with App(database) as app:
        await app.start(reminder.options(id="x"), timedelta(minutes=1))
        while not await app.history("x"):  # noqa: ASYNC110
            await trio.sleep(0.01)
    async with App(database, worker=False) as app:  # as it was stored
        inside = probe(app)
        await inside.database.run(lambda c: c.execute(tables.instances.update().values(input='{"wait":60000000}')))
        old = '{"result":120000000}'
        await inside.database.run(lambda c: c.execute(tables.history.update().values(payload=old)))
        assert (await app.start(reminder.options(id="x"), timedelta(minutes=1))).instance_id == "x"
        with pytest.raises(InvalidInputError, match=r"\$\.wait: expected timedelta"):
            await app.start("durations_reminder", {"wait": 60})
    async with App(database) as app:
        await app.send_event("durations.more", timedelta(seconds=5))
        assert await app.handle("x", reminder).result() == timedelta(minutes=2, seconds=5)
        assert await app.handle("x").result() == "PT2M5S"
