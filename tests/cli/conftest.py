"""A database with something to see, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .terminal import fill


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a database with instances in all conditions."""
    database = str(tmp_path_factory.mktemp("cli") / "shop.db")
    fill(database)
    assert Path(database).exists()
    return database
