"""`GET /trees`: the list of what is stored."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from aotcache.protocol.v1.trees import SORTS

from ...index.listing import Filter, list_trees
from ...index.values import Values, choices, models_with, platforms_of
from ..context import ContextDep
from .render import render
from .route import page_router
from .visitors import VisitorDep

router = page_router()

_LIMIT = 50
_HASH = re.compile(r"[0-9a-f]{4,64}")
_SORTS = ("created", "used", "raw_bytes", "stored_bytes", "hash")
assert set(_SORTS) == set(SORTS)

Text = Annotated[str, Query(max_length=1024)]


@router.get("/trees")
def trees_page(
    request: Request,
    context: ContextDep,
    visitor: VisitorDep,
    search: Text = "",
    layout: Text = "",
    engine: Text = "",
    model: Text = "",
    platform: Text = "",
    publisher: Text = "",
    pinned: Text = "",
    quarantined: Text = "",
    sort: Text = "created",
    order: Text = "desc",
    cursor: Text = "",
    done: Text = "",
) -> Response:
    """search: the beginning of a hash, or part of a model's name."""
    within = visitor.caller.namespaces
    wanted = Filter(
        namespaces=within,
        layout=layout,
        engine=engine,
        model=model,
        platform_id=platform,
        publisher=publisher,
        pinned=bool(pinned),
        quarantined=bool(quarantined),
    )
    text = search.strip()
    with context.database.read() as db:
        page = None
        found = models_with(db, text, within) if text else Values([], cut=False)
        if text and not found.found:
            wanted = replace(wanted, hash=text.lower() if _HASH.fullmatch(text.lower()) else text)
        elif text:
            wanted = replace(wanted, models=tuple(found.found))
            if _HASH.fullmatch(text.lower()):
                # Both: a model may be called as a hash begins.
                by_hash = replace(wanted, models=None, hash=text.lower())
                page = list_trees(db, by_hash, sort=sort, order=order, cursor=cursor, limit=_LIMIT)
        if page is None or not page.trees:
            page = list_trees(db, wanted, sort=sort, order=order, cursor=cursor, limit=_LIMIT)
        values = choices(db, within)
        platforms = platforms_of(db, {*values["platform_id"].found, platform} - {""})
    chosen = {
        "search": text,
        "layout": layout,
        "engine": engine,
        "model": model,
        "platform": platform,
        "publisher": publisher,
        "pinned": "1" if pinned else "",
        "quarantined": "1" if quarantined else "",
        "sort": sort,
        "order": order,
    }

    def link(**others: str) -> str:
        """This list, with something else chosen, from its beginning."""
        kept = {name: value for name, value in {**chosen, **others}.items() if value}
        return "/trees?" + urlencode(kept)

    return render(
        request,
        "trees.html",
        visitor,
        page=page,
        chosen=chosen,
        choices={**values, "platform": values["platform_id"]},
        models=found,
        platforms=platforms,
        sorts=_SORTS,
        link=link,
        first=not cursor,
        done="It is deleted." if done == "delete" else "",
        filtered=any(value for name, value in chosen.items() if name not in {"sort", "order"}),
    )
