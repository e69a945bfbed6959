"""All benchmarks: ``python -m tests.benchmarks`` prints tables and writes ``bench-results.json``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.servers import ServerMissingError

from . import (
    distant,
    elsewhere,
    events,
    idle,
    in_flight,
    latency,
    memory,
    passive,
    recur,
    replay,
    scaling,
    search,
    server_durability,
    systems,
    takeover,
    throughput,
    timers,
    wake,
)
from .databases import FILES, NAMES, open_place
from .disk import sync_ms

_ALL = (
    "throughput",
    "latency",
    "elsewhere",
    "replay",
    "memory",
    "wake",
    "events",
    "timers",
    "in_flight",
    "passive",
    "takeover",
    "scaling",
    "idle",
    "distant",
    "search",
    "recur",
)


def main() -> None:
    options = _parse()
    with ExitStack() as exits:
        places, missing = _open_places(options.database or NAMES, exits)
        if options.database and missing:
            sys.exit("\n".join(f"{NAMES[kind]}: {why}" for kind, why in missing.items()))
        results: dict[str, Any] = {"environment": _environment(places), "missing": missing}
        print(_introduction(results["environment"], missing), flush=True)
        _measure(options, places, results)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    _say(f"written to {options.output}")


def _open_places(kinds: Iterable[str], exits: ExitStack) -> tuple[dict[str, str], dict[str, str]]:
    """Return a place for databases of each kind, and the reason for each kind that has none."""
    places, missing = {}, {}
    for kind in kinds:
        try:
            places[kind] = exits.enter_context(open_place(kind))
        except ServerMissingError as error:
            missing[kind] = str(error)
    return places, missing


def _measure(options: argparse.Namespace, places: dict[str, str], results: dict[str, Any]) -> None:
    if "throughput" in options.only:
        repetitions = options.repetitions or (1 if options.quick else 3)
        seconds = options.seconds or (1.0 if options.quick else 6.0)
        results["throughput"] = {}
        for kind, place in places.items():
            found = throughput.measure(kind, place, seconds, repetitions, _say)
            results["throughput"][kind] = found
            print(f"\n{throughput.show(kind, found)}\n", flush=True)
    if "latency" in options.only:
        rounds = 2 if options.quick else 7
        results["latency"] = {kind: latency.measure(kind, place, 300, rounds, _say) for kind, place in places.items()}
        print(f"\n{latency.show(results['latency'])}\n", flush=True)
    if "elsewhere" in options.only:
        rounds = 2 if options.quick else 9
        found = {kind: elsewhere.measure(kind, place, 100, rounds, _say) for kind, place in places.items()}
        results["elsewhere"] = found
        print(f"\n{elsewhere.show(found)}\n", flush=True)
    if "replay" in options.only:
        results["replay"] = replay.measure(1 if options.quick else 5, _say)
        print(f"\n{replay.show(results['replay'])}\n", flush=True)
    if "memory" in options.only:
        results["memory"] = memory.measure(1_000 if options.quick else 10_000, _say)
        print(f"\n{memory.show(results['memory'])}\n", flush=True)
    _measure_waiting(options, places, results)
    _measure_processes(options, places, results)


def _measure_waiting(options: argparse.Namespace, places: dict[str, str], results: dict[str, Any]) -> None:
    """Run the benchmarks of workflows that wait for events and timers."""
    if "wake" in options.only:
        samples, seconds = (20, 4.0) if options.quick else (300, 20.0)
        results["wake"] = {kind: wake.measure(kind, place, samples, seconds, _say) for kind, place in places.items()}
        print(f"\n{wake.show(results['wake'])}\n", flush=True)
    if "events" in options.only:
        repetitions = options.repetitions or 1
        seconds = options.seconds or (1.0 if options.quick else 4.0)
        results["events"] = {}
        for kind, place in places.items():
            found = events.measure(kind, place, seconds, repetitions, _say)
            results["events"][kind] = found
            print(f"\n{events.show(kind, found)}\n", flush=True)
    if "timers" in options.only:
        count, spread = (500, 4.0) if options.quick else (10_000, 30.0)
        results["timers"] = {kind: timers.measure(kind, place, count, spread, _say) for kind, place in places.items()}
        print(f"\n{timers.show(results['timers'])}\n", flush=True)
    if "in_flight" in options.only:
        counts = (100, 400) if options.quick else in_flight.COUNTS
        results["in_flight"] = {kind: in_flight.measure(kind, place, counts, _say) for kind, place in places.items()}
        print(f"\n{in_flight.show(results['in_flight'])}\n", flush=True)
    if "passive" in options.only:
        count = 1_000 if options.quick else 100_000
        results["passive"] = {kind: passive.measure(kind, place, count, _say) for kind, place in places.items()}
        print(f"\n{passive.show(results['passive'])}\n", flush=True)


def _measure_processes(options: argparse.Namespace, places: dict[str, str], results: dict[str, Any]) -> None:
    """Run the benchmarks of many instances, and of several processes on one database."""
    if "takeover" in options.only:
        count, lease = (100, 2.0) if options.quick else (1_000, 10.0)
        results["takeover"] = {
            kind: takeover.measure(kind, place, count, lease, _say) for kind, place in places.items()
        }
        print(f"\n{takeover.show(results['takeover'])}\n", flush=True)
    if "scaling" in options.only:
        most = 2 if options.quick else 4
        repetitions = options.repetitions or 1
        seconds = options.seconds or (1.0 if options.quick else 6.0)
        results["scaling"] = {
            kind: scaling.measure(kind, place, most, seconds, repetitions, _say) for kind, place in places.items()
        }
        print(f"\n{scaling.show(results['scaling'])}\n", flush=True)
    if "idle" in options.only:
        counts, quiet, seconds = ((0,), 11.0, 5.0) if options.quick else ((0, 1_000), 15.0, 20.0)
        results["idle"] = {
            kind: idle.measure(kind, place, counts, quiet, seconds, _say) for kind, place in places.items()
        }
        print(f"\n{idle.show(results['idle'])}\n", flush=True)
    if "distant" in options.only:
        samples, pause = (20, 0.2) if options.quick else (200, 1.0)
        results["distant"] = {
            kind: distant.measure(kind, place, samples, pause, _say) for kind, place in places.items()
        }
        print(f"\n{distant.show(results['distant'])}\n", flush=True)
    if "recur" in options.only:
        results["recur"] = recur.measure(10_000 if options.quick else 1_000_000, _say)
        print(f"\n{recur.show(results['recur'])}\n", flush=True)
    if "search" in options.only:
        results["search"] = {}
        for kind, place in places.items():
            count, samples = (20_000, 50) if options.quick else (100_000 if kind == "sqlite" else 1_000_000, 1_000)
            results["search"][kind] = search.measure(kind, place, count, samples, _say)
        print(f"\n{search.show(results['search'])}\n", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure trio_romancy, and compare it.")
    parser.add_argument("--quick", action="store_true", help="short and rough: to see that everything works")
    parser.add_argument("--only", nargs="+", choices=_ALL, default=_ALL, help="default: all of them")
    parser.add_argument(
        "--database",
        nargs="+",
        choices=tuple(NAMES),
        help="for all but replay, memory and recur; default: every available one",
    )
    parser.add_argument(
        "--repetitions", type=int, help="of each measurement of throughput, events and scaling; the median counts"
    )
    parser.add_argument("--seconds", type=float, help="for each measurement of throughput, events and scaling")
    parser.add_argument("--output", type=Path, default=Path("bench-results.json"), help="default: %(default)s")
    return parser.parse_args()


def _environment(places: dict[str, str]) -> dict[str, Any]:
    servers = {kind: place for kind, place in places.items() if place != FILES}
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "databases": {"sqlite": sqlite3.sqlite_version}
        | {kind: server_durability.version(place) for kind, place in servers.items()},
        "durability": {kind: server_durability.settings(place) for kind, place in servers.items()},
        "disk_sync_ms": sync_ms(),
        "versions": {name: systems.version(name) for name in _distributions()},
    }


def _distributions() -> list[str]:
    drivers = ["aiomysql", "asyncpg"]
    return list(dict.fromkeys([*(system.distribution for system in systems.SYSTEMS.values()), *drivers]))


def _introduction(environment: dict[str, Any], missing: dict[str, str]) -> str:
    found = [f"{NAMES[kind]} {version}" for kind, version in environment["databases"].items()]
    return "\n".join(
        [
            f"{environment['python']}, {environment['system']}, {environment['cpus']} CPUs, "
            f"{environment['disk_sync_ms']:.2f} ms until a page is on disk",
            ", ".join(found),
            ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version),
            *(f"NOT MEASURED: {NAMES[kind]}: {why}" for kind, why in missing.items()),
        ]
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
