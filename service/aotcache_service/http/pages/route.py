"""Routes of pages: what goes wrong is a page too."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError

from aotcache.errors import AotcacheError, UnauthenticatedError

from ..errors import said_of, status_of
from .render import render

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    def get_route_handler(self) -> _Handler:
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await inner(request)
            except UnauthenticatedError:
                asked = request.url.path if request.method == "GET" else "/"
                return RedirectResponse(f"/sign-in?to={quote(asked)}", 303)
            except (AotcacheError, RequestValidationError, SQLAlchemyError) as error:
                _, message = said_of(error)
                status = status_of(error)
                if status == 500:
                    raise
                return render(request, "error.html", None, status, number=status, message=message)

        return answer


def page_router() -> APIRouter:
    return APIRouter(route_class=PageRoute, include_in_schema=False)
