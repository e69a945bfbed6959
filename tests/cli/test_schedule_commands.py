"""The commands about schedules, as a process."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from trio_romancy import App, Schedule, WorkflowContext, workflow

from .terminal import flat, on_both, on_terminal, with_json

pytestmark = pytest.mark.long


@workflow(name="cli_report")
async def report(ctx: WorkflowContext, what: str) -> None: ...


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a database with a schedule."""
    name = str(tmp_path_factory.mktemp("cli") / "schedules.db")

    async def fill() -> None:
        made = Schedule("nightly", report, "sales", cron="30 2 * * *", tz="Europe/Berlin")
        async with App(name, worker=False, schedules=[made]):
            pass

    trio.run(fill)
    assert Path(name).exists()
    return name


def test_schedules_are_listed_steered_and_deleted(database: str) -> None:
    for answer in on_both(database, "schedules", "list"):
        assert "nightly" in answer.text
        assert "30 2 * * * Europe/Berlin" in flat(answer)
    listed = with_json(database, "schedules", "list")
    assert isinstance(listed, list)
    (found,) = listed
    assert (found["workflow"], found["input"], found["overlap"]) == ("cli_report", {"what": "sales"}, "skip")
    times = with_json(database, "schedules", "next", "nightly", "--number", "3")
    assert isinstance(times, list)
    assert times[0] == found["next_at"]
    assert with_json(database, "schedules", "skip", "nightly", times[1]) == {"skipped": True}
    assert with_json(database, "schedules", "next", "nightly", "--number", "2") == [times[0], times[2]]
    assert with_json(database, "schedules", "skipped") == []
    assert with_json(database, "schedules", "pause", "nightly", "--reason", "no paper") == {"paused": True}
    assert with_json(database, "schedules", "pause", "nightly", code=1) == {"paused": False}
    assert "paused: no paper" in flat(on_terminal(80, database, "schedules", "list"))
    triggered = with_json(database, "schedules", "trigger", "nightly")
    assert isinstance(triggered, dict)
    assert triggered["instance_id"].startswith("nightly@")
    days = "2024-03-30T00:00:00Z", "2024-04-02T00:00:00+00:00"
    assert on_terminal(80, database, "schedules", "backfill", "nightly", *days).text == "3 occurrences to be started\n"
    assert with_json(database, "schedules", "resume", "nightly") == {"resumed": True}
    assert with_json(database, "schedules", "delete", "nightly") == {"deleted": True}
    assert on_terminal(80, database, "schedules", "list").text == "no schedules\n"


def test_mistakes_are_named(database: str) -> None:
    answer = on_terminal(80, database, "schedules", "pause", "weekly")
    assert (answer.code, "there is no schedule 'weekly'" in flat(answer)) == (1, True)
    answer = on_terminal(80, database, "schedules", "skip", "nightly", "tomorrow")
    assert (answer.code, "is not a time as ISO 8601" in flat(answer)) == (2, True)
    answer = on_terminal(80, database, "schedules", "skip", "nightly", "2026-11-01T02:30:00")
    assert (answer.code, "has no zone" in flat(answer)) == (2, True)
