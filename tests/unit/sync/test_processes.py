"""Several processes of one node that want the same tree at once: one fetches it, all get it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec

from aotcache.probe.trees import tree_path
from aotcache.protocol.v1.lookup import Lookup
from aotcache.sync.pull import Pulled
from support.site import publish_tree, pull_tree
from support.small import Here, small_tree
from support.trees import H100, contents

PULL = """
import sys
import msgspec
from aotcache.core.trust import TrustPolicy
from aotcache.net.http import HttpClient
from aotcache.protocol.v1.lookup import Lookup
from aotcache.remote.index import Index
from aotcache.storage import open_store
from aotcache.sync.pull import pull
from aotcache.sync.site import Site

url, storage_url, asked, place = sys.argv[1:]
site = Site(Index(HttpClient(url)), open_store(storage_url), TrustPolicy("unsigned"))
lookup = msgspec.json.decode(asked, type=Lookup)
print("ready", flush=True)
sys.stdin.readline()
print(msgspec.json.encode(pull(site, lookup, place)).decode())
"""


def test_one_process_fetches_for_all(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path / "node", ranks=(0, 1))
    publish_tree(here.site(), tree)
    alone = pull_tree(here.site(), tree, H100, tmp_path / "alone")
    assert isinstance(alone, Pulled)
    lookup = msgspec.json.encode(Lookup(layout=tree.layout, hash=tree.hash, platform=H100))
    place = tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash)
    command = [sys.executable, "-c", PULL, here.url, here.storage_url, lookup.decode(), place]
    children = [
        subprocess.Popen(
            command,
            env={"PYTHONPATH": ":".join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    found = [json.loads(child.communicate(timeout=60)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * 4
    for counted in ("requests", "moved_bytes", "written_bytes"):
        numbers = sorted(pulled[counted] for pulled in found)
        assert numbers == [0, 0, 0, getattr(alone, counted)]
    assert all(sum(part["files"] for part in pulled["parts"]) == 9 for pulled in found)
    assert set(contents(place)) == set(contents(tree.path))
