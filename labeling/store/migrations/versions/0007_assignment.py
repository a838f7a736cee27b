"""Tasks that are hidden, and those for some people only: by name, skill or language."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column and the two tables."""
    op.add_column("item", sa.Column("hidden", sa.DateTime(timezone=True), nullable=True))
    for table, of in (("need", "item"), ("ability", "person")):
        op.create_table(
            table,
            sa.Column(f"{of}_id", sa.Integer(), nullable=False),
            sa.Column("kind", sa.String(10), nullable=False),
            sa.Column("value", sa.String(80), nullable=False),
            sa.ForeignKeyConstraint([f"{of}_id"], [f"{of}.id"]),
            sa.PrimaryKeyConstraint(f"{of}_id", "kind", "value"),
        )
