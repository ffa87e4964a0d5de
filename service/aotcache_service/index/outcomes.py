"""Count what engines did with what they pulled. Called inside `Database.write`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from aotcache.errors import NotFoundError, UsageError
from aotcache.protocol.names import SHARED, TreeKey
from aotcache.protocol.record import MAX_SECONDS
from aotcache.protocol.v1.outcomes import LOADED, Outcome

from .models import OutcomeRow, PartRow, TreeRow
from .publishing import find_tree

# As MAX_SECONDS of one outcome, so that a sum of millions fits into its column.
_MAX_BYTES = 1 << 40


def count_outcome(db: Session, outcome: Outcome, now: int) -> tuple[TreeRow, float]:
    """The tree that it is about, and the seconds that it saved. Raises NotFoundError when this
    generation of the part is not in the index, and UsageError for seconds or bytes that no pull
    takes."""
    if not 0 <= outcome.seconds <= MAX_SECONDS or not 0 <= outcome.bytes <= _MAX_BYTES:
        raise UsageError(
            f"an outcome with {outcome.seconds} seconds and {outcome.bytes} bytes: no pull takes so"
        )
    key = TreeKey(
        namespace=outcome.namespace,
        layout=outcome.layout,
        hash=outcome.hash,
        platform=outcome.platform,
    )
    name = (outcome.part, outcome.generation)
    tree = find_tree(db, key)
    if tree is None:
        raise NotFoundError(f"{key} is not in the index: was it deleted?")
    part = db.scalar(
        select(PartRow).where(
            PartRow.tree_id == tree.id, PartRow.part == name[0], PartRow.generation == name[1]
        )
    )
    if part is None:
        raise NotFoundError(f"{key} has no {name[0]} of generation {name[1]}: was it deleted?")
    row = db.get(OutcomeRow, (tree.id, *name, outcome.outcome))
    if row is None:
        row = OutcomeRow(
            tree_id=tree.id,
            part=name[0],
            generation=name[1],
            outcome=outcome.outcome,
            count=0,
            pull_seconds=0.0,
            pulled_bytes=0,
            saved_seconds=0.0,
        )
        db.add(row)
    saved = _saved_seconds(tree, part, outcome)
    row.count += 1
    row.saved_seconds += saved
    row.pull_seconds += outcome.seconds
    row.pulled_bytes += outcome.bytes
    row.reason, row.node, row.last = outcome.reason, outcome.node, now
    return tree, saved


def _saved_seconds(tree: TreeRow, part: PartRow, outcome: Outcome) -> float:
    """A rank's share: all of them compile at the same time, and each tells. What did not load cost
    its pull; where the compile's seconds are not known, nothing is."""
    ranks = sum(one != SHARED for one in tree.expected_parts or tree.parts)
    compiled = part.compile_seconds if outcome.outcome == LOADED else 0.0
    return 0.0 if compiled is None else (compiled - outcome.seconds) / max(1, ranks)
