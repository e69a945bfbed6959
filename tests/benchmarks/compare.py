"""Comparison of two versions of trio_romancy: ``python -m tests.benchmarks.compare CHECKOUT [--pairs 5]``.

``CHECKOUT`` is a directory with another version, such as a ``git worktree`` of a release. Each measurement runs on that
version and on this one, one directly after the other, and each version is first in every second pair, so that both meet
the same machine. Printed are the medians and their ratio: 1.05 means that the number of this version is 5 % higher.

Times of the CPU are those of the process that runs trio_romancy. They depend less on other load of the machine.

Both versions are measured by the programs of this checkout, with the same interpreter and the same dependencies. A
difference is therefore one of the library, not of the benchmark. For this, ``PYTHONPATH`` begins with a directory that
contains only a link to the ``trio_romancy`` of one checkout, and the programs that are compared use only the public API
and the database tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import field, frozen

from . import fresh, table
from .databases import NAMES, open_place
from .replay import ENTRIES
from .throughput import CONCURRENCIES

BENCHMARKS = ("throughput", "latency", "memory", "replay")

_HERE = Path(__file__).resolve().parent.parent.parent

Measure = Callable[[str, Path], tuple[float, ...]]
"""Measures once, given a place for databases and a directory with the library. Returns a number for each quantity."""


@frozen
class Quantity:
    """A number to compare."""

    name: str
    unit: str
    better: str
    """``"higher"`` or ``"lower"``."""


@frozen
class Comparison:
    """The results of one quantity on one database, in pairs."""

    database: str
    quantity: Quantity
    other: list[float] = field(factory=list)
    here: list[float] = field(factory=list)

    def to_document(self) -> dict[str, Any]:
        """Return all numbers as JSON data."""
        return {
            "database": self.database,
            "measurement": self.quantity.name,
            "unit": self.quantity.unit,
            "better": self.quantity.better,
            "other": self.other,
            "here": self.here,
            "ratio": statistics.median(self.here) / statistics.median(self.other),
        }

    def to_row(self) -> list[str]:
        """Return the medians, their ratio, and the lowest and highest ratio of a pair."""
        ratios = sorted(here / other for here, other in zip(self.here, self.other, strict=True))
        other, here = statistics.median(self.other), statistics.median(self.here)
        return [
            f"{NAMES[self.database]}, {self.quantity.name}",
            self.quantity.unit,
            f"{other:,.4g}" if other < 1000 else f"{other:,.0f}",
            f"{here:,.4g}" if here < 1000 else f"{here:,.0f}",
            f"{here / other:.3f}",
            f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            self.quantity.better,
        ]


_HEADS = ("measurement", "unit", "other", "here", "here / other", "pairs", "better")


def main() -> None:
    """Compare, print a table, and write the numbers of each pair to a file."""
    options = _parse()
    with ExitStack() as exits:
        scratch = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        os.environ["PYTHONPYCACHEPREFIX"] = str(scratch / "pycache")  # neither checkout is written to
        other, here = _link(scratch / "other", options.checkout.resolve()), _link(scratch / "here", _HERE)
        places = {kind: exits.enter_context(open_place(kind)) for kind in options.database}
        steps = [
            (places[kind], measure, [Comparison(kind, quantity) for quantity in quantities])
            for kind in places
            for measure, quantities in _measurements(options.only, quick=options.quick)
        ]
        for pair in range(options.pairs or (1 if options.quick else 5)):
            for place, measure, results in steps:
                for is_other in (True, False) if pair % 2 == 0 else (False, True):
                    numbers = measure(place, other if is_other else here)
                    for result, number in zip(results, numbers, strict=True):
                        (result.other if is_other else result.here).append(number)
                for result in results:
                    print(f"pair {pair + 1}: {'  '.join(result.to_row())}", file=sys.stderr, flush=True)
    comparisons = [result for _, _, results in steps for result in results]
    title = f"{options.checkout} (other) and this checkout (here): medians, and the range of the pairs"
    print(table.render(title, _HEADS, [comparison.to_row() for comparison in comparisons]))
    if options.output is not None:
        documents = [comparison.to_document() for comparison in comparisons]
        options.output.write_text(json.dumps(documents, indent=2) + "\n")


def _link(directory: Path, checkout: Path) -> Path:
    """Make a directory from which Python imports the ``trio_romancy`` of a checkout and nothing else."""
    directory.mkdir()
    (directory / "trio_romancy").symlink_to(checkout / "trio_romancy", target_is_directory=True)
    found = subprocess.run(
        [sys.executable, "-c", "import trio_romancy; print(trio_romancy.__file__)"],
        cwd=directory.parent,
        env=os.environ | {"PYTHONPATH": fresh.python_path(directory)},
        check=True,
        capture_output=True,
        text=True,
    )
    imported = Path(found.stdout.strip()).resolve()
    if imported != checkout / "trio_romancy" / "__init__.py":
        sys.exit(f"Python imports {imported}, not the trio_romancy of {checkout}")
    return directory


def _measurements(names: Collection[str], *, quick: bool) -> Iterator[tuple[Measure, list[Quantity]]]:
    if "throughput" in names:
        for clients in CONCURRENCIES:
            name = f"throughput, {clients} at a time"
            quantities = [Quantity(name, "workflows/s", "higher"), Quantity(name, "µs of CPU", "lower")]
            yield _throughput(clients, 1.0 if quick else 6.0), quantities
    if "latency" in names:
        yield _latency(2 if quick else 5), [Quantity("latency", "ms", "lower")]
    if "memory" in names:
        for state in ("resident", "passive"):
            yield _memory(state, 1_000 if quick else 10_000), [Quantity(f"memory, {state}", "bytes", "lower")]
    if "replay" in names:
        for entries in ENTRIES:
            name = f"replay, {entries:,} entries"
            quantities = [Quantity(name, "ms", "lower"), Quantity(name, "ms of CPU", "lower")]
            yield _replay(entries, 1 if quick else 5), quantities


def _throughput(clients: int, seconds: float) -> Measure:
    def measure(place: str, library: Path) -> tuple[float, ...]:
        run = fresh.ask("one_run", "ours", place, clients, seconds, library=library)
        return run["workflows_per_second"], run["cpu_us"]

    return measure


def _latency(rounds: int) -> Measure:
    def measure(place: str, library: Path) -> tuple[float, ...]:
        return (statistics.median(fresh.ask("latency", place, 300, rounds, library=library)["activity_ms"]),)

    return measure


def _memory(state: str, count: int) -> Measure:
    def measure(place: str, library: Path) -> tuple[float, ...]:
        return (fresh.ask("memory", state, place, count, library=library) / count,)

    return measure


def _replay(entries: int, times: int) -> Measure:
    def measure(place: str, library: Path) -> tuple[float, ...]:
        found = fresh.ask("replay", place, entries, times, library=library)
        return statistics.median(found["ms"]), statistics.median(found["cpu_ms"])

    return measure


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare", description="Compare two versions of trio_romancy.")
    parser.add_argument("checkout", type=Path, help="a directory with the other version")
    parser.add_argument("--quick", action="store_true", help="short and rough: one pair, to see that everything works")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, help="default: all of them")
    parser.add_argument("--database", nargs="+", choices=tuple(NAMES), default=["sqlite"], help="default: sqlite")
    parser.add_argument("--pairs", type=int, help="of runs for each measurement; default: 5")
    parser.add_argument("--output", type=Path, help="a file for the numbers of each pair, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
