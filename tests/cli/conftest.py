"""A database with something to see, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .terminal import ROOT, environment


def fill(database: str) -> None:
    """Make the instances of the shop there."""
    subprocess.run(
        [sys.executable, "-m", "tests.cli.shop", database], cwd=ROOT, env=environment(None), timeout=60, check=True
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a database with instances in all conditions."""
    database = str(tmp_path_factory.mktemp("cli") / "shop.db")
    fill(database)
    assert Path(database).exists()
    return database
