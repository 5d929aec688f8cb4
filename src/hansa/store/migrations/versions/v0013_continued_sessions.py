"""Sessions that were continued beyond their rounds, and what the models of sessions are called."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, empty: no session was continued, and no model of one had a name."""
    op.add_column("sessions", sa.Column("further", sa.BigInteger(), nullable=True))
    op.add_column("sessions", sa.Column("model_prefix", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop them: to an older version a continued session has finished, and named models are kept."""
    op.drop_column("sessions", "model_prefix")
    op.drop_column("sessions", "further")
