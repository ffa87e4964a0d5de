"""Pull: put a stored tree on this disk, whole units only, nothing that is not verified."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import msgspec

from aotcache.core.trust import UNSIGNED
from aotcache.errors import AotcacheError, ManifestError, ObjectMissingError, TrustError
from aotcache.local.existing import Compared, compare
from aotcache.local.pulled import Note, write_note
from aotcache.local.state import TreeState, target_of
from aotcache.net.tracing import span
from aotcache.protocol.content import content_of
from aotcache.protocol.manifest import FileEntry, Manifest, encode_whole
from aotcache.protocol.names import SHARED, TreeKey
from aotcache.protocol.recipe import Recipe
from aotcache.protocol.v1.lookup import Hit, Lookup, Miss, StoredPart
from aotcache.sync.mover import Mover
from aotcache.sync.parts import choose_parts
from aotcache.sync.refusals import crashed_here, other_graph, refuse_foreign, refuse_older
from aotcache.sync.site import Site

logger = logging.getLogger(__name__)


class PulledPart(msgspec.Struct, frozen=True, kw_only=True):
    """files: that the part has; installed: of those, how many were not on this disk yet; kept: how
    many were, with other content, and stayed as they were."""

    part: str
    generation: int
    files: int
    installed: int
    kept: int
    signers: tuple[str, ...]


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
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
    found: Callable[[], Hit | Miss] | None = None,
) -> Pulled | Miss:
    """Look a tree up and install it at `tree_path` (absolute): the parts asked for, or all.

    Several processes of one node may ask at once: one fetches, the others wait and find it there.
    Existing files are never replaced: those with another size, and a `model` with other content,
    are counted as `kept`, and the model is warned of. recipe: of the start that will load it: what
    was compiled for another graph is a miss (`graph_differences`); None: any will do. beside: is
    called with what was found, before anything is installed; a Miss of its own is the answer then.
    found: gives the answer to this lookup, with manifests, where it was asked for already; not used
    where another process had to be waited for.
    A Miss says why there is nothing to pull; every error is raised (AotcacheError) and leaves the
    tree as it was, or with whole units more.
    """
    state = TreeState(tree_path)
    about = {"layout": lookup.layout, "hash": lookup.hash, "namespace": lookup.namespace}
    begin = time.monotonic()
    asked = lookup.before_a_pull()

    def waiting(text: str) -> None:
        nonlocal found
        found = None
        site.progress.step(text)

    with span("aotcache.pull", **about), state.locked(lock_timeout, waiting):
        try:
            hit = found() if found else site.index.lookup(asked)
            return _Pull(site, lookup, state, recipe, beside, begin, old=found is not None).run(hit)
        except _OldError as error:
            logger.info("%s is looked up again: %s", tree_path, error.__cause__)
            hit = site.index.lookup(asked)
            return _Pull(site, lookup, state, recipe, beside, begin, last=True).run(hit)


class _MissError(Exception):
    def __init__(self, miss: Miss) -> None:
        self.miss = miss


class _OldError(Exception):
    """The service's answer is perhaps not what is stored any more: a manifest that it names is gone
    (its tree may have been deleted since, and is a miss then), or this node knows a newer one."""


class _Pull:
    """One try. The caller holds the tree's lock. old: the answer may be from before that. last:
    what else is an _OldError is raised as it is."""

    def __init__(
        self,
        site: Site,
        lookup: Lookup,
        state: TreeState,
        recipe: Recipe | None,
        beside: Callable[[Hit], Miss | None],
        begin: float,
        *,
        old: bool = False,
        last: bool = False,
    ) -> None:
        self._old, self._last = old, last
        self._site = site
        self._lookup = lookup
        self._state = state
        self._recipe = recipe
        self._beside = beside
        self._begin = begin
        self._manifests: list[Manifest] = []  # accepted
        self._compared: list[Compared] = []

    def run(self, hit: Hit | Miss) -> Pulled | Miss:
        if isinstance(hit, Miss):
            return hit
        parts = choose_parts(hit, self._lookup)
        self._site.progress.step(
            f"found {hit.layout}/{hit.hash[:12]}: {', '.join(part.part for part in parts)}"
        )

        def note(installed: Sequence[FileEntry]) -> None:
            seconds = time.monotonic() - self._begin
            path = self._state.tree_path
            _take_note(hit, self._manifests, installed, path, seconds, mover.moved)

        # Before they are there, too: who loads what a killed pull left knows where it is from.
        try:
            with Mover(self._site, self._state, hit.namespace, note) as mover:
                self._install(hit, parts, mover)
        except _MissError as error:
            return error.miss
        self._remember()
        note([entry for compared in self._compared for entry in compared.missing])
        return self._pulled(hit, mover)

    def _install(self, hit: Hit, parts: Sequence[StoredPart], mover: Mover) -> None:
        ranks = [part for part in parts if part.part != SHARED]
        shared = parts[len(ranks) :]
        self._site.store.take_urls(hit.urls, hit.url_seconds)
        # While all that the shared part lists is checked here, another process writes the few large
        # files of the ranks.
        helped = bool(ranks and shared) and mover.find_help(sum(part.raw_bytes for part in ranks))
        self._site.store.prepare()
        known = {part.manifest: part.data for part in parts if part.data}
        with self._perhaps_old(ObjectMissingError):
            manifests = self._site.manifests([part.manifest for part in parts], known)
        if helped:
            accepted = self._accept(hit, ranks, manifests, mover)
            if missing := self._compare(accepted):
                mover.lend(accepted, missing)
        rest = self._accept(hit, shared if helped else parts, manifests, mover)
        missing = self._compare(rest)
        if missing or mover.lent:
            mover.move(rest, missing)

    def _accept(
        self, hit: Hit, parts: Sequence[StoredPart], manifests: Iterator[Manifest], mover: Mover
    ) -> list[Manifest]:
        """The manifests of these parts, the next that come, if they are for this node."""
        with self._perhaps_old(ObjectMissingError):
            accepted = list(islice(manifests, len(parts)))
        for part, manifest in zip(parts, accepted, strict=True):
            _check_asked(self._lookup, hit, part, manifest)
        first = not self._manifests
        tree = f"{self._lookup.layout}/{self._lookup.hash[:12]}"
        self._site.limits.check_prefixes([*self._manifests, *accepted], tree)
        if self._recipe and (other := other_graph(accepted, self._recipe)) is not None:
            raise _MissError(other)
        refuse_foreign(accepted)
        with self._perhaps_old(*([TrustError] if self._old else [])):
            refuse_older(self._site, self._state, accepted)
        if first and (missed := self._beside(hit)) is not None:
            raise _MissError(missed)
        # Not before: it is the sign that a pull was cut off, for as long as nobody can finish it.
        mover.begin()
        if (crashed := crashed_here(accepted, self._state.tree_path)) is not None:
            raise _MissError(crashed)
        self._manifests += accepted
        return accepted

    @contextmanager
    def _perhaps_old(self, *kinds: type[AotcacheError]) -> Iterator[None]:
        try:
            yield
        except kinds as error:
            if self._last:
                raise
            raise _OldError from error

    def _compare(self, accepted: Sequence[Manifest]) -> list[FileEntry]:
        """What of them is missing here."""
        found = [compare(m.statement.files, self._state.tree_path) for m in accepted]
        for warning in (text for compared in found for text in compared.models):
            logger.warning("%s", warning)
        self._compared += found
        return [entry for compared in found for entry in compared.missing]

    def _remember(self) -> None:
        for manifest in self._manifests:
            said = manifest.statement
            target = target_of(self._site.store.url, said.namespace, said.platform.id)
            self._state.remember(target, said.part, encode_whole(manifest))

    def _pulled(self, hit: Hit, mover: Mover) -> Pulled:
        return Pulled(
            tree=self._manifests[0].statement.tree,
            path=self._state.tree_path,
            parts=tuple(
                PulledPart(
                    part=m.statement.part,
                    generation=m.statement.generation,
                    files=len(m.statement.files),
                    installed=len(compared.missing),
                    kept=compared.kept,
                    signers=tuple(signature.key for signature in m.signatures),
                )
                for m, compared in zip(self._manifests, self._compared, strict=True)
            ),
            missing=hit.missing,
            moved_bytes=mover.moved,
            written_bytes=mover.written,
            requests=mover.requests,
            seconds=time.monotonic() - self._begin,
            compile_seconds=hit.compile_seconds,
            unsigned=self._site.policy.mode == UNSIGNED,
        )


def _check_asked(lookup: Lookup, hit: Hit, part: StoredPart, manifest: Manifest) -> None:
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
