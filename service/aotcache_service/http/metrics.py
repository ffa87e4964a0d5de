"""`GET /metrics`: counters of this process, and what the index holds, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from aotcache.protocol.v1.stats import Stats

from .. import metrics
from ..auth import READ
from ..index.models import CONDEMNED, LIVE
from .access import CallerDep
from .context import ContextDep
from .errors import problems

router = APIRouter(tags=["health"])


class _Gauges(Collector):
    def __init__(self, found: Stats) -> None:
        self._found = found

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = self._found
        for name, what, value in (
            ("trees", "Trees that are served", found.trees),
            ("parts", "Parts of them", found.parts),
            ("pinned_trees", "Trees that are not deleted until they are unpinned", found.pinned),
            ("quarantined_parts", "Parts that nodes failed with", found.quarantined),
        ):
            yield GaugeMetricFamily(f"aotcache_{name}", what, value=value)
        packs = GaugeMetricFamily("aotcache_packs", "Packs in storage", labels=["state"])
        size = GaugeMetricFamily("aotcache_pack_bytes", "Bytes of them", labels=["state"])
        for state in (LIVE, CONDEMNED):
            packs.add_metric([state], found.packs.get(state, 0))
            size.add_metric([state], found.pack_bytes.get(state, 0))
        yield from (packs, size)
        ended = GaugeMetricFamily(
            "aotcache_job_finished_timestamp_seconds", "When it ended last", labels=["job"]
        )
        for job, at in found.finished.items():
            ended.add_metric([job], at)
        yield ended


@router.get("/metrics", response_class=Response, responses=problems())
def get_metrics(context: ContextDep, caller: CallerDep) -> Response:
    """For Prometheus. Where there are tokens: for one that reads all namespaces."""
    caller.require_all(READ)
    held = CollectorRegistry()
    held.register(_Gauges(context.totals.of(None, wait=False)))
    text = generate_latest(metrics.REGISTRY) + generate_latest(held)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
