"""The command line, ``trio-romancy``. It needs the extra ``trio_romancy[cli]``."""
