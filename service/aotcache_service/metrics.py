"""What this process has done since it started, for Prometheus. Names begin with `aotcache_`.

Counters are per process: sum them over the replicas. What the index holds is asked when somebody
looks (`http.metrics`), and is the same from each.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aotcache import __version__

# Not the client library's own registry: a process may hold other programs' metrics too.
REGISTRY = CollectorRegistry()

BY_HASH, BY_RECIPE = "hash", "recipe"
HIT, MISS = "hit", "miss"

LOOKUPS = Counter(
    "aotcache_lookups",
    "Lookups answered, by what they asked for; reason: of a miss",
    ["by", "result", "reason"],
    registry=REGISTRY,
)
LEASES = Counter(
    "aotcache_leases",
    "Answers to nodes that asked whether somebody compiles what is not stored",
    ["state"],
    registry=REGISTRY,
)
OUTCOMES = Counter(
    "aotcache_outcomes",
    "What engines did with parts that nodes had pulled",
    ["outcome"],
    registry=REGISTRY,
)
PULL_SECONDS = Counter(
    "aotcache_pull_seconds",
    "Seconds of pulls, as nodes told them with their outcomes",
    registry=REGISTRY,
)
PULL_BYTES = Counter(
    "aotcache_pull_bytes",
    "Stored bytes that nodes pulled, as they told with their outcomes",
    registry=REGISTRY,
)
QUARANTINES = Counter(
    "aotcache_quarantines", "Parts quarantined by what nodes told", registry=REGISTRY
)
PUBLISH_SECONDS = Histogram(
    "aotcache_publish_seconds",
    "Seconds from the opening of a publish session to its commit",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    registry=REGISTRY,
)
PUBLISHED_PARTS = Counter(
    "aotcache_published_parts", "Generations of parts that were committed", registry=REGISTRY
)
PUBLISHED_BYTES = Counter(
    "aotcache_published_bytes", "Bytes of packs that commits brought", registry=REGISTRY
)
OBJECT_BYTES = Counter(
    "aotcache_object_bytes",
    "Bytes of objects that passed through the service",
    ["direction"],
    registry=REGISTRY,
)
COLLECTIONS = Counter(
    "aotcache_collections", "Collections that ended, by how", ["result"], registry=REGISTRY
)
COLLECTED_TREES = Counter(
    "aotcache_collected_trees", "Trees deleted as they need not be kept", registry=REGISTRY
)
COLLECTED_BYTES = Counter(
    "aotcache_collected_bytes", "Bytes of packs that were deleted", registry=REGISTRY
)
REWRITTEN_BYTES = Counter(
    "aotcache_rewritten_bytes", "Dead bytes that packs were rewritten without", registry=REGISTRY
)
REQUESTS = Counter(
    "aotcache_requests",
    "Requests answered, by route",
    ["method", "route", "status"],
    registry=REGISTRY,
)
REQUEST_SECONDS = Histogram(
    "aotcache_request_seconds",
    "Seconds until a request was answered whole",
    ["method", "route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300),
    registry=REGISTRY,
)
Gauge(
    "aotcache_build_info", "1; the version of this process", ["version"], registry=REGISTRY
).labels(__version__).set(1)
