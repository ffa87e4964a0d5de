"""One table: which HTTP status an error is answered with. The body is always a Problem."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from aotcache import __version__
from aotcache.errors import (
    AotcacheError,
    BusyError,
    CondemnedError,
    ForbiddenError,
    FormatError,
    GenerationTakenError,
    InvalidNameError,
    NotFoundError,
    ObjectExistsError,
    ObjectMissingError,
    PinnedError,
    RateLimitedError,
    RemoteError,
    SessionExpiredError,
    StorageError,
    StorageUnavailableError,
    TrustError,
    UnauthenticatedError,
    UnavailableError,
    UsageError,
    VersionError,
)
from aotcache.protocol.v1.lookup import Miss
from aotcache.protocol.v1.problem import Problem
from aotcache.protocol.versions import API

from .bodies import json_answer

log = logging.getLogger(__name__)

_VERSIONED = re.compile(r"/v(\d{1,4})/")

# The closest class in an error's ancestry counts.
STATUS: dict[type[Exception], int] = {
    UsageError: 400,
    InvalidNameError: 400,
    FormatError: 400,
    TrustError: 403,
    StorageError: 502,
    ObjectMissingError: 404,
    ObjectExistsError: 409,
    StorageUnavailableError: 503,
    UnavailableError: 503,
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    RateLimitedError: 429,
    VersionError: 404,
    NotFoundError: 404,
    GenerationTakenError: 409,
    SessionExpiredError: 410,
    CondemnedError: 409,
    PinnedError: 409,
    BusyError: 409,
    RequestValidationError: 422,
    OperationalError: 503,
    PoolTimeoutError: 503,
    DataError: 400,
    Exception: 500,
}

_DESCRIPTIONS = {
    400: "Something asked for cannot be, or is of the wrong form",
    401: "There is no token, or one that is unknown, revoked or expired",
    403: "The token does not allow it",
    404: "There is none of that name",
    408: "The body took too long",
    409: "Something else is there already, or is going",
    410: "The publish session is over",
    411: "The request has no Content-Length",
    413: "The body is too large",
    416: "The range lies outside the object",
    422: "The request does not validate",
    429: "The token asks too often",
    500: "The service has a fault; its log tells more",
    503: "Object storage or the database does not answer: try again",
}


_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    503: {"Retry-After": "1"},
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: these answers, and those that every route below /v1 can give."""
    return plain_problems(*statuses, 401, 403, 429)


def plain_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """As `problems`, where no token is asked for."""
    return {
        status: {"model": Problem, "description": _DESCRIPTIONS[status]}
        for status in sorted({*statuses, 422, 500, 503})
    }


def miss_answer(miss: Miss) -> Response:
    return json_answer(miss, 404)


def install(app: FastAPI) -> None:
    for cls in (*STATUS, AotcacheError, HTTPException):
        app.add_exception_handler(cls, answer_error)


def status_of(error: Exception) -> int:
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        cause = error.__cause__  # one of ours that had to pass FastAPI
        if isinstance(cause, AotcacheError):
            return answer_error(request, cause)
        return _http_answer(request, error)
    status = status_of(error)
    where = f"{request.method} {request.url.path}"
    if status >= 500 and status != 503:
        log.error("%s failed", where, exc_info=error)
    elif status == 503:
        log.warning("%s: %s", where, error)
    return _problem(status, *said_of(error))


def said_of(error: Exception) -> tuple[str, str]:
    """Code and message, without internals of what is none of our errors."""
    if isinstance(error, AotcacheError):
        return error.code, str(error)
    if isinstance(error, RequestValidationError):
        found = [
            f"{'.'.join(str(piece) for piece in one['loc'])}: {one['msg']}"
            for one in error.errors()[:5]
        ]
        return UsageError.code, "; ".join(found)[:2000]
    if isinstance(error, DataError):
        return UsageError.code, "the database cannot hold a value of this request"
    if isinstance(error, OperationalError) and _is_full(error.orig):
        return (
            UnavailableError.code,
            "the index's disk is full: nothing can be noted; give its database more space",
        )
    if isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == "25006":
        return (
            UnavailableError.code,
            "the index's database is a standby: if that lasts, give the service its primary's URL",
        )
    if isinstance(error, (OperationalError, PoolTimeoutError)):
        return UnavailableError.code, "the index's database does not answer: try again"
    return AotcacheError.code, "the service has a fault; its log tells more"


def _is_full(error: BaseException | None) -> bool:
    """SQLite and PostgreSQL."""
    return "is full" in str(error) or getattr(error, "sqlstate", None) == "53100"


def _http_answer(request: Request, error: HTTPException) -> JSONResponse:
    """What FastAPI itself refuses (no such route, no such method), and statuses without a class."""
    code, message = UsageError.code, str(error.detail)
    if error.status_code in {408, 503}:
        log.warning("%s %s: %s", request.method, request.url.path, message)
    if error.status_code == 404:
        # No route raises it: a tree or object that is not there is an error of ours.
        code, message = _no_path(request.url.path)
    answer = _problem(error.status_code, code, message)
    answer.headers.update(error.headers or {})
    return answer


def _no_path(path: str) -> tuple[str, str]:
    """Code and message. Who is of another version than this service asks for what it lacks."""
    asked = _VERSIONED.match(path)
    if asked is None:
        return RemoteError.code, f"this service has no path {path[:200]}: is the URL right?"
    lacks = f"this service, aotcache {__version__}, has no {path[:200]}"
    if int(asked[1]) < min(API):
        lowest = f"its API begins with version {min(API)}"
        return VersionError.code, f"{lacks}: {lowest}, so upgrade the client"
    return VersionError.code, f"{lacks}: a newer client asks for it, so upgrade the service"


def _problem(status: int, code: str, message: str) -> JSONResponse:
    body = asdict(Problem(code=code, message=message))
    return JSONResponse(body, status_code=status, headers=_HEADERS.get(status))
