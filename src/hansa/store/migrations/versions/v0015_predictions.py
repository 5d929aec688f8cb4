"""What models predict of clients' data."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def _seq() -> sa.Column[int]:
    return sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "predictions",
        _seq(),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "project", "name", "model")),
        sa.Column("package", sa.Text(), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("asked", sa.BigInteger(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.UniqueConstraint("project", "id", name="uq_predictions"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_predictions_state", "predictions", ["project", "state"])
    op.create_index("ix_predictions_model", "predictions", ["model"])
    op.create_table(
        "answers",
        _seq(),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "project", "prediction", "client")),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("document", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_answers"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_answers_prediction", "answers", ["project", "prediction"])


def downgrade() -> None:
    """Drop them: an older version asks for no predictions."""
    op.drop_table("answers")
    op.drop_table("predictions")
