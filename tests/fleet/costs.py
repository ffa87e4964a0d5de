"""What each call of a start costs the service and PostgreSQL, one kind of call after the other."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aotcache.net.http import HttpClient
from aotcache.protocol.names import SHARED, VLLM_AOT, pack_key
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.leases import HELD, AskLease, new_holder
from aotcache.protocol.v1.lookup import Hit, Lookup
from aotcache.protocol.v1.outcomes import LOADED, Outcome
from aotcache.protocol.v1.recipes import RecipeLookup
from aotcache.remote.index import Index
from aotcache.storage import presigned_store
from aotcache.sync.connect import connect_by
from aotcache.sync.site import Site
from aotcache_service.index.database import Database
from aotcache_service.ops.quarantine import tell
from fleet.node import PART, hash_of, recipe_of
from fleet.plan import Job
from fleet.scenarios import Trees
from fleet.servers import Servers
from support.site import publish_tree
from support.trees import H100, make_ranks

CALLS, THREADS, PUBLISHES = 400, 8, 12
_JOB = Job(node=0, at=0.0, name="costs", model="org/costs")


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor milliseconds of a call: of all replicas, and of PostgreSQL."""

    service: float
    database: float


def costs(servers: Servers, folder: Path, trees: Trees) -> dict[str, Cost]:
    """By kind of call."""
    site = connect_by({"AOTCACHE_URL": servers.url, "AOTCACHE_TRUST": "unsigned"})
    found = {"publish": _publishes(servers, folder, trees, site)}
    lookup = Lookup(layout=VLLM_AOT, hash=hash_of("costs 0"), platform=H100, parts=(SHARED, PART))
    unknown = Lookup(layout=VLLM_AOT, hash=hash_of("unknown"), platform=H100, parts=(SHARED, PART))
    hit = site.index.lookup(lookup)
    assert isinstance(hit, Hit)
    recipe = recipe_of(_JOB)
    site.index.lease(AskLease(lookup=unknown, part=PART, holder=new_holder(), recipe=recipe))
    manifest = hit.parts[0].manifest
    packs = _packs(site, manifest)

    def outcome(number: int) -> Outcome:
        return Outcome(
            layout=VLLM_AOT,
            hash=lookup.hash,
            platform=hit.platform,
            part=PART,
            generation=1,
            outcome=LOADED,
            node=f"node-{number}",
        )

    def granted(index: Index, number: int) -> None:
        one = Lookup(layout=VLLM_AOT, hash=hash_of(f"lease {number}"), platform=H100)
        index.lease(AskLease(lookup=one, part=PART, holder=new_holder(), recipe=recipe))

    def held(index: Index) -> None:
        assert index.lease(AskLease(lookup=unknown, part=PART)).state == HELD

    def presigned(client: HttpClient) -> None:
        presigned_store(client).expect(packs)

    beats = [
        AskLease(
            lookup=Lookup(layout=VLLM_AOT, hash=hash_of(f"beat {number}"), platform=H100),
            part=PART,
            holder=new_holder(),
        )
        for number in range(THREADS)
    ]
    asked = RecipeLookup(recipe=recipe, platform=H100)
    calls: dict[str, Callable[[HttpClient, int], object]] = {
        "recipe": lambda client, _: Index(client).lookup_recipe(asked),
        "lookup": lambda client, _: Index(client).lookup(lookup.before_a_pull()),
        "miss": lambda client, _: Index(client).lookup(unknown),
        "held": lambda client, _: held(Index(client)),
        "granted": lambda client, n: granted(Index(client), n),
        "kept": lambda client, n: Index(client).lease(beats[n % THREADS]),
        "manifest": lambda client, _: presigned_store(client).get(manifest),
        "presign": lambda client, _: presigned(client),
        "outcome": lambda client, n: Index(client).outcome(outcome(n)),
        "explain": lambda client, n: Index(client).explain(
            Explain(layout=VLLM_AOT, hash=unknown.hash, platform=H100, recipe=recipe, node=f"n{n}")
        ),
    }
    for kind, call in calls.items():
        found[kind] = _measured(servers, call)
    return found


def seconds_of_a_write(servers: Servers) -> float:
    """Of one transaction that counts an outcome, alone: for so long nobody else writes. The first
    quartile: more of it is waiting for the processor."""
    database = Database(str(servers.replicas[0].env["AOTCACHE_DATABASE_URL"]))
    said = Outcome(
        layout=VLLM_AOT,
        hash=hash_of("costs 0"),
        platform=H100.id,
        part=PART,
        generation=1,
        outcome=LOADED,
        node="node",
    )
    took = []
    for number in range(CALLS):
        begin = time.perf_counter()
        tell(database, None, said, token="", nodes=3, now=1_700_000_000 + number)  # type: ignore[arg-type]
        took.append(time.perf_counter() - begin)
    database.close()
    return statistics.quantiles(took, n=4)[0]


def _packs(site: Site, manifest: str) -> list[str]:
    found = site.manifest(manifest)
    return [pack_key(found.statement.namespace, pack.name) for pack in found.locations.packs]


def _measured(servers: Servers, call: Callable[[HttpClient, int], object]) -> Cost:
    clients = [HttpClient(servers.url) for _ in range(THREADS)]

    def share(thread: int) -> None:
        for number in range(thread, CALLS, THREADS):
            call(clients[thread], number)

    for client in clients:
        call(client, CALLS)
    before = servers.cpu()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(share, range(THREADS)))
    return _cost(before, servers.cpu(), CALLS)


def _publishes(servers: Servers, folder: Path, trees: Trees, site: Site) -> Cost:
    made = [
        make_ranks(
            folder / str(number),
            trees.kernels,
            trees.inductor,
            range(1),
            world=1,
            name=f"costs {number}",
            recipe=recipe_of(_JOB),
        )
        for number in range(PUBLISHES)
    ]
    before = servers.cpu()
    for tree in made:
        publish_tree(site, tree)
    shutil.rmtree(folder)
    return _cost(before, servers.cpu(), PUBLISHES)


def _cost(before: dict[str, float], after: dict[str, float], calls: int) -> Cost:
    used = {who: 1000 * (after[who] - before[who]) / calls for who in before}
    service = sum(value for who, value in used.items() if who.startswith("replica"))
    return Cost(service=round(service, 3), database=round(used["postgresql"], 3))
