"""A draft's revision: which of two versions is the later one, whatever the clocks say."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; what is there already is revision 0."""
    op.execute("ALTER TABLE draft ADD COLUMN revision INTEGER DEFAULT 0 NOT NULL")
