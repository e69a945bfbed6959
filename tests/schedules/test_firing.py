"""What becomes of the occurrences that are due, decided without a database."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy import Overlap, SkipReason
from trio_romancy._schedules.firing import AT_ONCE, MOST_BUFFERED, Decision, Skip, decide
from trio_romancy._schedules.rules import Rules

SECOND = 1_000_000
MINUTE = 60 * SECOND
NOW = 1_700_000_040 * SECOND  # on the minute
assert NOW % MINUTE == 0


def rules(overlap: Overlap = Overlap.SKIP, *, catch_up: int | None = None, jitter: int = 0) -> Rules:
    return Rules(None, MINUTE, "UTC", (), jitter, overlap, catch_up, pause_on_failure=False)


def decided(
    rules: Rules, ago: int, *, running: int = 0, buffered: tuple[int, ...] = (), asked: tuple[int, ...] = ()
) -> Decision:
    """Decide about what is due since so many minutes. Times are given and returned in minutes from now."""
    found = decide(
        "s",
        rules,
        NOW - ago * MINUTE,
        NOW,
        running=running,
        buffered=[NOW + each * MINUTE for each in buffered],
        asked=[NOW + each * MINUTE for each in asked],
    )

    def in_minutes(when: int) -> int:
        return (when - NOW) // MINUTE

    assert found.next_at is not None
    return Decision(
        in_minutes(found.next_at),
        [in_minutes(each) for each in found.starts],
        [in_minutes(each) for each in found.buffers],
        [
            Skip(in_minutes(one.due), one.reason, None if one.until is None else in_minutes(one.until))
            for one in found.skips
        ],
        found.cancels,
    )


def test_what_is_due_now_starts() -> None:
    assert decided(rules(), 0) == Decision(1, starts=[0])


def test_nothing_is_early() -> None:
    assert decided(rules(), -1) == Decision(1)


def test_of_many_that_were_missed_one_starts_and_the_others_are_one_row_of_the_log() -> None:
    assert decided(rules(), 50) == Decision(1, starts=[-50], skips=[Skip(-49, SkipReason.OVERLAP, 0)])


def test_all_that_were_missed_start_side_by_side_but_not_all_in_one_transaction() -> None:
    found = decided(rules(Overlap.ALLOW_ALL), 250)
    assert found.starts == list(range(-250, -250 + AT_ONCE))
    assert found.next_at == -250 + AT_ONCE


def test_what_is_too_late_is_one_row_of_the_log_however_long_it_was() -> None:
    found = decided(rules(Overlap.ALLOW_ALL, catch_up=10 * MINUTE), 10_000_000)
    assert found.starts == list(range(-10, 1))
    assert found.skips == [Skip(-10_000_000, SkipReason.TOO_LATE, -10)]


def test_the_buffer_has_an_end() -> None:
    buffered = tuple(range(-2000, -2000 + MOST_BUFFERED - 1))
    found = decided(rules(Overlap.BUFFER_ALL), 2, running=1, buffered=buffered)
    assert (found.buffers, [skip.due for skip in found.skips]) == ([-2], [-1, 0])


def test_one_waits_and_the_next_one_is_skipped() -> None:
    assert decided(rules(Overlap.BUFFER_ONE), 1, running=1) == Decision(
        1, buffers=[-1], skips=[Skip(0, SkipReason.OVERLAP)]
    )


def test_the_one_that_waits_for_a_cancellation_is_replaced_by_the_next() -> None:
    found = decided(rules(Overlap.CANCEL_OTHER), 1, running=1, buffered=(-2,))
    assert found == Decision(
        1, buffers=[0], skips=[Skip(-2, SkipReason.OVERLAP), Skip(-1, SkipReason.OVERLAP)], cancels=True
    )


def test_what_waits_goes_first_even_if_nothing_runs_any_more() -> None:
    assert decided(rules(Overlap.BUFFER_ALL), 0, buffered=(-1,)) == Decision(1, buffers=[0])


def test_what_an_operator_has_asked_to_skip_is_told_apart_from_an_overlap() -> None:
    found = decided(rules(), 5, running=1, asked=(-3,))
    assert found.skips == [
        Skip(-5, SkipReason.OVERLAP, -4 + 1),
        Skip(-3, SkipReason.ASKED),
        Skip(-2, SkipReason.OVERLAP, 0),
    ]
    assert found.next_at == 1


@given(
    overlap=st.sampled_from(Overlap),
    ago=st.integers(-1, 300),
    running=st.integers(0, 2),
    buffered=st.integers(0, 3),
    asked=st.sets(st.integers(-300, 0), max_size=5),
    jitter=st.sampled_from([0, 30 * SECOND, 5 * MINUTE]),
    catch_up=st.sampled_from([None, 20 * MINUTE]),
)
def test_each_occurrence_is_decided_about_exactly_once(
    overlap: Overlap, ago: int, running: int, buffered: int, asked: set[int], jitter: int, catch_up: int | None
) -> None:
    waiting = [NOW - (400 + number) * MINUTE for number in range(buffered)][::-1]
    begin = next_at = NOW - ago * MINUTE
    of = rules(overlap, catch_up=catch_up, jitter=jitter)
    decisions: list[tuple[int, int]] = []
    """Ranges of time, without their ends."""
    while True:
        found = decide(
            "s", of, next_at, NOW, running=running, buffered=waiting, asked=[NOW + one * MINUTE for one in asked]
        )
        assert found.next_at is not None
        replaced = [skip for skip in found.skips if skip.due in waiting]
        decisions += [(one, one + 1) for one in (*found.starts, *found.buffers)]
        decisions += [(one.due, one.until or one.due + 1) for one in found.skips if one not in replaced]
        waiting = [one for one in waiting if one not in {skip.due for skip in replaced}] + found.buffers
        running += len(found.starts)
        if found.next_at == next_at:
            break
        assert found.next_at > next_at
        next_at = found.next_at
    for minute in range(-ago, 1):
        when = NOW + minute * MINUTE
        covering = [one for one in decisions if one[0] <= when < one[1]]
        assert len(covering) == (1 if begin <= when < next_at else 0), minute
        assert covering or of.fires_at("s", when) > NOW or when >= next_at
    assert of.fires_at("s", next_at) > NOW


@pytest.mark.parametrize("overlap", Overlap)
def test_rules_are_read_as_they_were_stored(overlap: Overlap) -> None:
    made = Rules("0 0 * * *", None, "Europe/Berlin", ("2026-12-25", "* * * * SUN"), 5, overlap, None, True)
    assert Rules.from_text(made.to_text()) == made
