"""The command line, ``trio-romancy``. It needs the extra ``trio_romancy[cli]``.

Each command is a file in ``commands``, listed in ``program``. What people read is written by ``terminal``.
"""
