"""`GET|POST /trees/.../{action}`: what an operator does with a tree, asked first, then done and
noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from aotcache.errors import NotFoundError, UsageError
from aotcache.protocol.names import TreeKey
from aotcache.protocol.v1.quarantine import Quarantine, Release

from ...index.audit import PAGES
from ...index.detail import Tree, tree_detail
from ...index.listing import Filter
from ...ops import quarantine
from ...ops.delete import delete_trees
from ...ops.pin import pin, unpin
from ..audit import audited
from ..context import Context, ContextDep
from .render import render
from .route import page_router
from .tree import PATH, KeyDep, address
from .visitors import FormDep, VisitorDep

router = page_router()


@dataclass(frozen=True, slots=True)
class Action:
    """title, means: what the page that asks says. dangerous: it says so in red. wants: names of
    what the form has to hold."""

    title: str
    means: str
    do: Callable[[Context, TreeKey, Mapping[str, str]], object]
    dangerous: bool = False
    wants: tuple[str, ...] = ()


def _one(key: TreeKey) -> Filter:
    return Filter(
        namespaces=frozenset((key.namespace,)),
        layout=key.layout,
        hash=key.hash,
        platform_id=key.platform,
    )


def _pin(context: Context, key: TreeKey, _form: Mapping[str, str]) -> None:
    pin(context.database, context.store, _one(key))


def _unpin(context: Context, key: TreeKey, _form: Mapping[str, str]) -> None:
    unpin(context.database, context.store, _one(key))


def _delete(context: Context, key: TreeKey, _form: Mapping[str, str]) -> None:
    delete_trees(
        context.database,
        context.store,
        key.namespace,
        key.hash,
        layout=key.layout,
        platform=key.platform,
    )


def _quarantine(context: Context, key: TreeKey, form: Mapping[str, str]) -> None:
    asked = Quarantine(
        layout=key.layout,
        hash=key.hash,
        reason=form.get("reason", ""),
        part=form.get("part", ""),
        platform=key.platform,
        namespace=key.namespace,
        after=_generation(form.get("after", "")),
    )
    quarantine.put(context.database, context.store, asked, now=context.database.now())


def _release(context: Context, key: TreeKey, form: Mapping[str, str]) -> None:
    asked = Release(
        layout=key.layout,
        hash=key.hash,
        part=form.get("part", ""),
        platform=key.platform,
        namespace=key.namespace,
    )
    quarantine.release(context.database, context.store, asked)


def _generation(text: str) -> int:
    """0 where none is named."""
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 8):
        raise UsageError(f"{text[:20]!r} is no generation")
    return int(text or "0")


_ACTIONS = {
    "pin": Action(
        "Pin", "No collection and no deletion removes the tree until it is unpinned.", _pin
    ),
    "unpin": Action("Unpin", "Collections and deletions may remove the tree again.", _unpin),
    "quarantine": Action(
        "Quarantine",
        "What is served of it now is not served any more: nodes compile instead. It stays stored, "
        "and can be released.",
        _quarantine,
        dangerous=True,
        wants=("part", "reason"),
    ),
    "earlier": Action(
        "Serve an earlier generation",
        "Later generations are not served any more, until they are released. Nodes that have them "
        "keep them; what only they hold is compiled by the others.",
        _quarantine,
        dangerous=True,
        wants=("part", "reason", "after"),
    ),
    "release": Action(
        "Release",
        "What is quarantined is served again, and what nodes told of it is forgotten.",
        _release,
        wants=("part",),
    ),
    "delete": Action(
        "Delete",
        "The tree is gone for good, on all nodes that do not have it yet; they compile instead. "
        "Its packs go with a later collection.",
        _delete,
        dangerous=True,
    ),
}


def _action(name: str) -> Action:
    if name not in _ACTIONS:
        raise NotFoundError(f"there is no action {name[:40]!r}: a tree's page names them")
    return _ACTIONS[name]


def _tree(context: Context, key: TreeKey) -> Tree:
    with context.database.read() as db:
        return tree_detail(db, key)


@router.get(PATH + "/{action}")
def ask(
    request: Request, context: ContextDep, visitor: VisitorDep, key: KeyDep, action: str
) -> Response:
    wanted = _action(action)
    return render(
        request,
        "confirm.html",
        visitor,
        tree=_tree(context, key),
        action=wanted,
        at=address(key),
        do=address(key, action),
    )


@router.post(PATH + "/{action}")
async def do(
    context: ContextDep, visitor: VisitorDep, key: KeyDep, form: FormDep, action: str
) -> Response:
    wanted = _action(action)
    if unknown := form.keys() - set(wanted.wants):
        raise UsageError(f"this form has no {', '.join(sorted(unknown))[:200]}")
    said = ", ".join(f"{name} {value}" for name, value in sorted(form.items()) if value)
    what = f"{key.namespace}/{key.path} {said}".strip()
    async with audited(context, visitor.caller, action, what, key.namespace, PAGES):
        await context.in_storage(wanted.do, context, key, form)
    to = "/trees" if wanted.do is _delete else address(key)
    return RedirectResponse(f"{to}?done={action}", 303)
