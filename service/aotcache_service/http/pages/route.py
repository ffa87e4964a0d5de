"""Routes of pages: what goes wrong is a page too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from aotcache.errors import UnauthenticatedError

from ..errors import said_of, status_of
from .render import render

log = logging.getLogger(__name__)

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
            except HTTPException as error:
                status, message = error.status_code, str(error.detail)
            except Exception as error:
                status, message = status_of(error), said_of(error)[1]
                if status >= 500:
                    log.warning("%s failed: %s", request.url.path, error, exc_info=status == 500)
            visitor = getattr(request.state, "visitor", None)
            return render(request, "error.html", visitor, status, number=status, message=message)

        return answer


def page_router() -> APIRouter:
    return APIRouter(route_class=PageRoute, include_in_schema=False)
