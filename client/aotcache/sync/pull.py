"""Pull: put a stored tree on this disk, whole units only, nothing that is not verified."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aotcache.core.trust import UNSIGNED
from aotcache.errors import ManifestError, ObjectMissingError, RemoteError, UsageError
from aotcache.local.existing import compare
from aotcache.local.pulled import Note, write_note
from aotcache.local.staging import discard
from aotcache.local.state import TreeState, target_of
from aotcache.net.tracing import span
from aotcache.protocol.content import content_of
from aotcache.protocol.manifest import FileEntry, Manifest, encode_whole
from aotcache.protocol.names import SHARED, TreeKey, part_directory
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart
from aotcache.sync.mover import Mover
from aotcache.sync.refusals import crashed_here, other_graph, refuse_foreign, refuse_older
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledPart:
    """files: that the part has; installed: of those, how many were not on this disk yet; kept: how
    many were, with other content, and stayed as they were."""

    part: str
    generation: int
    files: int
    installed: int
    kept: int
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What a pull did. Bytes moved are as stored, bytes written as installed; seconds of it all.

    missing: parts that the tree should have and that nobody has published yet.
    compile_seconds: what the compile took where it was published; None: not known.
    unsigned: the policy accepts parts that nobody signed.
    """

    tree: TreeKey
    path: str
    parts: tuple[PulledPart, ...]
    missing: tuple[str, ...]
    moved_bytes: int
    written_bytes: int
    requests: int
    seconds: float
    compile_seconds: float | None
    unsigned: bool

    @property
    def installed(self) -> int:
        return sum(part.installed for part in self.parts)

    @property
    def kept(self) -> int:
        return sum(part.kept for part in self.parts)


def pull(
    site: Site,
    lookup: Lookup,
    tree_path: str,
    *,
    lock_timeout: float = -1,
    recipe: Recipe | None = None,
    beside: Callable[[Hit], Miss | None] = lambda hit: None,  # noqa: ARG005
) -> Pulled | Miss:
    """Look a tree up and install it at `tree_path` (absolute): the parts asked for, or all.

    Several processes of one node may ask at once: one fetches, the others wait and find it there.
    Existing files are never replaced: those with another size, and a `model` with other content,
    are counted as `kept`, and the model is warned of. recipe: of the start that will load it: what
    was compiled for another graph is a miss (`graph_differences`); None: any will do. beside: is
    called with what was found, before anything is installed; a Miss of its own is the answer then.
    A Miss says why there is nothing to pull; every error is raised (AotcacheError) and leaves the
    tree as it was, or with whole units more.
    """
    begin = time.monotonic()
    state = TreeState(tree_path)
    about = {"layout": lookup.layout, "hash": lookup.hash, "namespace": lookup.namespace}
    with span("aotcache.pull", **about), state.locked(lock_timeout, site.progress.step):
        found_there = _look_up(site, lookup)
        if isinstance(found_there, Miss):
            return found_there
        answer, manifests = found_there
        if (missed := beside(answer)) is not None:
            return missed
        if recipe is not None and (other := other_graph(manifests, recipe)) is not None:
            return other
        refuse_foreign(manifests)
        refuse_older(site, state, manifests)
        # Not before: it is the sign that a pull was cut off, for as long as nobody can finish it.
        discard(state.staging)
        if (crashed := crashed_here(manifests, tree_path)) is not None:
            return crashed
        found = {m.statement.part: compare(m.statement.files, tree_path) for m in manifests}
        for warning in (text for compared in found.values() for text in compared.models):
            logger.warning("%s", warning)
        missing = [entry for compared in found.values() for entry in compared.missing]

        def note(installed: Sequence[FileEntry]) -> None:
            seconds = time.monotonic() - begin
            _take_note(answer, manifests, installed, tree_path, seconds, mover.moved)

        # Before they are there, too: who loads what a killed pull left knows where it is from.
        mover = Mover(site, answer.namespace, manifests, missing, installing=note)
        if missing:
            mover.move(state, tree_path)
        for manifest in manifests:
            said = manifest.statement
            target = target_of(site.store.url, said.namespace, said.platform.id)
            state.remember(target, said.part, encode_whole(manifest))
        note(missing)
    return Pulled(
        tree=manifests[0].statement.tree,
        path=tree_path,
        parts=tuple(
            PulledPart(
                part=m.statement.part,
                generation=m.statement.generation,
                files=len(m.statement.files),
                installed=len(found[m.statement.part].missing),
                kept=found[m.statement.part].kept,
                signers=tuple(signature.key for signature in m.signatures),
            )
            for m in manifests
        ),
        missing=answer.missing,
        moved_bytes=mover.moved,
        written_bytes=mover.written,
        requests=mover.requests,
        seconds=time.monotonic() - begin,
        compile_seconds=answer.compile_seconds,
        unsigned=site.policy.mode == UNSIGNED,
    )


def _look_up(
    site: Site, lookup: Lookup, *, again: bool = True
) -> tuple[Hit, list[Manifest]] | Miss:
    """What is found, and the manifests of the parts. again: a tree may be deleted in between, which
    is a miss; a manifest that is lost raises ObjectMissingError the second time."""
    answer = site.index.lookup(lookup)
    if isinstance(answer, Miss):
        return answer
    parts = _choose_parts(answer, lookup)
    site.progress.step(
        f"found {lookup.layout}/{lookup.hash[:12]}: {', '.join(part.part for part in parts)}"
    )
    try:
        return answer, _manifests(site, answer, parts, lookup)
    except ObjectMissingError:
        if not again:
            raise
    return _look_up(site, lookup, again=False)


def _choose_parts(hit: Hit, lookup: Lookup) -> list[StoredPart]:
    left = set(lookup.parts) - {part.part for part in hit.parts}
    if left or not hit.parts:
        raise RemoteError(
            f"the service says that {hit.layout}/{hit.hash[:12]} is stored, and not where "
            f"{', '.join(sorted(left)) or 'any part'} lies: run `aotcache reindex` there"
        )
    chosen = [part for part in hit.parts if not lookup.parts or part.part in lookup.parts]
    if len({part.part for part in chosen}) < len(chosen):
        raise RemoteError(
            f"the service names a part of {hit.layout}/{hit.hash[:12]} twice: nothing was "
            "installed; run `aotcache reindex` there"
        )
    for directory, names in several_devices(part.part for part in chosen).items():
        raise UsageError(
            f"{hit.layout}/{hit.hash[:12]} holds {directory} compiled for several devices "
            f"({', '.join(names)}), and a disk has room for one: say which with --part"
        )
    return chosen


def several_devices(parts: Iterable[str]) -> dict[str, list[str]]:
    """Parts of which a disk has room for one: the same rank on another device, in another
    topology. By directory."""
    by_directory: dict[str, list[str]] = defaultdict(list)
    for part in parts:
        if part != SHARED:
            by_directory[part_directory(part)].append(part)
    return {directory: names for directory, names in by_directory.items() if len(names) > 1}


def _manifests(site: Site, hit: Hit, parts: list[StoredPart], lookup: Lookup) -> list[Manifest]:
    manifests = site.manifests([part.manifest for part in parts])
    for part, manifest in zip(parts, manifests, strict=True):
        said = manifest.statement
        asked = (hit.namespace, lookup.layout, lookup.hash, part.part, part.generation)
        signed = (said.namespace, said.layout, said.hash, said.part, said.generation)
        if asked != signed or said.platform.id not in lookup.platform.acceptable():
            # The index or the storage answers with another tree's manifest: never install it.
            raise ManifestError(
                f"{part.manifest} is the manifest of {'/'.join(map(str, signed))} for platform "
                f"{said.platform.id[:8]}, not what was asked for: nothing was installed; run "
                "`aotcache reindex` on the service"
            )
    site.limits.check_prefixes(manifests, f"{lookup.layout}/{lookup.hash[:12]}")
    return manifests


def _take_note(
    hit: Hit,
    manifests: Sequence[Manifest],
    installed: Sequence[FileEntry],
    tree_path: str,
    seconds: float,
    moved: int,
) -> None:
    """Note the parts whose loaded files this pull installed; the rest is from before."""
    paths = {entry.path for entry in installed}
    statements = [manifest.statement for manifest in manifests]
    parts = [s for s in statements if content_of(e for e in s.files if e.path in paths)]
    for said in parts:
        note = Note(
            namespace=said.namespace,
            layout=said.layout,
            hash=said.hash,
            platform=said.platform.id,
            part=said.part,
            generation=said.generation,
            content=content_of(said.files),
            recipe=said.recipe.id if said.recipe else "",
            started=said.recipe,
            seconds=seconds / len(parts),
            bytes=moved // len(parts),
            compile_seconds=hit.compile_seconds,
        )
        write_note(tree_path, note)
