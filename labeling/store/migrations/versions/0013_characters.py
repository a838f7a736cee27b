"""How many characters there are to read in a task, so that a page of times need not read all texts."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_TOGETHER = 500


def upgrade() -> None:
    """Add the column, and count what is there."""
    op.add_column("item", sa.Column("characters", sa.Integer(), nullable=False, server_default=sa.text("0")))
    item = sa.table(
        "item", sa.column("id", sa.Integer), sa.column("prompt", sa.JSON), sa.column("characters", sa.Integer)
    )
    response = sa.table("response", sa.column("item_id", sa.Integer), sa.column("text", sa.Text))
    bind, last = op.get_bind(), 0
    written = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(response.c.text)), 0))
    of_item = written.where(response.c.item_id == item.c.id).scalar_subquery()
    some = sa.select(item.c.id, item.c.prompt, of_item).order_by(item.c.id).limit(_TOGETHER)
    while rows := bind.execute(some.where(item.c.id > last)).all():
        for id_, prompt, answers in rows:
            asked = sum(len(message["content"]) for message in prompt)
            bind.execute(item.update().where(item.c.id == id_).values(characters=asked + answers))
        last = rows[-1][0]
