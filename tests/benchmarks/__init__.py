"""Benchmarks of trio_romancy, beside other systems.

``python -m tests.benchmarks`` runs all of them, prints tables and writes ``bench-results.json``. ``--quick`` is short
and rough, ``--only`` and ``--database`` choose. ``python -m tests.benchmarks.compare CHECKOUT`` compares two versions
of trio_romancy. Every measurement runs in a process of its own, started by ``fresh``.
"""
