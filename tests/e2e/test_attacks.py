"""The attackers of docs/security.md, at work on a real service, storage and node.

The node trusts one key. Whatever the attacker does to storage, database, service or disk, the tree
on the node stays as it was.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aotcache.core.limits import Limits
from aotcache.core.trust import (
    SIGNED,
    SigningKey,
    TrustPolicy,
    generate_key,
    make_policy,
    parse_trusted_keys,
)
from aotcache.errors import (
    AotcacheError,
    InvalidNameError,
    LocalError,
    ManifestError,
    PackError,
    RemoteError,
    TrustError,
)
from aotcache.probe.trees import FoundTree
from aotcache.protocol.compression import zstd
from aotcache.protocol.manifest import (
    EXECUTABLE,
    PLAIN,
    BlobPlace,
    FileEntry,
    Frame,
    Manifest,
    PackPlace,
    Statement,
    decode_manifest,
    encode_manifest,
    encode_statement,
)
from aotcache.protocol.platform import Platform
from aotcache.protocol.sections import MAX_SECTION, Sections, join_sections
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss
from aotcache.protocol.v1.trees import TreeDetail
from aotcache.remote.index import Index
from aotcache.storage import ObjectStore
from aotcache.sync.carry import export_tree, exported, import_trees
from aotcache.sync.pull import Pulled
from aotcache.sync.site import Site
from support.site import publish_tree, pull_tree
from support.small import Here, add, record, service_here, small_tree
from support.trees import H100, contents

PUBLISHER, STRANGER = generate_key(), generate_key()
A100 = replace(H100, device="NVIDIA A100-SXM4-80GB", arch="sm_80")


def trusting(*keys: SigningKey, revoked: str = "") -> TrustPolicy:
    lines = [key.public_line() for key in keys] + [f"revoked {revoked}"] * bool(revoked)
    return make_policy(SIGNED, parse_trusted_keys("\n".join(lines), "the node"))


class Scene:
    """A service with two signed trees, and a node that wants the first."""

    def __init__(self, here: Here, folder: Path) -> None:
        self.here, self.folder = here, folder
        self.root = folder / "node"
        self.site = here.site(trusting(PUBLISHER))
        self.publisher = here.site(trusting(PUBLISHER), signer=PUBLISHER)
        self.tree = small_tree(folder / "publisher", ranks=(0, 1))
        self.other = small_tree(folder / "publisher", name="other", ranks=(0,))
        publish_tree(self.publisher, self.tree)
        publish_tree(self.publisher, self.other)

    @property
    def store(self) -> ObjectStore:
        return self.here.store

    def key(self, part: str = "shared", generation: int = 1, tree: FoundTree | None = None) -> str:
        return next(
            found.key
            for found in self.store.list("default/trees/")
            if f"/{(tree or self.tree).hash}/" in found.key
            and found.key.endswith(f"/{part}/{generation:08}.manifest")
        )

    def replace(self, key: str, data: bytes) -> None:
        """Storage is the attacker's."""
        self.store.delete(key)
        self.store.put(key, data)

    def manifest(self, part: str = "shared") -> Manifest:
        return decode_manifest(self.store.get(self.key(part)))

    def pull(self, site: Site | None = None, *parts: str) -> Pulled | Miss:
        return pull_tree(site or self.site, self.tree, H100, self.root, *parts)

    def refused(
        self, kind: type[AotcacheError], said: str | None, site: Site | None = None
    ) -> None:
        """The pull fails with this, and nothing of it is seen."""
        before = contents(self.root) if self.root.exists() else {}
        with pytest.raises(kind, match=said):
            self.pull(site)
        after = contents(self.root) if self.root.exists() else {}
        seen = {path: data for path, data in after.items() if ".aotcache" not in path}
        assert seen == {path: data for path, data in before.items() if ".aotcache" not in path}


@pytest.fixture
def scene(here: Here, tmp_path: Path) -> Scene:
    return Scene(here, tmp_path)


@pytest.fixture
def here(tmp_path: Path) -> Any:
    with service_here(tmp_path / "service") as found:
        yield found


def test_without_an_attacker_it_works(scene: Scene) -> None:
    assert isinstance(scene.pull(), Pulled)
    assert set(contents(scene.root)) > {
        f"torch_compile_cache/torch_aot_compile/{scene.tree.hash}/rank_0_0/model"
    }


# Malicious storage


def test_a_pack_is_replaced(scene: Scene) -> None:
    for found in list(scene.store.list("default/packs/")):
        data = bytearray(scene.store.get(found.key))
        data[len(data) // 2] ^= 1
        scene.replace(found.key, bytes(data))
    scene.refused(PackError, None)


def test_a_pack_is_cut(scene: Scene) -> None:
    for found in list(scene.store.list("default/packs/")):
        scene.replace(found.key, scene.store.get(found.key)[:-1])
    scene.refused(AotcacheError, None)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _: {"namespace": "team"}, id="namespace"),
        pytest.param(lambda _: {"hash": "0" * 64}, id="hash"),
        pytest.param(lambda _: {"platform": A100}, id="platform"),
        pytest.param(lambda _: {"part": "rank_0_0-d0"}, id="part"),
        pytest.param(lambda _: {"generation": 2}, id="generation"),
        pytest.param(lambda _: {"recipe": None}, id="recipe"),
        pytest.param(lambda s: {"files": (_file(s, path="evil.py"), *s.files[1:])}, id="path"),
        pytest.param(lambda s: {"files": (_file(s, mode=EXECUTABLE), *s.files[1:])}, id="mode"),
        pytest.param(lambda s: {"files": (_file(s, digest="0" * 64), *s.files[1:])}, id="digest"),
        pytest.param(lambda s: {"files": (_file(s, relocate="tree"), *s.files[1:])}, id="relocate"),
        pytest.param(lambda s: {"files": s.files[1:]}, id="a file less"),
    ],
)
def test_any_field_of_a_signed_manifest_is_changed(
    scene: Scene, change: Callable[[Statement], dict[str, Any]]
) -> None:
    """With the signature kept, and with the stranger's own."""
    good = scene.manifest()
    said = msgspec.structs.replace(good.statement, **change(good.statement))
    data = encode_statement(said)
    for signatures, why in (
        (good.signatures, "was changed after"),
        ((STRANGER.sign(data),), "none of the 1"),
    ):
        scene.replace(scene.key(), encode_manifest(data, good.locations, signatures))
        scene.refused(TrustError, why)


def _file(said: Statement, **about: Any) -> Any:
    return msgspec.structs.replace(said.files[0], **about)


def test_signatures_are_taken_away(scene: Scene) -> None:
    good = scene.manifest()
    scene.replace(scene.key(), encode_manifest(good.statement_bytes, good.locations, ()))
    scene.refused(TrustError, "signed by nobody")


def test_manifests_are_swapped_between_hashes_and_parts(scene: Scene) -> None:
    """All of them are signed by the key that the node trusts."""
    mine = scene.key()
    own = scene.store.get(mine)
    for other in (scene.key(tree=scene.other), scene.key("rank_0_0-d0")):
        scene.replace(mine, scene.store.get(other))
        scene.refused(ManifestError, "holds the manifest of")
    scene.replace(mine, own)
    assert isinstance(scene.pull(), Pulled)


def test_manifests_are_swapped_between_platforms(scene: Scene, tmp_path: Path) -> None:
    elsewhere = small_tree(tmp_path / "a100", ranks=(0, 1), platform=A100)
    publish_tree(scene.publisher, elsewhere)
    for part in ("shared", "rank_0_0-d0", "rank_1_0-d1"):
        (mine, theirs) = sorted(
            (
                found.key
                for found in scene.store.list("default/trees/")
                if f"/{scene.tree.hash}/" in found.key and f"/{part}/" in found.key
            ),
            key=lambda key: H100.for_any_cpu().id not in key,
        )
        scene.replace(mine, scene.store.get(theirs))
    scene.refused(ManifestError, "holds the manifest of")


def test_places_lead_to_other_bytes(scene: Scene) -> None:
    """Places are not signed: digests guard what is found there."""
    good = scene.manifest()
    blobs = good.locations.blobs
    size = blobs[0].size
    wrong = (msgspec.structs.replace(blobs[0], offset=blobs[0].offset + 1), *blobs[1:])
    assert size
    locations = msgspec.structs.replace(good.locations, blobs=wrong)
    scene.replace(scene.key(), encode_manifest(good.statement_bytes, locations, good.signatures))
    scene.refused(AotcacheError, None)


def test_a_section_that_would_fill_the_memory(scene: Scene) -> None:
    bomb = zstd.compress(bytes(MAX_SECTION + 1))
    assert len(bomb) < 100_000
    for sections in (
        Sections(statement=bomb, locations=b"", signatures=(PUBLISHER.sign(bomb),)),
        Sections(
            statement=scene.manifest().statement_bytes,
            locations=bomb,
            signatures=scene.manifest().signatures,
        ),
    ):
        scene.replace(scene.key(), join_sections(sections))
        scene.refused(ManifestError, "too large")


def test_places_ask_for_more_than_there_can_be(scene: Scene) -> None:
    """Before anything of it is asked for."""
    good = scene.manifest()
    (pack, *rest) = good.locations.packs
    large = msgspec.structs.replace(pack.frames[0], stored=50 << 30)
    packs = (msgspec.structs.replace(pack, frames=(large, *pack.frames[1:])), *rest)
    locations = msgspec.structs.replace(good.locations, packs=packs)
    scene.replace(scene.key(), encode_manifest(good.statement_bytes, locations, good.signatures))
    scene.refused(ManifestError, "empty or too large")


@pytest.fixture
def unasked(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte of a pack is asked for."""

    def get_range(_store: ObjectStore, key: str, start: int, end: int) -> bytes:
        raise AssertionError((key, start, end))

    monkeypatch.setattr(type(scene.site.store), "get_range", get_range)


LIMITS = ["manifest_bytes", "files", "tree_bytes", "ratio", "range_bytes", "prefix_bytes"]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.usefixtures("unasked")
def test_what_is_over_the_nodes_limits(scene: Scene, limit: str) -> None:
    site = replace(scene.site, limits=Limits(**{limit: 0}))
    scene.refused(ManifestError, f"this node takes 0: .* raise AOTCACHE_MAX_{limit.upper()}", site)


@pytest.mark.parametrize("serves", ["a file", "a prefix"])
@pytest.mark.usefixtures("unasked")
def test_a_blob_that_no_publisher_makes(scene: Scene, serves: str) -> None:
    """Two files of the same 512 MiB, say, one of them urgent, would be joined in memory."""
    good = scene.manifest()
    size, digest = 512 << 20, "f" * 64
    frames = tuple(Frame(1 << 20, 64 << 20) for _ in range(8))
    packs = (*good.locations.packs, PackPlace(f"{'0' * 64}-{'0' * 32}", frames))
    place = BlobPlace(len(packs) - 1, 0, size)
    said, blobs = good.statement, good.locations.blobs
    if serves == "a file":
        more = tuple(FileEntry(f"inductor_cache/zz/{n}.py", size, PLAIN, digest) for n in (1, 2))
        said = msgspec.structs.replace(said, files=(*said.files, *more))
        at = len(said.digests()) - 1
        places = {"blobs": (*blobs[:at], place, *blobs[at:])}
    else:
        places = {"blobs": (*blobs, place), "extra": (*good.locations.extra, digest)}
    data = encode_statement(said)
    locations = msgspec.structs.replace(good.locations, packs=packs, **places)
    scene.replace(scene.key(), encode_manifest(data, locations, (PUBLISHER.sign(data),)))
    scene.refused(ManifestError, f"has a file of {size} bytes")


# A rewritten database


def rewritten(scene: Scene, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(scene.folder / "service" / "index.sqlite3")) as db, db:
        assert db.execute(statement, values).rowcount > 0


def test_the_database_leads_to_another_tree(scene: Scene) -> None:
    rewritten(
        scene,
        "UPDATE parts SET manifest = ? WHERE manifest = ?",
        scene.key(tree=scene.other),
        scene.key(),
    )
    scene.refused(ManifestError, "not what was asked for")


def test_the_database_lets_a_stranger_publish(scene: Scene, tmp_path: Path) -> None:
    """Whoever can write it can make tokens, and store what they like: no node installs it."""
    evil = small_tree(tmp_path / "evil", name="evil")
    publish_tree(scene.here.site(trusting(STRANGER), signer=STRANGER), evil)
    with pytest.raises(TrustError, match=f"signed by {STRANGER.id}"):
        pull_tree(scene.site, evil, H100, scene.root)


def test_an_older_generation_is_served_again(scene: Scene) -> None:
    """A node that has seen the newer one notices; a fresh one cannot."""
    add(scene.tree.path, "inductor_cache/zz/more.py", b"more")
    record(Path(scene.tree.path), "rank_0_0-d0", platform=H100)
    publish_tree(scene.publisher, scene.tree)
    found = scene.pull()
    assert isinstance(found, Pulled)
    assert {part.part: part.generation for part in found.parts}["shared"] == 2
    rewritten(
        scene,
        "UPDATE parts SET newest = (generation = 1) WHERE part = 'shared' AND tree_id = "
        "(SELECT tree_id FROM parts WHERE manifest = ?)",
        scene.key(),
    )
    scene.refused(TrustError, "generation 1 of shared is offered, and this node has seen 2")
    scene.root = scene.folder / "fresh"
    assert isinstance(scene.pull(), Pulled)


# A lying service


class Lying(Index):
    def __init__(self, index: Index, lie: Callable[[Hit], Hit | Miss]) -> None:
        self.__dict__ = index.__dict__
        self.lie = lie

    def lookup(self, asked: Lookup) -> Hit | Miss:
        found = super().lookup(asked)
        assert isinstance(found, Hit)
        return self.lie(found)


@pytest.mark.parametrize("field", ["manifest", "generation", "part"])
def test_the_service_answers_with_something_else(scene: Scene, field: str) -> None:
    other = {
        "manifest": scene.key(tree=scene.other),
        "generation": 7,
        "part": "rank_0_0-d0",
    }[field]

    def lie(hit: Hit) -> Hit:
        (first, *rest) = sorted(hit.parts, key=lambda part: part.part != "shared")
        return replace(hit, parts=(replace(first, **{field: other}), *rest))

    scene.refused(AotcacheError, None, replace(scene.site, index=Lying(scene.site.index, lie)))


@pytest.mark.usefixtures("unasked")
def test_the_service_names_a_part_many_times(scene: Scene) -> None:
    lying = Lying(scene.site.index, lambda hit: replace(hit, parts=hit.parts[-1:] * 1000))
    scene.refused(RemoteError, "twice", replace(scene.site, index=lying))


def test_the_service_names_another_namespace(scene: Scene) -> None:
    lying = Lying(scene.site.index, lambda hit: replace(hit, namespace="team"))
    scene.refused(AotcacheError, None, replace(scene.site, index=lying))


def test_the_service_withholds(scene: Scene) -> None:
    """Then the node compiles, as it would without any service."""
    lying = Lying(scene.site.index, lambda _: Miss(reason="unknown_hash", message="none"))
    assert isinstance(scene.pull(replace(scene.site, index=lying)), Miss)


# A lying service, and whoever can write to what was exported


def detail(scene: Scene, platform: Platform = H100) -> TreeDetail:
    found = scene.site.index.tree(scene.tree.hash, platform=platform.for_any_cpu().id)
    (one,) = found.trees
    return one


def lied(stored: TreeDetail, **about: Any) -> TreeDetail:
    return replace(stored, tree=replace(stored.tree, **about))


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        pytest.param({"platform_id": "../victim"}, RemoteError, id="a path out of it"),
        pytest.param({"platform_id": "{absolute}"}, RemoteError, id="an absolute path"),
        pytest.param({"platform": A100}, RemoteError, id="another platform"),
        pytest.param({"layout": "../../x"}, InvalidNameError, id="a layout"),
        pytest.param({"hash": "../../x"}, InvalidNameError, id="a hash"),
    ],
)
def test_an_export_stays_in_its_directory(
    scene: Scene, about: dict[str, Any], kind: type[AotcacheError]
) -> None:
    box = scene.folder / "outer/box"
    absolute = str(scene.folder / "outer/victim")
    told = {name: absolute if value == "{absolute}" else value for name, value in about.items()}
    with pytest.raises(kind):
        export_tree(scene.site, lied(detail(scene), **told), str(box))
    assert not box.parent.exists()


def test_an_export_is_not_of_another_platform(scene: Scene) -> None:
    """The service gives the parts of one platform's tree as those of another's: what is imported is
    what the manifests say, which the publisher signed."""
    publish_tree(scene.publisher, small_tree(scene.folder / "a100", ranks=(0, 1), platform=A100))
    here, other = detail(scene), detail(scene, A100)
    box = str(scene.folder / "box")
    export_tree(scene.site, replace(here, parts=other.parts), box)
    importer = generate_key()
    site = scene.here.site(trusting(PUBLISHER, importer), signer=importer)
    (done,) = import_trees(site, "prod", exported(box))
    assert done.tree.platform == here.tree.platform_id
    # One that lies where the other would.
    (platform,) = Path(box).iterdir()
    platform.rename(platform.with_name(other.tree.platform_id))
    with pytest.raises(TrustError, match="and lies under"):
        list(import_trees(site, "team", exported(box)))
    assert not scene.site.index.trees(namespace="team").trees


def test_an_export_is_not_of_the_tree_for_any_cpu(scene: Scene) -> None:
    """It may be used on this one, and is not what was to be exported."""
    here = detail(scene)
    stored = lied(here, platform=H100, platform_id=H100.id)
    with pytest.raises(RemoteError, match="in place of the tree for platform"):
        export_tree(scene.site, stored, str(scene.folder / "box"))
    with pytest.raises(TrustError, match="and lies under"):
        list(import_trees(scene.publisher, "team", exported(str(scene.folder / "box"))))


@pytest.mark.parametrize("what", ["changed", "added", "executable", "record", "unsigned"])
def test_an_export_is_changed_before_its_import(scene: Scene, what: str) -> None:
    box = scene.folder / "box"
    export_tree(scene.site, detail(scene), str(box))
    ((_, tree),) = exported(str(box))
    file = Path(tree.path) / "inductor_cache/ab/cabcdef.py"
    site = scene.publisher
    match what:
        case "changed":
            file.write_bytes(file.read_bytes()[:-1] + b"!")
        case "added":
            add(tree.path, "inductor_cache/ab/cevil.py", b"evil")
        case "executable":
            file.chmod(0o755)
        case "record":
            record(Path(tree.path), "rank_0_0-d0", platform=A100)
        case "unsigned":
            site = scene.here.site(trusting(STRANGER), signer=STRANGER)
    if what == "record":  # nobody believes it
        (done,) = import_trees(site, "prod", exported(str(box)))
        assert done.tree.platform == H100.for_any_cpu().id
        return
    why = f"signed by {PUBLISHER.id}" if what == "unsigned" else "in no manifest that this machine"
    with pytest.raises(TrustError, match=why):
        list(import_trees(site, "prod", exported(str(box))))
    assert not scene.site.index.trees(namespace="prod").trees


def test_what_a_directory_remembers_of_its_files_is_not_believed(scene: Scene) -> None:
    """The digests that an earlier import noted, of a file that has changed and does not look so."""
    box = str(scene.folder / "box")
    export_tree(scene.site, detail(scene), box)
    list(import_trees(scene.publisher, "team", exported(box)))
    ((_, tree),) = exported(box)
    file = Path(tree.path) / "inductor_cache/ab/cabcdef.py"
    times = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(LocalError, match="changed while it was published"):
        list(import_trees(scene.publisher, "prod", exported(box)))
    assert not scene.site.index.trees(namespace="prod").trees


def test_an_import_goes_on_in_a_second_namespace(scene: Scene) -> None:
    """Beside the exporter's manifests lie the importer's then."""
    box = str(scene.folder / "box")
    export_tree(scene.site, detail(scene), box)
    first, second = generate_key(), generate_key()
    for key, namespace in ((first, "prod"), (second, "team")):
        site = scene.here.site(trusting(PUBLISHER, key), signer=key)
        (done,) = import_trees(site, namespace, exported(box))
        assert done.tree.namespace == namespace


# Another local user


@pytest.mark.parametrize("where", ["inductor_cache", "rank_0_0", "inductor_cache/triton"])
def test_a_link_is_planted_in_the_tree(scene: Scene, where: str) -> None:
    outside = scene.folder / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    tree = scene.root / "torch_compile_cache" / "torch_aot_compile" / scene.tree.hash
    (tree / where).parent.mkdir(parents=True)
    (tree / where).symlink_to(outside)
    with pytest.raises(LocalError, match="is a link or a file where the tree has a directory"):
        scene.pull()
    assert contents(outside) == {"file": b"precious"}


def test_a_hard_link_is_planted_in_the_tree(scene: Scene) -> None:
    """A file that is there is never written to: what else has its bytes keeps them."""
    victim = scene.folder / "precious"
    victim.write_bytes(b"precious")
    tree = scene.root / "torch_compile_cache" / "torch_aot_compile" / scene.tree.hash
    (tree / "rank_0_0").mkdir(parents=True)
    os.link(victim, tree / "rank_0_0" / "model")
    found = scene.pull()
    assert isinstance(found, Pulled)
    assert found.kept == 1
    assert victim.read_bytes() == b"precious"


def test_the_tree_itself_is_a_link(scene: Scene) -> None:
    outside = scene.folder / "outside"
    outside.mkdir()
    tree = scene.root / "torch_compile_cache" / "torch_aot_compile" / scene.tree.hash
    tree.parent.mkdir(parents=True)
    tree.symlink_to(outside)
    with pytest.raises(LocalError):
        scene.pull()
    assert list(outside.iterdir()) == []


# A stolen signing key


def test_a_revoked_key_takes_exactly_its_parts(scene: Scene) -> None:
    """The first rank was published with the key that is lost, the second with another one."""
    lost = STRANGER
    both = scene.here.site(trusting(PUBLISHER, lost), signer=lost)
    third = small_tree(scene.folder / "third", name="third", ranks=(0,))
    publish_tree(both, third)
    assert isinstance(pull_tree(both, third, H100, scene.root), Pulled)
    after = scene.here.site(trusting(PUBLISHER, lost, revoked=lost.id))
    fresh = scene.folder / "fresh"
    with pytest.raises(TrustError, match=lost.id):
        pull_tree(after, third, H100, fresh)
    assert isinstance(pull_tree(after, scene.tree, H100, fresh), Pulled)


def test_rotation_overlaps(scene: Scene) -> None:
    """The new key is trusted first; trees of both are installed until the old one is revoked."""
    new = generate_key()
    third = small_tree(scene.folder / "third", name="third")
    publish_tree(scene.here.site(trusting(PUBLISHER, new), signer=new), third)
    during = scene.here.site(trusting(PUBLISHER, new))
    for tree in (scene.tree, third):
        assert isinstance(pull_tree(during, tree, H100, scene.root), Pulled)
    after = scene.here.site(trusting(PUBLISHER, new, revoked=PUBLISHER.id))
    assert isinstance(pull_tree(after, third, H100, scene.folder / "fresh"), Pulled)
    with pytest.raises(TrustError):
        pull_tree(after, scene.tree, H100, scene.folder / "fresh")
