"""HAProxy in front of the replicas and of S3: it takes turns, and counts."""

from __future__ import annotations

import csv
import io
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from support.process import answers, free_ports, running, tool

_CONFIG = """
global
    maxconn 8000
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 90s
    timeout server 90s
    timeout http-keep-alive 90s
frontend service
    bind 127.0.0.1:{service} backlog 4096
    default_backend replicas
backend replicas
    balance roundrobin
{replicas}
frontend counts
    bind 127.0.0.1:{counts}
    stats enable
    stats uri /
"""
_S3 = """
frontend s3-{who}
    bind 127.0.0.1:{port} backlog 4096
    use_backend s3-{who}-put if {{ method PUT }}
    use_backend s3-{who}-get if {{ method GET }}
    default_backend s3-{who}-other
"""
_BACKEND = """
backend s3-{who}-{what}
    server s3 {where}
"""
NODES, SERVICE = "nodes", "service"
METHODS = ("put", "get", "other")


@dataclass(frozen=True, slots=True)
class Balancer:
    """url: of the service. s3_nodes, s3_service: of S3, as nodes and as the service reach it."""

    url: str
    s3_nodes: str
    s3_service: str
    counts_url: str
    port: int

    def counts(self) -> dict[str, dict[str, int]]:
        """Requests and bytes (to the server, from the server) so far, by backend."""
        with urllib.request.urlopen(f"{self.counts_url}/;csv", timeout=10) as answer:
            text = answer.read().decode().lstrip("# ")
        return {
            row["pxname"]: {
                "requests": int(row["req_tot"] or row["stot"]),
                "in": int(row["bin"]),
                "out": int(row["bout"]),
            }
            for row in csv.DictReader(io.StringIO(text))
            if row["svname"] == "BACKEND"
        }


@contextmanager
def run_balancer(folder: Path, replicas: Sequence[int], s3_endpoint: str) -> Iterator[Balancer]:
    """replicas: ports at which they listen, or will."""
    service, counts, near, far = free_ports(4)
    where = urlsplit(s3_endpoint).netloc
    config = _CONFIG.format(
        service=service,
        counts=counts,
        replicas="\n".join(f"    server r{port} 127.0.0.1:{port}" for port in replicas),
    )
    for who, port in ((NODES, far), (SERVICE, near)):
        config += _S3.format(who=who, port=port)
        config += "".join(_BACKEND.format(who=who, what=what, where=where) for what in METHODS)
    path = folder / "haproxy.cfg"
    path.write_text(config)
    command = [tool("haproxy", "haproxy"), "-db", "-f", str(path)]
    urls = [f"http://127.0.0.1:{port}" for port in (service, far, near, counts)]
    with running(command, folder / "haproxy.log", lambda: answers(urls[3])):
        yield Balancer(*urls, port=counts)
