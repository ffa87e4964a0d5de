"""The publisher: one process a cache root and node, `aotcache watch`, that outlives the engine.

Not in the engine's processes, and at the lowest priority, so that serving never pays for an upload.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading

from aotcache import settings
from aotcache.errors import LocalError
from aotcache.local.node import join_engines, node_file
from aotcache.local.python import our_python

logger = logging.getLogger(__name__)

_LOG_BYTES = 1 << 20


class Publisher:
    """Started with the first save of this process, and again at the next one if it has ended."""

    def __init__(self, cache_root: str) -> None:
        self._cache_root = cache_root
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self.wanted = settings.is_on(os.environ.get(settings.PUBLISH))

    def ensure(self) -> None:
        """Have a publisher run while this engine does. Where another process of the node has
        started one, the new one sees that and ends. Raises LocalError."""
        if not self.wanted:
            return
        if self._lock is None:
            self._lock = join_engines(self._cache_root)
        if self._process is not None and self._process.poll() is None:
            return
        log = node_file(self._cache_root, "publisher.log")
        try:
            with open(log, "ab") as out:
                if os.fstat(out.fileno()).st_size > _LOG_BYTES:
                    # In place: one that is at work goes on at the end, which is the start then.
                    out.truncate(0)
                self._process = subprocess.Popen(
                    our_python(
                        *("aotcache", "watch", "--while-engines-run"),
                        *("--cache-root", self._cache_root),
                    ),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    # It goes on when the engine has ended, and does not get its signals.
                    start_new_session=True,
                )
        except OSError as error:
            raise LocalError(f"cannot start a publisher: {error}") from error
        # The one that finds another at work ends at once: no zombie for as long as the engine runs.
        threading.Thread(target=self._process.wait, name="aotcache-publisher", daemon=True).start()
