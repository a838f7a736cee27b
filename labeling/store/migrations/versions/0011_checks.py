"""Checks that people asked for of their own answers, and on a label those that went before it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the table, add the column, and let nobody change what a check said."""
    op.add_column("label", sa.Column("checks", sa.JSON(), nullable=True))
    op.create_table(
        "answer_check",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(64), nullable=True),
        sa.Column("text_hash", sa.String(64), nullable=False),
        sa.Column("said", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"]),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("answer_check_of", "answer_check", ["item_id", "person_id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER answer_check_kept BEFORE UPDATE OR DELETE ON answer_check "
            "FOR EACH ROW EXECUTE FUNCTION only_added()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER answer_check_{change.lower()} BEFORE {change} ON answer_check "
            "BEGIN SELECT RAISE(ABORT, 'checks are only ever added to'); END"
        )
