"""The norms of updates."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty: nobody has measured those of before."""
    op.add_column("contributions", sa.Column("norm", sa.Double(), nullable=True))


def downgrade() -> None:
    """Drop it: no link covers it."""
    op.drop_column("contributions", "norm")
