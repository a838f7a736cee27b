"""What a team's lead needs: verdicts on labels, counts of what stands on a task, who did what."""

import json
from collections import defaultdict
from itertools import combinations
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

KEPT = ("verdict", "audit")
_ID, _WHEN = sa.Integer(), sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables, count what is there, and let nobody change verdicts and the log."""
    op.create_table(
        "verdict",
        sa.Column("id", _ID, nullable=False),
        sa.Column("label_id", _ID, nullable=False),
        sa.Column("person_id", _ID, nullable=False),
        sa.Column("said", sa.String(10), nullable=False),
        sa.Column("remark", sa.Text(), nullable=False),
        sa.Column("replaces", _ID, nullable=True),
        sa.Column("created", _WHEN, nullable=False),
        sa.ForeignKeyConstraint(["label_id"], ["label.id"]),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.ForeignKeyConstraint(["replaces"], ["verdict.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("replaces"),
    )
    op.create_index("ix_verdict_label_id", "verdict", ["label_id"])
    op.create_table(
        "summary",
        sa.Column("item_id", _ID, nullable=False),
        *(sa.Column(name, _ID, nullable=False) for name in ("answers", "undecided", "skips", "flags")),
        sa.Column("decided", sa.Boolean(), nullable=False),
        sa.Column("apart", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["item.id"]),
        sa.PrimaryKeyConstraint("item_id"),
    )
    op.create_index("summary_apart", "summary", ["decided", "apart", "item_id"])
    op.create_table(
        "audit",
        sa.Column("id", _ID, nullable=False),
        sa.Column("person_id", _ID, nullable=True),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("about", sa.String(20), nullable=False),
        sa.Column("about_id", _ID, nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("created", _WHEN, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    _count()
    _keep()


def _keep() -> None:
    for table in KEPT:
        if op.get_bind().dialect.name == "postgresql":
            op.execute(
                f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION only_added()"
            )
            continue
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table}s are only ever added to'); END"
            )


def _count() -> None:
    """The summary of each task with labels, as labeling.store.summary counts it."""
    connection = op.get_bind()
    found: dict[int, list[Any]] = defaultdict(list)
    query = sa.text(
        "SELECT item_id, kind, content, adjudicates FROM label WHERE kind <> 'withdrawn' "
        "AND suggestion_shown IS DISTINCT FROM 'machine' "
        "AND id NOT IN (SELECT replaces FROM label WHERE replaces IS NOT NULL)"
    )
    if connection.dialect.name == "sqlite":
        query = sa.text(query.text.replace("IS DISTINCT FROM", "IS NOT"))
    for item, kind, content, adjudicates in connection.execute(query):
        content = json.loads(content) if isinstance(content, str) else content
        found[item].append((kind, content, bool(adjudicates)))
    table = sa.table(
        "summary",
        *(sa.column(n) for n in ("item_id", "answers", "undecided", "skips", "flags", "decided", "apart")),
    )
    rows = [{"item_id": item, **_row(labels)} for item, labels in found.items()]
    if rows:
        connection.execute(table.insert(), rows)


def _row(labels: list[Any]) -> dict[str, Any]:
    own = [(kind, content) for kind, content, adjudicates in labels if kind != "skip" and not adjudicates]
    orders = [ranks for kind, content in own if (ranks := _ranks(content))]
    return {
        "answers": len(own),
        "undecided": len(own),
        "skips": sum(kind == "skip" for kind, *_ in labels),
        "flags": sum(any(content.get("flags") or ()) for _, content, _ in labels),
        "decided": any(adjudicates for *_, adjudicates in labels),
        "apart": _apart(orders),
    }


def _ranks(content: dict[str, Any]) -> list[int | None] | None:
    choices: dict[str, list[int | None]] = {"first": [1, 2], "second": [2, 1], "tie": [1, 1]}
    ranks = content.get("ranks") or choices.get(content.get("choice", ""))
    return ranks if ranks and sum(rank is not None for rank in ranks) > 1 else None


def _apart(orders: list[list[int | None]]) -> float:
    apart, pairs = 0.0, 0
    for one, other in combinations(orders, 2):
        for i, j in combinations(range(len(one)), 2):
            four = (one[i], one[j], other[i], other[j])
            if None not in four:
                signs = ((four[0] > four[1]) - (four[0] < four[1]), (four[2] > four[3]) - (four[2] < four[3]))  # type: ignore[operator]
                apart += abs(signs[0] - signs[1]) / 2
                pairs += 1
    return apart / pairs if pairs else -1.0
