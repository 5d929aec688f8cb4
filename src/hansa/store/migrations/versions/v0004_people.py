"""People: accounts of the installation, members of projects, and whom a token acts for."""

import sqlalchemy as sa
from alembic import op

__all__ = ["branch_labels", "depends_on", "down_revision", "downgrade", "revision", "upgrade"]

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OF_NODES = "('client', 'combiner')"


def upgrade() -> None:
    """Make the tables. Tokens of the former role admin are revoked: nobody becomes a site administrator unasked."""
    op.create_table(
        "accounts",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("password", sa.Text(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_accounts"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "members",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("project", "id", name="uq_members"),
        sqlite_autoincrement=True,
    )
    op.add_column("tokens", sa.Column("account", sa.Text(), nullable=True))
    op.create_index("ix_tokens_account", "tokens", ["project", "account"])
    op.execute(f"UPDATE tokens SET revoked = true WHERE role NOT IN {_OF_NODES}")  # noqa: S608  # a constant


def downgrade() -> None:
    """Drop them, and the tokens of people, which an older version would take for an admin's or not know at all."""
    op.execute(f"DELETE FROM tokens WHERE role NOT IN {_OF_NODES}")  # noqa: S608  # a constant
    op.drop_index("ix_tokens_account", "tokens")
    op.drop_column("tokens", "account")
    op.drop_table("members")
    op.drop_table("accounts")
