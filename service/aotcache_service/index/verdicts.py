"""What nodes say of parts that they pulled, and when that is enough to stop serving one."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from aotcache.protocol.v1.outcomes import CRASHED, LOAD_FAILED, LOADED, OTHER_SOURCE, Outcome

from .models import PartRow, TreeRow, VerdictRow
from .operation import TokenRow
from .publishing import quarantine_of
from .rows import tree_key
from .tokens import usable

# Nodes whose word is kept for one part: names are free, and whoever reads may tell. Of one token
# half of them: the others' success is heard.
MOST = 1000
_SAID = 5  # reasons that a quarantine names
_FAILURES = (LOAD_FAILED, CRASHED)


def hear(
    db: Session, tree: TreeRow, outcome: Outcome, token: str, nodes: int, now: int
) -> tuple[int, str] | None:
    """Keep a node's word, and say which generation is to be quarantined, and why: `nodes` nodes or
    more failed with it, and none loaded it. Where there are tokens, one token's word is not enough,
    however many nodes it names. nodes: 0 for never."""
    part = _served(db, tree, outcome.part)
    if not nodes or part is None or outcome.outcome not in (LOADED, *_FAILURES):
        return None
    if outcome.outcome == LOAD_FAILED and OTHER_SOURCE in outcome.reason:
        return None  # two builds of one version: good for the other
    replaced = quarantine_of(db, tree_key(tree), outcome.part)
    if replaced is not None and outcome.generation <= replaced.generation:
        return None  # said of what is not served any more
    _keep(db, tree, outcome, token, now)
    if outcome.outcome == LOADED:
        return None  # and of a thousand nodes that load it none reads what all the others said
    of_part = (VerdictRow.tree_id == tree.id, VerdictRow.part == outcome.part)
    said = list(db.scalars(select(VerdictRow).where(*of_part)))
    if named := {row.token for row in said} - {""}:
        # Of a token that is revoked or expired nothing counts any more, nor what came without one.
        good = set(db.scalars(select(TokenRow.id).where(TokenRow.id.in_(named), *usable(now))))
        said = [row for row in said if row.token in good]
        if len(good) < 2:
            return None
    failed = {row.node: row for row in said if row.failed}
    if len(failed) < nodes or not all(row.failed for row in said):
        return None
    reasons = [
        f"{row.node or 'a node'}: {row.outcome}{f' ({row.reason[:200]})' if row.reason else ''}"
        for row in sorted(failed.values(), key=lambda row: -row.last)
    ]
    more = [f"{len(reasons) - _SAID} more"] if len(reasons) > _SAID else []
    return part.generation, "; ".join(reasons[:_SAID] + more)


def _served(db: Session, tree: TreeRow, part: str) -> PartRow | None:
    return db.scalar(
        select(PartRow).where(PartRow.tree_id == tree.id, PartRow.part == part, PartRow.newest)
    )


def _keep(db: Session, tree: TreeRow, outcome: Outcome, token: str, now: int) -> None:
    row = db.get(VerdictRow, (tree.id, outcome.part, token, outcome.node))
    if row is None:
        of_part = (VerdictRow.tree_id == tree.id, VerdictRow.part == outcome.part)
        count = func.count().label("words")
        words = select(VerdictRow.token, count).where(*of_part).group_by(VerdictRow.token)
        kept = {row.token: row.words for row in db.execute(words)}
        if sum(kept.values()) >= MOST or (token and kept.get(token, 0) >= MOST // 2):
            return
        row = VerdictRow(tree_id=tree.id, part=outcome.part, token=token, node=outcome.node)
        db.add(row)
    row.failed = outcome.outcome in _FAILURES
    row.outcome, row.reason, row.last = outcome.outcome, outcome.reason, now
    db.flush()
