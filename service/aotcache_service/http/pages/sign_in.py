"""`GET|POST /sign-in`, `POST /sign-out`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from aotcache.errors import AotcacheError, ForbiddenError

from ...auth import ADMIN
from ...index import sign_ins
from ...index.audit import PAGES
from ..audit import audited
from ..context import Context, ContextDep
from .render import render
from .route import page_router
from .visitors import LIFETIME, FormDep, Visitor, VisitorDep, is_open, new_visitor, read_form

router = page_router()
To = Annotated[str, Query(max_length=2000)]


@router.get("/sign-in")
async def sign_in_page(request: Request, context: ContextDep, to: To = "/") -> Response:
    if await is_open(context):
        return RedirectResponse("/", 303)
    return render(request, "sign_in.html", None, to=_own(to), problem="")


@router.post("/sign-in")
async def sign_in(request: Request, context: ContextDep, to: To = "/") -> Response:
    form = await read_form(request)
    try:
        caller = await context.callers.ask(f"Bearer {form.get('token', '').strip()}")
        if caller.scope != ADMIN:
            raise ForbiddenError(
                f"token {caller.token} is one to {caller.scope}: the pages want an admin token"
            )
    except AotcacheError as error:
        return render(
            request, "sign_in.html", None, 403, to=_own(to), problem=str(error).partition(". ")[0]
        )
    visitor = new_visitor(caller)
    async with audited(context, caller, "sign in", "", way=PAGES, changes=False):
        await run_in_threadpool(_remember, context, visitor)
    answer = RedirectResponse(_own(to), 303)
    visitor.remember(request, answer)
    return answer


@router.post("/sign-out")
async def sign_out(context: ContextDep, visitor: VisitorDep, form: FormDep) -> Response:
    del form  # what it holds was looked at
    await run_in_threadpool(_forget, context, visitor)
    answer = RedirectResponse("/sign-in", 303)
    visitor.forget(answer)
    return answer


def _own(to: str) -> str:
    """A path of this service, never another website."""
    return to if to.startswith("/") and not to.startswith(("//", "/\\")) else "/"


def _remember(context: Context, visitor: Visitor) -> None:
    expires = context.database.now() + LIFETIME
    with context.database.write() as db:
        sign_ins.sign_in(
            db, visitor.cookie, visitor.caller.token, now=context.database.now(), expires=expires
        )


def _forget(context: Context, visitor: Visitor) -> None:
    with context.database.write() as db:
        sign_ins.sign_out(db, visitor.cookie)
