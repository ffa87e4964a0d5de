"""One node that looks up the same hash again and again: how long that takes a node that has a
processor.

    python -m fleet.probe URL          ends with its stdin; prints the seconds of each lookup
"""

from __future__ import annotations

import json
import select
import sys
import time

from aotcache.net.http import HttpClient
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from fleet.node import hash_of
from support.trees import H100

PAUSE = 0.1


def main() -> None:
    index = Index(HttpClient(sys.argv[1]))
    asked = Lookup(layout=VLLM_AOT, hash=hash_of("probe"), platform=H100)
    took = []
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        begin = time.monotonic()
        index.lookup(asked)
        took.append(time.monotonic() - begin)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
