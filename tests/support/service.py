"""The service in this process, over a real socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from aotcache.storage import ObjectStore
from aotcache_service.http.app import create_app
from aotcache_service.http.server import server_config
from aotcache_service.settings import ServiceSettings


@contextmanager
def run_service(settings: ServiceSettings, store: ObjectStore | None = None) -> Iterator[str]:
    """The service's URL, as long as the block runs."""
    app = create_app(settings, store=store)
    server = uvicorn.Server(server_config(app))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the service did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
