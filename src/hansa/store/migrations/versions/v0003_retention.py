"""What is pruned: policies of sessions, marks of what they gave up, and the objects that are still to be removed."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, empty: whatever is there is kept."""
    op.add_column("sessions", sa.Column("keep", sa.Text(), nullable=True))
    op.add_column("rounds", sa.Column("state_pruned_at", sa.Double(), nullable=True))
    op.add_column("models", sa.Column("pruned_at", sa.Double(), nullable=True))
    op.add_column("models", sa.Column("pruned_by", sa.Text(), nullable=True))
    op.create_index("ix_rounds_state", "rounds", ["state"])
    op.create_index("ix_models_id", "models", ["id"])
    op.create_table("removals", sa.Column("digest", sa.Text(), primary_key=True))


def downgrade() -> None:
    """Drop them: an older version takes what was pruned for lost."""
    op.drop_table("removals")
    op.drop_index("ix_models_id", "models")
    op.drop_index("ix_rounds_state", "rounds")
    op.drop_column("models", "pruned_by")
    op.drop_column("models", "pruned_at")
    op.drop_column("rounds", "state_pruned_at")
    op.drop_column("sessions", "keep")
