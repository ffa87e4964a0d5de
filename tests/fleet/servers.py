"""All that a fleet talks to: replicas of the service behind a balancer, PostgreSQL, S3."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from fleet.balancer import Balancer, run_balancer
from fleet.processes import cpu_seconds, pid_of
from support import site as sites
from support.postgres import PostgresServer
from support.process import free_ports
from support.s3 import S3Server

_METRIC = re.compile(r"^(\w+?)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Servers:
    """database: its name. pids: whose processor seconds are counted, by what they are."""

    balancer: Balancer
    replicas: tuple[sites.Service, ...]
    postgres: PostgresServer
    database: str
    pids: dict[str, int]

    @property
    def url(self) -> str:
        return self.balancer.url

    def cpu(self) -> dict[str, float]:
        return {who: cpu_seconds(pid) for who, pid in self.pids.items()}

    def metric(self, name: str, *labels: str) -> Counter[str]:
        """A counter of all replicas together, by these labels' values."""
        found: Counter[str] = Counter()
        for replica in self.replicas:
            with urllib.request.urlopen(f"{replica.url}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            for metric, said, value in _METRIC.findall(text):
                if metric == name:
                    of = dict(_LABEL.findall(said))
                    found[" ".join(of[label] for label in labels)] += float(value)
        return found

    def requests(self) -> dict[str, int]:
        """Answered, by method and route; without those that only this fleet's watchers make."""
        found = self.metric("aotcache_requests_total", "method", "route")
        return {route: round(n) for route, n in sorted(found.items()) if "/metrics" not in route}

    def bytes_through(self) -> dict[str, int]:
        found = self.metric("aotcache_object_bytes_total", "direction")
        return {direction: round(found[direction]) for direction in ("in", "out")}

    def database_load(self) -> dict[str, int]:
        """Connections now, and transactions since it was made."""
        place = f"host=127.0.0.1 port={self.postgres.port} user=postgres dbname=postgres"
        with psycopg.connect(place, autocommit=True) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = %(name)s),"
                " xact_commit FROM pg_stat_database WHERE datname = %(name)s",
                {"name": self.database},
            ).fetchone()
        assert row is not None
        return {"connections": row[0], "transactions": row[1]}


@contextmanager
def run_servers(
    folder: Path, postgres: PostgresServer, s3: S3Server, *, replicas: int = 2
) -> Iterator[Servers]:
    """Replicas on an empty database and empty storage of these servers."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(replicas)
    database, storage = postgres.fresh_url(), s3.fresh_url()
    with ExitStack() as running:
        balancer = running.enter_context(run_balancer(folder, ports, s3.endpoint))
        env = {
            **s3.env(),
            "AWS_ENDPOINT_URL": balancer.s3_service,
            "AOTCACHE_S3_PUBLIC_ENDPOINT": balancer.s3_nodes,
            "AOTCACHE_DATABASE_URL": database,
        }
        services = tuple(
            running.enter_context(
                sites.run(folder / f"replica-{number}", storage_url=storage, env=env, port=port)
            )
            for number, port in enumerate(ports)
        )
        pids = {
            f"replica {number}": pid_of("serve", "--port", str(port))
            for number, port in enumerate(ports)
        }
        pids["postgresql"] = pid_of("-p", str(postgres.port))
        pids["s3"] = pid_of(f"-s3.port={urlsplit(s3.endpoint).port}")
        pids["balancer"] = pid_of("-f", str(folder / "haproxy.cfg"))
        yield Servers(balancer, services, postgres, database.rpartition("/")[2], pids)


def settled(servers: Servers) -> dict[str, int]:
    """Requests by route, once all that were sent are answered and counted."""
    before = servers.requests()
    while True:
        time.sleep(0.2)
        now = servers.requests()
        if now == before:
            return now
        before = now
