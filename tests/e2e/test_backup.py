"""Back up and restore as the page says: its commands, copied from there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from aotcache.probe.trees import FoundTree
from aotcache.protocol.v1.lookup import Miss
from support.site import Service, aotcache, publish_tree, pull_tree, run
from support.small import add, small_tree
from support.trees import H100, contents

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
BACK_UP, RESTORE = re.findall(r"```sh\n(# (?:back up|restore).*?)```", PAGE.read_text(), re.DOTALL)


def shell(script: str, data: Path, backup: Path) -> None:
    folder = str(Path(sys.executable).parent)
    env = {**os.environ, "DATA": str(data), "BACKUP": str(backup)}
    env["PATH"] = f"{folder}:{env['PATH']}"
    subprocess.run(["bash", "-euc", script], env=env, check=True, timeout=120)


def is_pulled(service: Service, tree: FoundTree, place: Path) -> bool:
    found = pull_tree(service.site(), tree, H100, place)
    if isinstance(found, Miss):
        return False
    there, expected = contents(found.path), contents(tree.path)
    assert set(there) == set(expected)
    assert all(there[path] == expected[path] for path in expected if "__grp__" not in path)
    return True


def test_what_was_stored_at_the_backup_is_there_again(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    trees = [small_tree(tmp_path / name, name=name) for name in ("pinned", "deleted", "later")]
    pinned, deleted, later = trees
    with run(data) as service:
        env = {"AOTCACHE_URL": service.url}
        for tree in (pinned, deleted):
            publish_tree(service.site(), tree)
        aotcache("pin", pinned.hash, env=env)
        shell(BACK_UP, data, backup)
        aotcache("rm", deleted.hash, "--yes", env=env)
        publish_tree(service.site(), later)
    shutil.rmtree(data)
    shell(RESTORE, data, backup)
    with run(data) as service:
        assert is_pulled(service, pinned, tmp_path / "1")
        assert is_pulled(service, deleted, tmp_path / "2")
        assert not is_pulled(service, later, tmp_path / "3")
        env = {"AOTCACHE_URL": service.url}
        refused = aotcache("rm", pinned.hash, "--yes", env=env, check=False)
        assert "is pinned: nothing was deleted" in refused.stderr


def test_an_index_older_than_its_storage(tmp_path: Path) -> None:
    """Only the index was lost, and its copy is from before."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    gone, grown, new = (small_tree(tmp_path / n, name=n) for n in ("gone", "grown", "new"))
    with run(data) as service:
        publish_tree(service.site(), gone)
        publish_tree(service.site(), grown)
        shell(BACK_UP, data, backup)
        service.site().index.delete(gone.hash)
        add(grown.path, "inductor_cache/zz/czz.py", b"# more")
        publish_tree(service.site(), grown)
        publish_tree(service.site(), new)
    for file in data.glob("index.sqlite3*"):
        file.unlink()
    shutil.copy(backup / "index.sqlite3", data)
    with run(data) as service:
        env = {"AOTCACHE_URL": service.url}
        said = aotcache("reconcile", "--dry-run", env=env)
        assert "3 would be added" in said.stdout
        assert not is_pulled(service, new, tmp_path / "1")
        aotcache("reconcile", env=env)
        assert not is_pulled(service, gone, tmp_path / "2")
        assert is_pulled(service, grown, tmp_path / "3")
        assert is_pulled(service, new, tmp_path / "4")
