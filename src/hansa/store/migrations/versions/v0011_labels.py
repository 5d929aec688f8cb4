"""Labels that operators give clients."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: nobody has any."""
    op.add_column("clients", sa.Column("assigned", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Drop it: an older version knows only what clients say of themselves."""
    op.drop_column("clients", "assigned")
