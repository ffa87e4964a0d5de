"""PostgreSQL goes away in the middle of what nodes do, and comes back."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from pathlib import Path

from support.fault_table import Table
from support.faults import Fleet, Traffic, last_line
from support.postgres import new_cluster
from support.s3 import S3Server
from support.site import run
from support.waiters import waiters

FAILOVER = 25.0  # seconds, as a managed PostgreSQL takes
SAID = "the index's database does not answer: try again"


def test_postgresql_is_restarted(seaweedfs: S3Server, tmp_path: Path, table: Table) -> None:
    """As after a crash: with every connection cut."""
    with new_cluster() as cluster, ExitStack() as service, ExitStack() as database:
        server = database.enter_context(cluster.running(signal.SIGQUIT))
        settings = {**seaweedfs.env(), "AOTCACHE_DATABASE_URL": server.fresh_url()}
        storage = seaweedfs.fresh_url()
        started = run(tmp_path / "service", storage_url=storage, env=settings)
        fleet = Fleet(tmp_path, {"AOTCACHE_URL": service.enter_context(started).url})
        tree, cache = fleet.tree("tree"), fleet.cache("program", 100_000)
        fleet.push(tree)
        fleet.push(cache)
        with Traffic(fleet, tree) as traffic:
            traffic.wait(3)
            database.close()
            traffic.wait(3)
            ran = tmp_path / "ran"
            program = fleet.exec(cache, fleet.fresh(), 30, "touch", str(ran)).end()
            assert (program.returncode, ran.exists()) == (0, True)
            assert f"cache program is not used: {SAID}" in last_line(program)
            failed = fleet.pull(tree, check=False)
            database.enter_context(cluster.running(signal.SIGQUIT))
            seconds = fleet.seconds_to_pull(tree)
            traffic.wait(3)
        failures = [failed, *(done for done in traffic.done if done.returncode)]
        for done in failures:
            assert (done.returncode, SAID in last_line(done)) == (1, True), done.stderr
        fleet.check_nothing_lost()
    table.row("PostgreSQL restarted: `pull`, `push`", failed, seconds)
    table.row("PostgreSQL restarted: `exec`", program, seconds)


def test_postgresql_is_away_under_who_waits_for_a_lease(tmp_path: Path, table: Table) -> None:
    """As while it fails over: its holder keeps the lease, and the others wait on."""
    with new_cluster() as cluster, ExitStack() as service, ExitStack() as database:
        server = database.enter_context(cluster.running(signal.SIGQUIT))
        settings = {"AOTCACHE_DATABASE_URL": server.fresh_url()}
        url = service.enter_context(run(tmp_path / "service", env=settings)).url
        with waiters(url) as waiting:
            database.close()
            time.sleep(FAILOVER)
            waiting.check_they_wait()
            database.enter_context(cluster.running(signal.SIGQUIT))
            time.sleep(5)
            waiting.check_they_wait()
            seconds = waiting.seconds_to_end()
    fault = f"PostgreSQL away for {FAILOVER:.0f} s under nodes that wait for a lease"
    table.row(fault, "they wait on", seconds)
