"""The version stands in one place."""

from __future__ import annotations

from importlib.metadata import version

import trio_romancy


def test_the_version_of_the_package_is_that_of_its_distribution() -> None:
    assert trio_romancy.__version__ == version("trio_romancy")
