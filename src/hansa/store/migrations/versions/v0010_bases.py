"""The rounds whose models the updates of asynchronous runs were made from."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty: there was no such run."""
    op.add_column("contributions", sa.Column("base", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop it; the link of a round of such a run covers it, and does not hold any more."""
    op.drop_column("contributions", "base")
