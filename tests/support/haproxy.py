"""Debian's haproxy in front of replicas of a service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from support.process import answers, free_ports, running, tool

# A replica that takes no connection is passed over at once, before anybody has found it dead.
_CONFIG = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
frontend nodes
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    option httpchk GET /readyz
    timeout check 10s
    default-server check inter 1s fall 3 rise 1
"""


@contextmanager
def balanced(urls: Sequence[str], folder: Path) -> Iterator[str]:
    """One URL for all of them."""
    program = tool("/usr/sbin/haproxy", "Debian's haproxy")
    (port,) = free_ports(1)
    config = _CONFIG.format(port=port)
    for number, url in enumerate(urls):
        config += f"    server replica{number} {urlsplit(url).netloc}\n"
    file = folder / "haproxy.cfg"
    file.write_text(config)
    url = f"http://127.0.0.1:{port}"
    up = lambda: answers(f"{url}/readyz")  # noqa: E731
    with running([program, "-db", "-f", str(file)], folder / "haproxy.log", up):
        yield url
