"""``python -m trio_romancy`` is the command line."""

from .cli.main import main

main()
