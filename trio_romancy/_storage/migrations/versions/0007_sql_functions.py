"""``romancy_start``, by which programs in other languages start instances."""

from alembic.operations import Operations

from trio_romancy._storage.dialects import create_start_routine

revision = "0007"
down_revision = "0006"


def upgrade(op: Operations) -> None:
    create_start_routine(op.get_bind())
