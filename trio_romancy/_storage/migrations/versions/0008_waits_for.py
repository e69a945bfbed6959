"""What an instance waits for, for people."""

import sqlalchemy as sa
from alembic.operations import Operations

from trio_romancy._storage.dialects.sql import long_text

revision = "0008"
down_revision = "0007"


def upgrade(op: Operations) -> None:
    # Where each step commits by itself, a process that died half way has left some of this.
    if "waits_for" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("romancy_instances")}:
        comment = "operations in flight when its status was stored last, for people"
        op.add_column("romancy_instances", sa.Column("waits_for", long_text(), comment=comment))
