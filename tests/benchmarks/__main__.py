"""All benchmarks: ``python -m tests.benchmarks [--quick]`` prints tables and writes ``bench-results.json``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import memory
import replay
import throughput
from disk import sync_ms
from systems import SYSTEMS

_ALL = ("throughput", "replay", "memory")


def main() -> None:
    options = _parse()
    results: dict[str, Any] = {"environment": _environment()}
    print(_introduction(results["environment"]), flush=True)
    if "throughput" in options.only:
        repetitions = options.repetitions or (1 if options.quick else 3)
        seconds = options.seconds or (1.0 if options.quick else 6.0)
        found = throughput.measure(seconds, repetitions, _say)
        results["throughput"] = found
        print(f"\n{throughput.show(found)}\n", flush=True)
    if "replay" in options.only:
        results["replay"] = replay.measure(1 if options.quick else 5, _say)
        print(f"\n{replay.show(results['replay'])}\n", flush=True)
    if "memory" in options.only:
        results["memory"] = memory.measure(1_000 if options.quick else 10_000, _say)
        print(f"\n{memory.show(results['memory'])}\n", flush=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    _say(f"written to {options.output}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure trio_romancy, and compare it.")
    parser.add_argument("--quick", action="store_true", help="short and rough: to see that everything works")
    parser.add_argument("--only", nargs="+", choices=_ALL, default=_ALL, help="default: all of them")
    parser.add_argument("--repetitions", type=int, help="of each throughput measurement; the median counts")
    parser.add_argument("--seconds", type=float, help="that each throughput measurement takes about")
    parser.add_argument("--output", type=Path, default=Path("bench-results.json"), help="default: %(default)s")
    return parser.parse_args()


def _environment() -> dict[str, Any]:
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "sqlite": sqlite3.sqlite_version,
        "disk_sync_ms": sync_ms(),
        "versions": {system.distribution: system.version() for system in SYSTEMS.values()},
    }


def _introduction(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items() if version)
    return (
        f"{environment['python']}, {environment['system']}, {environment['cpus']} CPUs, "
        f"SQLite {environment['sqlite']}, {environment['disk_sync_ms']:.2f} ms until a page is on disk\n{versions}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
