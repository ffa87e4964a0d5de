"""`/v1/objects`: bytes through the service, for nodes without storage credentials."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import AsyncIterator
from itertools import islice
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from aotcache.errors import (
    GenerationTakenError,
    InvalidNameError,
    PackError,
    StorageUnavailableError,
)
from aotcache.protocol.names import (
    MAX_OBJECT,
    check_namespace,
    check_object_key,
    parse_manifest_key,
    parse_pack_key,
)
from aotcache.protocol.v1.objects import ListedObject, ObjectPage
from aotcache.storage.base import ObjectInfo, ObjectStore

from ...auth import PUBLISH, READ
from ...index.publishing import is_committed, part_states
from ...index.write import condemn_unknown_pack
from ...metrics import OBJECT_BYTES
from ...ops.reading import check_manifest, is_manifest_key
from ..access import CallerDep
from ..context import UPLOADS, Context, ContextDep
from ..errors import problems

router = APIRouter(tags=["objects"])

MAX_PAGE = 1000
UPLOAD_SECONDS = 600
SILENT_SECONDS = 30  # after which a body that stopped is given up
# Bytes, or a 20th of a small disk, that uploads leave free: 512 MiB, and what may come at once.
RESERVE = (512 << 20) + UPLOADS * MAX_OBJECT
PIECE = 4 << 20  # bytes of an object held at a time for each download
BINARY = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}},
    }
}
_CONTENT = {"content": {BINARY: {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/objects", responses=problems(400))
async def list_objects(
    context: ContextDep,
    caller: CallerDep,
    prefix: Annotated[str, Query(max_length=512, description="Ends with `/`; empty: all")] = "",
    after: Annotated[str, Query(max_length=512)] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
) -> ObjectPage:
    """Keys and sizes, in code point order, greater than `after`."""
    if prefix:
        if not prefix.endswith("/"):
            raise InvalidNameError(f"{prefix[:140]!r} is not a prefix of keys: it ends with no '/'")
        caller.require(READ, _namespace(prefix + "x"))
    else:
        caller.require_all(READ)
    found = await context.in_storage(_listed, context.store, prefix, after, limit + 1)
    objects = tuple(ListedObject(key=one.key, size=one.size) for one in found[:limit])
    return ObjectPage(objects=objects, after=objects[-1].key if len(found) > limit else "")


@router.head("/objects/{key:path}", response_class=Response, responses=problems(400, 404))
async def head_object(key: str, context: ContextDep, caller: CallerDep) -> Response:
    """Its size, as Content-Length."""
    caller.require(READ, _namespace(key))
    size = await context.in_storage(context.store.size, key)
    headers = {"Content-Length": str(size), "Accept-Ranges": "bytes"}
    return Response(media_type=BINARY, headers=headers)


@router.get(
    "/objects/{key:path}",
    response_class=Response,
    responses={**problems(400, 404, 416), 200: _CONTENT, 206: _CONTENT},
)
async def get_object(
    key: str, request: Request, context: ContextDep, caller: CallerDep
) -> Response:
    """Its bytes; with `Range: bytes=a-b`, those."""
    caller.require(READ, _namespace(key))
    headers = {"Accept-Ranges": "bytes"}
    # Any other form of range may be ignored, and is (RFC 9110, 14.2).
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    if not wanted and is_manifest_key(key):
        # Each pull waits for them, and they are small: storage is asked once, not for a size first.
        data = await context.in_storage(context.store.get, key)
        OBJECT_BYTES.labels("out").inc(len(data))
        return Response(data, headers=headers, media_type=BINARY)
    size = await context.in_storage(context.store.size, key)
    start, end, status = 0, size, 200
    if wanted:
        last = int(wanted[2]) if wanted[2] else size - 1
        start, end, status = int(wanted[1]), min(last + 1, size), 206
        if start >= end:
            raise HTTPException(
                416,
                f"{key} has {size} bytes, the range starts at {start}",
                headers={"Content-Range": f"bytes */{size}"},
            )
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    OBJECT_BYTES.labels("out").inc(end - start)
    if end - start <= PIECE:
        data = b""
        if end > start:
            data = await context.in_storage(context.store.get_range, key, start, end)
        return Response(data, status, headers=headers, media_type=BINARY)
    pieces = _pieces(context, key, start, end)
    return StreamingResponse(pieces, status, headers=headers, media_type=BINARY)


@router.put(
    "/objects/{key:path}",
    status_code=204,
    openapi_extra=_BODY,
    responses=problems(400, 404, 408, 409, 411, 413),
)
async def put_object(
    key: str, request: Request, context: ContextDep, caller: CallerDep
) -> Response:
    """Put a pack or a manifest if absent, whole or not at all. Needs a Content-Length."""
    caller.require(PUBLISH, _namespace(key))
    _check_kind(key)
    length = _content_length(request)
    try:
        async with context.uploads.place(caller.token):
            data, digest = await _read_body(request, length)
            await context.in_storage(_put, context, key, data, digest)
            OBJECT_BYTES.labels("in").inc(length)
    except asyncio.TimeoutError as error:
        why = f"no byte for {SILENT_SECONDS} s, or over {UPLOAD_SECONDS} s in all"
        raise HTTPException(408, f"{key}: the body stopped ({why}): put it again") from error
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read it
    return Response(status_code=204)


@router.delete("/objects/{key:path}", status_code=204, responses=problems(400, 404, 409))
async def delete_object(key: str, context: ContextDep, caller: CallerDep) -> None:
    """Delete a pack or manifest that the index does not know; not an error when there is none."""
    caller.require(PUBLISH, _namespace(key))
    await context.in_storage(_delete, context, key)


def _delete(context: Context, key: str) -> None:
    refused = HTTPException(409, f"{key} is in the index: delete its tree instead")
    if _check_kind(key) == "packs":
        pieces = key.split("/")
        with context.database.write() as db:
            free = condemn_unknown_pack(db, pieces[0], pieces[-1], context.database.now())
        if not free:
            raise refused
        context.store.delete(key)
        return
    # No commit in between: one that comes after it looks whether its manifests are still there.
    with context.database.write() as db:
        if is_committed(db, parse_manifest_key(key)):
            raise refused
        context.store.delete(key)


def _listed(store: ObjectStore, prefix: str, after: str, limit: int) -> list[ObjectInfo]:
    return list(islice(store.list(prefix, after), limit))


def _namespace(key: str) -> str:
    return check_namespace(check_object_key(key).partition("/")[0])


def _check_kind(key: str) -> str:
    """`packs` or `trees`. Marks are the service's own: they are neither put nor deleted here."""
    pieces = check_object_key(key).split("/")
    if pieces[1] == "packs":
        parse_pack_key(key)
        return "packs"
    if pieces[1] == "trees":
        parse_manifest_key(key)
        return "trees"
    raise InvalidNameError(f"{key!r} is the key of neither a pack nor a manifest")


def _content_length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    if not text.isdecimal():
        raise HTTPException(411, "a body needs its Content-Length")
    if int(text) > MAX_OBJECT:
        raise HTTPException(413, f"an object has at most {MAX_OBJECT} bytes, not {text[:20]}")
    return int(text)


async def _read_body(request: Request, length: int) -> tuple[bytearray, str]:
    """The body and its SHA-256. The server ends the stream with ClientDisconnect when the client
    leaves before `length` bytes. Raises asyncio.TimeoutError where nothing comes for a while, or it
    takes too long in all."""
    data = bytearray()
    digest = hashlib.sha256()
    stream = request.stream()
    clock = asyncio.get_running_loop().time
    end = clock() + UPLOAD_SECONDS
    while True:
        # One bound after the other: of two around each other, the outer one can go unheard before
        # Python 3.12, when a chunk comes in the same moment.
        left = min(SILENT_SECONDS, end - clock())
        chunk = await asyncio.wait_for(anext(stream, None), left)
        if chunk is None:
            break
        data += chunk
        digest.update(chunk)
    if len(data) != length:
        raise HTTPException(400, f"the body has {len(data)} bytes, its Content-Length is {length}")
    return data, digest.hexdigest()


def _put(context: Context, key: str, data: bytearray, digest: str) -> None:
    store = context.store
    _require_room(context.settings.storage_directory, len(data))
    if _check_kind(key) == "trees":
        _require_next(context, key)
        check_manifest(store, key, bytes(data))
    elif not key.rpartition("/")[2].startswith(f"{digest}-"):
        raise PackError(f"{key}: the body's SHA-256 is {digest[:12]}…: it was damaged on its way")
    store.put(key, memoryview(data))


def _require_next(context: Context, key: str) -> None:
    """Numbers go up one by one: who could take the last there is would end its part for ever."""
    name = parse_manifest_key(key)
    with context.database.read() as db:
        (state,) = part_states(db, name.tree, [name.part], {})
    if name.generation > state.next_generation:
        raise GenerationTakenError(
            f"{name.tree} {name.part}: generation {name.generation} cannot be put, the next is "
            f"{state.next_generation}: open the session again and rebase"
        )


def _require_room(directory: Path | None, size: int) -> None:
    """Publishers may fill the disk, but not so that the index and everything beside it stop. None:
    it is not this machine's."""
    if directory is None or not directory.exists():
        return
    found = shutil.disk_usage(directory)
    if found.free - size < min(RESERVE, found.total // 20):
        raise StorageUnavailableError(
            f"the service's disk has {found.free} bytes left: nothing more is stored; delete trees "
            "(`aotcache rm`) or give it a larger one"
        )


async def _pieces(context: Context, key: str, start: int, end: int) -> AsyncIterator[bytes]:
    for offset in range(start, end, PIECE):
        last = min(offset + PIECE, end)
        yield await context.in_storage(context.store.get_range, key, offset, last)
