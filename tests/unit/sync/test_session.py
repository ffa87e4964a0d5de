"""The session of a publish: renewed while it lasts, and what is said when it cannot be."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.core import framing, pack
from aotcache.errors import (
    GenerationTakenError,
    ManifestError,
    ObjectMissingError,
    SessionExpiredError,
    UsageError,
    VersionError,
)
from aotcache.net.http import HttpClient
from aotcache.protocol.names import manifest_key, new_publish_id
from aotcache.protocol.sections import FORMAT, FORMAT_ON_BASE, FORMATS
from aotcache.protocol.v1.publish import OpenSession, Session
from aotcache.storage import open_store
from aotcache.sync.published import PUBLISHED
from aotcache.sync.session import PublishSession
from aotcache_service.settings import ServiceSettings
from support.service import run_service
from support.site import publish_tree
from support.small import CountedIndex, Here, add, small_tree
from support.trees import RECIPE


class Short(CountedIndex):
    """Its sessions are always nearly over."""

    def open_session(self, asked: OpenSession) -> Session:
        return replace(super().open_session(asked), expires=0)


class Telling(CountedIndex):
    """Of a service that reads manifests of these formats."""

    def __init__(self, client: HttpClient, formats: tuple[str, ...]) -> None:
        super().__init__(client)
        self._formats = formats

    def open_session(self, asked: OpenSession) -> Session:
        return replace(super().open_session(asked), formats=self._formats)


def test_it_is_renewed_after_each_pack_and_before_the_manifests(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framing, "FRAME_RAW", 1000)
    monkeypatch.setattr(pack, "PACK_STORED", 20_000)
    tree = small_tree(tmp_path / "node")
    for number in range(3):
        add(
            tree.path, f"inductor_cache/ab/cnew{number}.py", random.Random(number).randbytes(20_000)
        )
    site = here.site()
    index = Short(site.index._client)
    publish_tree(replace(site, index=index), tree)
    packs = len(list(here.store.list("default/packs/")))
    assert packs > 3
    assert index.sessions == 1 + packs + 1


def test_it_is_not_renewed_without_need(here: Here, tmp_path: Path) -> None:
    site = here.site()
    publish_tree(site, small_tree(tmp_path / "node"))
    assert isinstance(site.index, CountedIndex)
    assert site.index.sessions == 1


def test_one_that_is_over_each_time_is_called_so(tmp_path: Path) -> None:
    settings = ServiceSettings(data_dir=tmp_path, session_seconds=0)
    with run_service(settings) as url:
        site = Here(url, settings.storage_url).site()
        with pytest.raises(SessionExpiredError, match="tried 3 times: the session was over"):
            publish_tree(site, small_tree(tmp_path / "node"))


def test_a_storage_that_is_not_the_services_is_named(here: Here, tmp_path: Path) -> None:
    class Elsewhere(CountedIndex):
        def open_session(self, asked: OpenSession) -> Session:
            return replace(super().open_session(asked), storage_url="s3://bucket/there/")

    site = here.site()
    site = replace(site, index=Elsewhere(site.index._client))
    with pytest.raises(UsageError, match="s3://bucket/there") as caught:
        publish_tree(site, small_tree(tmp_path / "node"))
    assert here.storage_url in str(caught.value)
    assert list(here.store.list("default/packs/")) == []


def test_a_storage_that_the_service_does_not_read(here: Here, tmp_path: Path) -> None:
    """Where the service cannot say where its own is."""
    site = here.site(store=open_store((tmp_path / "other").as_uri()))
    with pytest.raises(ObjectMissingError, match="--storage-url"):
        publish_tree(site, small_tree(tmp_path / "node"))
    assert isinstance(site.index, CountedIndex)
    assert site.index.sessions == 2


def test_what_is_committed_is_not_removed(here: Here, tmp_path: Path) -> None:
    site = here.site()
    tree = small_tree(tmp_path / "node")
    result = publish_tree(site, tree)
    assert {part.status for part in result.parts} == {PUBLISHED}
    key = manifest_key(result.tree, "shared", 1)
    manifest = site.manifest(key).statement
    asked = OpenSession(
        publish_id=new_publish_id(),
        layout=tree.layout,
        hash=tree.hash,
        platform=manifest.platform,
        parts=("shared",),
        recipe=RECIPE,
    )
    with pytest.raises(GenerationTakenError):
        PublishSession(site, asked).remove(key, ManifestError("a reason"))
    assert site.manifest(key).statement == manifest


def formats_of(here: Here, part: str) -> list[str]:
    """Of the generations of a part in storage, in their order."""
    keys = sorted(one.key for one in here.store.list("default/trees/") if f"/{part}/" in one.key)
    return [json.loads(here.store.get(key).partition(b"\n")[0])["format"] for key in keys]


@pytest.mark.parametrize("known", [(FORMAT,), FORMATS, (*FORMATS, "aotcache-manifest/3")])
def test_manifests_are_of_a_format_that_the_service_reads(
    here: Here, tmp_path: Path, known: tuple[str, ...]
) -> None:
    """Where a service would take a smaller one, and where it would not."""
    site = here.site()
    telling = replace(site, index=Telling(site.index._client, known))
    tree = small_tree(tmp_path / "node")
    for number in range(400):
        add(tree.path, f"inductor_cache/ab/c{number}.py", b"# %d" % number)
    publish_tree(telling, tree)
    add(tree.path, "inductor_cache/ab/later.py", b"# later")
    publish_tree(telling, tree)
    second = FORMAT_ON_BASE if FORMAT_ON_BASE in known else FORMAT
    assert formats_of(here, "shared") == [FORMAT, second]


def test_a_service_that_reads_no_manifest_of_ours(here: Here, tmp_path: Path) -> None:
    site = here.site()
    telling = replace(site, index=Telling(site.index._client, ("aotcache-manifest/9",)))
    with pytest.raises(VersionError, match="upgrade the client"):
        publish_tree(telling, small_tree(tmp_path / "node"))
    assert not list(here.store.list("default/"))
