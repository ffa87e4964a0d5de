"""A tree that holds a secret is not published, and no byte of the secret leaves the machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aotcache.core.leaks import Scanner
from aotcache.errors import LeakError
from aotcache.probe.trees import FoundTree
from aotcache.storage import ObjectStore
from aotcache.sync.connect import connect_by
from aotcache.sync.published import ALREADY_STORED
from support.site import publish_tree
from support.small import Here, add, record, small_tree
from support.trees import H100

SECRET = "correct-horse-battery"
SCANNER = Scanner({"REGISTRY_PASSWORD": SECRET})


class _Killed(BaseException):
    pass


class _Cut:
    """A store that takes packs, and ends its caller before the first manifest."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes | memoryview) -> None:
        if "/trees/" in key:
            raise _Killed
        self._store.put(key, data)


def refused(here: Here, tree: FoundTree) -> str:
    with pytest.raises(LeakError) as caught:
        publish_tree(replace(here.site(), scanner=SCANNER), tree)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def stored(here: Here) -> list[str]:
    return [found.key for found in here.site().store.list("")]


@pytest.mark.parametrize("path", ["rank_1_0/model", "inductor_cache/ab/cabcdef.py"])
def test_in_a_file(here: Here, tmp_path: Path, path: str) -> None:
    tree = small_tree(tmp_path, ranks=(0, 1))
    content = (Path(tree.path) / path).read_bytes()
    add(tree.path, path, content[:100] + SECRET.encode() + content[100:])
    said = refused(here, tree)
    assert said.startswith(f"{tree.path}/{path} holds, at byte 100, the value of REGISTRY_PASSWORD")
    assert stored(here) == []
    # Said explicitly, it is.
    publish_tree(here.site(), tree)
    assert stored(here)


@pytest.mark.parametrize("secret", [SECRET, 'quo"ted\\horse\nbattery', "schön-geheim-ÿ"])
def test_in_the_record_of_the_engine(here: Here, tmp_path: Path, secret: str) -> None:
    """However a manifest escapes it."""
    tree = small_tree(tmp_path)
    record(Path(tree.path), "rank_0_0-d0", platform=H100, hash_factors={"env.MY_REGISTRY": secret})
    scanner = Scanner({"REGISTRY_PASSWORD": secret})
    with pytest.raises(LeakError, match=f"the record of {tree.path} holds") as caught:
        publish_tree(replace(here.site(), scanner=scanner), tree)
    assert secret not in str(caught.value)
    assert stored(here) == []


def test_in_what_it_grows_by(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    publish_tree(replace(here.site(), scanner=SCANNER), tree)
    before = stored(here)
    add(tree.path, "inductor_cache/zz/new.py", SECRET.encode())
    assert "new.py holds, at byte 0" in refused(here, tree)
    assert stored(here) == before
    (Path(tree.path) / "inductor_cache/zz/new.py").unlink()
    again = publish_tree(replace(here.site(), scanner=SCANNER), tree)
    assert {part.status for part in again.parts} == {ALREADY_STORED}


def test_the_environment_decides(here: Here, tmp_path: Path) -> None:
    tree = small_tree(tmp_path)
    add(tree.path, "inductor_cache/zz/new.py", SECRET.encode())
    environ = {
        "AOTCACHE_URL": here.url,
        "AOTCACHE_TRUST": "unsigned",
        "REGISTRY_PASSWORD": SECRET,
    }
    with pytest.raises(LeakError):
        publish_tree(connect_by(environ), tree)
    publish_tree(connect_by({**environ, "AOTCACHE_ALLOW_SECRETS": "1"}), tree)


def test_packs_that_nobody_searched_are_not_taken_over(here: Here, tmp_path: Path) -> None:
    """They were put before the publish was cut off, when it was allowed."""
    tree = small_tree(tmp_path)
    add(tree.path, "inductor_cache/zz/new.py", SECRET.encode())

    with pytest.raises(_Killed):
        publish_tree(here.site(store=_Cut(here.store)), tree)  # type: ignore[arg-type]
    before = stored(here)
    assert before
    assert "new.py holds" in refused(here, tree)
    assert stored(here) == before
