"""What is stored and accepted, and not installed here all the same."""

from __future__ import annotations

from collections.abc import Sequence

from aotcache.errors import ManifestError, TrustError
from aotcache.local.loading import poisoned
from aotcache.local.state import TreeState
from aotcache.probe.layouts import classify_checked
from aotcache.protocol.content import content_of
from aotcache.protocol.manifest import Manifest, encode_whole
from aotcache.protocol.names import SHARED, part_directory
from aotcache.protocol.recipe import Recipe, graph_differences, in_words
from aotcache.protocol.v1.lookup import OTHER_RECIPE, Miss
from aotcache.settings import ANY_RECIPE
from aotcache.sync.site import Site

CRASHED_HERE = "crashed_here"  # reason of a Miss that only this node gives


def other_graph(manifests: Sequence[Manifest], recipe: Recipe) -> Miss | None:
    for statement in (manifest.statement for manifest in manifests):
        if statement.recipe is None:
            continue
        if found := graph_differences(statement.recipe, recipe):
            return Miss(
                reason=OTHER_RECIPE,
                message=f"{statement.tree}: {statement.part} was compiled for another graph, and "
                f"has the same hash: {in_words(found)}; {ANY_RECIPE}=1 loads it all the same",
                differences=tuple(found),
            )
    return None


def refuse_foreign(manifests: Sequence[Manifest]) -> None:
    """What no publisher of ours lists has no place in a tree, whoever signed it: a rank's part
    holds files of that rank, and every path is one that its layout allows."""
    for said in (manifest.statement for manifest in manifests):
        own = SHARED if said.part == SHARED else part_directory(said.part)
        for entry in said.files:
            if classify_checked(said.layout, entry.path) != own:
                raise ManifestError(
                    f"{said.tree}: {said.part} lists {entry.path}, which has no place in it: "
                    "nothing was installed; upgrade aotcache here if its publisher's is newer, "
                    "else find out who signed it"
                )


def refuse_older(site: Site, state: TreeState, manifests: Sequence[Manifest]) -> None:
    """An older generation than this node has seen is offered by who wants it to run what has been
    replaced, or by storage that was set back. It holds nothing that the newer one had not."""
    # Wherever it was from: who offers it may say what it is called.
    known = [state.remembered(target) for target in state.targets()]
    for manifest in manifests if known else ():
        said = manifest.statement
        whole = encode_whole(manifest)
        for data in {found.get(said.part, whole) for found in known} - {whole}:
            try:
                seen = site.policy.accept(data, said.part).statement
            except (TrustError, ManifestError):
                continue  # of a key that is trusted no more, or damaged
            if seen.tree == said.tree and seen.generation > said.generation:
                raise TrustError(
                    f"{said.tree}: generation {said.generation} of {said.part} is offered, and "
                    f"this node has seen {seen.generation}: nothing was installed. If somebody set "
                    "it back on purpose (`aotcache quarantine add --after`, a revoked key, a "
                    f"backup), delete {state.manifests}; else treat service and storage as hostile"
                )


def crashed_here(manifests: Sequence[Manifest], tree_path: str) -> Miss | None:
    poison = poisoned(tree_path)
    for manifest in manifests if poison else ():
        said = manifest.statement
        if content_of(said.files) in poison:
            return Miss(
                reason=CRASHED_HERE,
                message=(
                    f"{said.tree}: {said.part} made an engine of this node crash and is not pulled "
                    f"again; to try it once more delete {TreeState(tree_path).poison}"
                ),
            )
    return None
