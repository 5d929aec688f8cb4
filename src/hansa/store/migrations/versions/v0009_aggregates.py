"""What a round has added to the model, kept by a policy, so that the model can be computed anew."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, empty: of the rounds that there are nothing was kept."""
    op.add_column("rounds", sa.Column("aggregate", sa.Text(), nullable=True))
    op.add_column("rounds", sa.Column("aggregate_size", sa.BigInteger(), nullable=True))
    op.add_column("rounds", sa.Column("aggregate_weight", sa.BigInteger(), nullable=True))
    op.add_column("rounds", sa.Column("aggregate_pruned_at", sa.Double(), nullable=True))
    op.create_index("ix_rounds_aggregate", "rounds", ["aggregate"])


def downgrade() -> None:
    """Drop them; the link of a round that had one covers it, and does not hold any more."""
    op.drop_index("ix_rounds_aggregate", "rounds")
    for name in ("aggregate_pruned_at", "aggregate_weight", "aggregate_size", "aggregate"):
        op.drop_column("rounds", name)
