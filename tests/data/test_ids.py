"""New ids are UUIDs of version 7: no two are the same, and later ones sort behind earlier ones."""

from __future__ import annotations

import os
import time
import uuid

import pytest

from trio_romancy._data import ids


def test_new_ids_are_distinct_uuids_of_version_7() -> None:
    made = [ids.new_id() for _ in range(1_000)]
    assert len(set(made)) == len(made)
    for id in made:
        parsed = uuid.UUID(id)
        assert str(parsed) == id
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


def test_an_id_begins_with_the_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(ids.new_id()).int >> 80
    assert before <= made <= time.time_ns() // 1_000_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_makes_ids_of_its_own() -> None:
    ids.new_id()  # some are drawn in advance
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(ids.new_id()[13:] for _ in range(10)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 10 * 23
    assert not any(ids.new_id()[13:] in theirs for _ in range(10))
