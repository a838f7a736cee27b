"""Checks of what people write in a talk, where there is no task yet: the answer's seal stands for it."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the seal, and let a check have no task; what was kept stays."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE answer_check ALTER COLUMN item_id DROP NOT NULL")
        op.add_column("answer_check", sa.Column("talk", sa.String(64), nullable=True))
    else:
        _made_anew()
    op.create_index("answer_check_in_talk", "answer_check", ["talk"])


def _made_anew() -> None:
    """SQLite takes no NOT NULL back: another table, with the rows and the triggers of this one."""
    op.drop_index("answer_check_of", "answer_check")
    op.rename_table("answer_check", "old_check")
    op.create_table(
        "answer_check",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=True),
        sa.Column("talk", sa.String(64), nullable=True),
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
    columns = "id, item_id, person_id, name, version, text_hash, said, created"
    op.execute(f"INSERT INTO answer_check ({columns}) SELECT {columns} FROM old_check")
    for change in ("update", "delete"):
        op.execute(f"DROP TRIGGER answer_check_{change}")
    op.drop_table("old_check")
    op.create_index("answer_check_of", "answer_check", ["item_id", "person_id"])
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER answer_check_{change.lower()} BEFORE {change} ON answer_check "
            "BEGIN SELECT RAISE(ABORT, 'checks are only ever added to'); END"
        )
