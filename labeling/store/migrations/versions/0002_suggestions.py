"""What reward models suggest, and on each label what of it was shown and taken."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of suggestions, and the columns that name one."""
    op.create_table(
        "suggestion",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("scores", sa.JSON(), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("draw", sa.Float(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"]),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("item_id", "version"),
    )
    # Plain SQL: alembic's way on SQLite makes the table anew, and its triggers would be gone.
    for table in ("label", "draft"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN suggestion_id INTEGER REFERENCES suggestion (id)")
        op.execute(f"ALTER TABLE {table} ADD COLUMN suggestion_shown VARCHAR(10)")
    op.execute("ALTER TABLE label ADD COLUMN suggestion_taken BOOLEAN")
    op.execute("ALTER TABLE label ADD COLUMN suggestion_agreed FLOAT")
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER suggestion_kept BEFORE UPDATE OR DELETE ON suggestion "
            "FOR EACH ROW EXECUTE FUNCTION only_added()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER suggestion_{change.lower()} BEFORE {change} ON suggestion "
            "BEGIN SELECT RAISE(ABORT, 'suggestions are only ever added to'); END"
        )
