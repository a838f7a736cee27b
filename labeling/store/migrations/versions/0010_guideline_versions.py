"""The guideline's versions in their order, and who wrote each."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table; the versions that are there came from files."""
    op.create_table(
        "guideline_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("person_id", sa.Integer(), nullable=True),
        sa.Column("remark", sa.Text(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["hash"], ["guideline.hash"]),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute(
        "INSERT INTO guideline_version (hash, remark, created) "
        "SELECT hash, '', created FROM guideline ORDER BY created, hash"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER guideline_version_kept BEFORE UPDATE OR DELETE ON guideline_version "
            "FOR EACH ROW EXECUTE FUNCTION only_added()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER guideline_version_{change.lower()} BEFORE {change} ON guideline_version "
            "BEGIN SELECT RAISE(ABORT, 'guideline versions are only ever added to'); END"
        )
