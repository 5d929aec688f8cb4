"""The engines of sessions that were simulated."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty: all that there were ran on a network."""
    op.add_column("sessions", sa.Column("engine", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop it; what was simulated is a session like others then, which nobody can resume."""
    op.drop_column("sessions", "engine")
