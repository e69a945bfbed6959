"""What users can import is in the reference, and what the reference names can be imported."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import trio_romancy
import trio_romancy.aio
import trio_romancy.sync
import trio_romancy.testing

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"

_MODULE = re.compile(r"\.\. (?:current)?module:: ([\w.]+)$")
_NAME = re.compile(r"\.\. auto(?:class|data|exception|function|decorator):: ([\w.]+)")


def documented() -> set[str]:
    """The full names of what the reference documents. One without a module is of the module named last."""
    module = ""
    names = set()
    for line in REFERENCE.read_text("utf-8").splitlines():
        if found := _MODULE.match(line):
            module = found[1]
        elif found := _NAME.match(line):
            names.add(found[1] if "." in found[1] else f"{module}.{found[1]}")
    return names


@pytest.mark.parametrize(
    "module",
    [trio_romancy, trio_romancy.aio, trio_romancy.sync, trio_romancy.testing],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    missing = {f"{module.__name__}.{name}" for name in module.__all__} - documented()
    assert not missing


@pytest.mark.parametrize("name", sorted(documented()))
def test_what_the_reference_names_can_be_imported(name: str) -> None:
    if name.startswith("trio_romancy.otel."):
        pytest.importorskip("opentelemetry")
    module, _, last = name.rpartition(".")
    assert hasattr(importlib.import_module(module), last)
