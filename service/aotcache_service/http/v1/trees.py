"""`GET /v1/trees`, `GET|DELETE /v1/trees/{hash}`, `PUT|DELETE /v1/trees/{hash}/pin`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from aotcache.errors import InvalidNameError
from aotcache.protocol.names import (
    DEFAULT_NAMESPACE,
    LAYOUTS,
    check_hash,
    check_layout,
    check_namespace,
    check_platform_id,
)
from aotcache.protocol.v1.trees import MAX_LIMIT, Deleted, Pinned, TreeDetails, TreePage

from ...auth import ADMIN, READ
from ...index.listing import Filter, list_trees, tree_details
from ...ops.delete import delete_trees
from ...ops.pin import pin, unpin
from ..access import CallerDep
from ..audit import audited
from ..context import ContextDep
from ..errors import problems

router = APIRouter(tags=["trees"])

Text = Annotated[str, Query(max_length=1024)]
PlatformId = Annotated[str, Query(max_length=32, description="A platform's id; empty: of any")]
# The values of protocol.v1.trees.SORTS: a test holds the two together.
Sort = Literal["created", "used", "hash", "raw_bytes", "stored_bytes"]


@router.get("/trees", responses=problems(400))
def get_trees(
    *,
    context: ContextDep,
    caller: CallerDep,
    namespace: Text = "",
    layout: Text = "",
    hash: Annotated[str, Query(max_length=128, description="The start of the hash")] = "",
    engine: Text = "",
    model: Text = "",
    platform: PlatformId = "",
    publisher: Text = "",
    pinned: bool = False,
    quarantined: bool = False,
    sort: Sort = "created",
    order: Literal["asc", "desc"] = "desc",
    cursor: Text = "",
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 100,
) -> TreePage:
    """What is stored, a page at a time: pass `cursor` back with the same filter and sort. Without
    a namespace: in all that the token is for."""
    if namespace:
        caller.require(READ, check_namespace(namespace))
        namespaces: frozenset[str] | None = frozenset((namespace,))
    else:
        namespaces = caller.namespaces
    wanted = Filter(
        namespaces=namespaces,
        layout=layout and check_layout(layout),
        hash=hash,
        platform_id=platform and check_platform_id(platform),
        engine=engine,
        model=model,
        publisher=publisher,
        pinned=pinned,
        quarantined=quarantined,
    )
    with context.database.read() as db:
        return list_trees(db, wanted, sort=sort, order=order, cursor=cursor, limit=limit)


@router.get("/trees/{hash}", responses=problems(400, 404))
def get_tree(
    context: ContextDep,
    caller: CallerDep,
    hash: str,
    namespace: Text = DEFAULT_NAMESPACE,
    layout: Text = "",
    platform: PlatformId = "",
) -> TreeDetails:
    """Every tree of one hash: one per layout and platform."""
    caller.require(READ, check_namespace(namespace))
    with context.database.read() as db:
        return tree_details(db, _of_hash(hash, namespace, layout, platform))


async def _to_change(
    caller: CallerDep,
    hash: str,
    namespace: Text = DEFAULT_NAMESPACE,
    layout: Text = "",
    platform: PlatformId = "",
) -> Filter:
    """The trees of one hash, for who may change them; empty layout, platform: all of them."""
    caller.require(ADMIN, check_namespace(namespace))
    return _of_hash(hash, namespace, layout, platform)


ToChange = Annotated[Filter, Depends(_to_change)]


@router.delete("/trees/{hash}", responses=problems(400, 404, 409))
async def delete_tree(context: ContextDep, caller: CallerDep, wanted: ToChange) -> Deleted:
    """Delete the trees of one hash; empty layout, platform: all of them."""
    (namespace,) = sorted(wanted.namespaces or ())
    async with audited(context, caller, "delete", _named(wanted), namespace):
        return await context.in_storage(
            delete_trees,
            context.database,
            context.store,
            namespace,
            wanted.hash,
            layout=wanted.layout,
            platform=wanted.platform_id,
        )


@router.put("/trees/{hash}/pin", responses=problems(400, 404))
async def pin_tree(context: ContextDep, caller: CallerDep, wanted: ToChange) -> Pinned:
    """Keep the trees of one hash until they are unpinned; empty layout, platform: all of them."""
    async with audited(context, caller, "pin", _named(wanted), *sorted(wanted.namespaces or ())):
        return await context.in_storage(pin, context.database, context.store, wanted)


@router.delete("/trees/{hash}/pin", responses=problems(400, 404))
async def unpin_tree(context: ContextDep, caller: CallerDep, wanted: ToChange) -> Pinned:
    """The trees of one hash may be deleted again; empty layout, platform: all of them."""
    async with audited(context, caller, "unpin", _named(wanted), *sorted(wanted.namespaces or ())):
        return await context.in_storage(unpin, context.database, context.store, wanted)


def _named(wanted: Filter) -> str:
    (namespace,) = sorted(wanted.namespaces or ())
    pieces = (namespace, wanted.layout or "*", wanted.hash, wanted.platform_id or "*")
    return "/".join(pieces)


def _of_hash(hash: str, namespace: str, layout: str, platform: str) -> Filter:
    return Filter(
        namespaces=frozenset((namespace,)),
        layout=layout,
        hash=_whole_hash(layout, hash),
        platform_id=platform and check_platform_id(platform),
    )


def _whole_hash(layout: str, value: str) -> str:
    if layout:
        return check_hash(layout, value)
    for name in LAYOUTS:
        try:
            return check_hash(name, value)
        except InvalidNameError:
            continue
    raise InvalidNameError(f"{value[:140]!r} is not a hash of any layout")
