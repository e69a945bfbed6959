"""Requests to end an instance are read as they are written, and as earlier releases have written them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_romancy._data.end_request import EndRequest

text = st.none() | st.text(max_size=20)
flags = st.booleans()


@given(text, st.none() | st.integers(0, 2**53), flags, flags, flags)
def test_what_is_written_is_read_back(
    reason: str | None, at: int | None, by_parent: bool, terminates: bool, compensates: bool
) -> None:
    request = EndRequest(reason, at, by_parent, terminates, terminates and compensates)
    assert EndRequest.from_text(request.to_text()) == request


@pytest.mark.parametrize(("stored", "reason"), [("null", None), ('"too slow"', "too slow"), ('"{}"', "{}")])
def test_a_request_of_an_earlier_release_is_its_reason_alone(stored: str, reason: str | None) -> None:
    assert EndRequest.from_text(stored) == EndRequest(reason)
