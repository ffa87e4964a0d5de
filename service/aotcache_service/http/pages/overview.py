"""`GET /`: how the fleet does; `GET /misses`; `GET /audit`; the style of all pages."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import PlainTextResponse

from aotcache.protocol.v1.outcomes import LOADED

from ...index import audit, history
from ..context import ContextDep
from .charts import HEIGHT, SPANS, WIDTH, Chart, Series, Span, bars, bucketed, line
from .render import render
from .route import page_router
from .visitors import VisitorDep

router = page_router()
_LIMIT = 100
_FEW = 5  # groups of misses beside the charts
_HASH = re.compile(r"/([A-Za-z0-9._-]{8,128})(?=/|:| |$)")  # in what an audit says
_STYLE = files("aotcache_service.http.pages").joinpath("static/style.css").read_text()


@router.get("/")
def overview_page(
    request: Request,
    context: ContextDep,
    visitor: VisitorDep,
    span: Annotated[str, Query(max_length=10)] = "week",
) -> Response:
    chosen = next((one for one in SPANS if one.name == span), SPANS[1])
    at = context.database.now()
    with context.database.read() as db:
        told = history.read(db, visitor.caller.namespaces, chosen.starts(at)[0])
    groups = context.misses.of(visitor.caller.namespaces, wait=False).groups[:_FEW]
    stats = context.totals.of(visitor.caller.namespaces, wait=False)
    charts = _charts(told, chosen, at)
    hits = sum(told.get(history.HIT, {}).values())
    missed = sum(
        sum(hours.values()) for what, hours in told.items() if what.startswith(history.MISS)
    )
    return render(
        request,
        "overview.html",
        visitor,
        stats=stats,
        span=chosen,
        spans=SPANS,
        charts=charts,
        size=(WIDTH, HEIGHT),
        hits=hits,
        lookups=hits + missed,
        saved=sum(told.get(history.SAVED, {}).values()),
        groups=groups,
    )


def _charts(told: dict[str, dict[int, float]], span: Span, at: int) -> list[Chart]:
    starts = span.starts(at)

    def summed(name: str, what: str) -> Series:
        return Series(name, bucketed(told.get(what, {}), span, at))

    reasons = sorted(what for what in told if what.startswith(history.MISS))
    # What went well first, as in the chart above.
    good = history.OUTCOME + LOADED
    outcomes = sorted(
        (what for what in told if what.startswith(history.OUTCOME)),
        key=lambda what: (what != good, what),
    )
    missed = [summed(_words(what, history.MISS), what) for what in reasons]
    stored = Series("stored", bucketed(told.get(history.STORED, {}), span, at, stays=True))
    return [
        bars("Lookups found", "count", starts, [summed("found", history.HIT)]),
        # On top of what was found they would be slivers.
        bars("Lookups missed, and why", "count", starts, missed),
        bars("Seconds saved", "duration", starts, [summed("saved", history.SAVED)]),
        bars(
            "What engines did with what they pulled",
            "count",
            starts,
            [summed(_words(what, history.OUTCOME), what) for what in outcomes],
        ),
        bars(
            "Bytes moved",
            "bytes",
            starts,
            [summed("pulled", history.PULLED), summed("published", history.PUBLISHED)],
        ),
        line("Bytes stored", "bytes", starts, stored),
    ]


def _words(what: str, prefix: str) -> str:
    return what.removeprefix(prefix).replace("_", " ")


@router.get("/misses")
def misses_page(request: Request, context: ContextDep, visitor: VisitorDep) -> Response:
    found = context.misses.of(visitor.caller.namespaces, wait=False)
    return render(request, "misses.html", visitor, groups=found.groups)


@router.get("/audit")
def audit_page(
    request: Request,
    context: ContextDep,
    visitor: VisitorDep,
    before: Annotated[int, Query(ge=0, lt=1 << 62)] = 0,
) -> Response:
    with context.database.read() as db:
        rows = audit.listed(db, visitor.caller.namespaces, before=before, limit=_LIMIT)
    hashes = {row.id: found[1] for row in rows if (found := _HASH.search(row.what))}
    more = len(rows) == _LIMIT
    return render(request, "audit.html", visitor, rows=rows, hashes=hashes, more=more)


@router.get("/style.css")
async def style() -> Response:
    return PlainTextResponse(
        _STYLE, media_type="text/css", headers={"Cache-Control": "max-age=3600"}
    )
