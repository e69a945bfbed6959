"""Run by alembic, with the connection that :func:`trio_romancy.storage.migrations.migrate` gives it."""

from alembic import context

from trio_romancy.storage.migrations import VERSION_TABLE
from trio_romancy.storage.schema import metadata

# The caller holds a transaction open: all steps commit together, and only one worker at a time takes them.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
