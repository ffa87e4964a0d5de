"""Changed copies of something good: at random bytes, and at random places of a manifest's JSON, so
that what is read last is reached too."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec

from aotcache.protocol.sections import Sections, compress, compress_statement, join_sections

from . import samples

NASTY: tuple[Any, ...] = (
    "",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    "a//b",
    "./a",
    "a/",
    "a\x00b",
    "a\nb",
    "a\x1b[31m",
    "café",
    "cafe\u0301",
    "\u202egnp.exe",
    "INDUCTOR_CACHE/AB/CABCDEF.PY",
    "inductor_cache",
    "rank_0_0/model/x",
    "con",
    "locks/x.lock",
    "x" * 300,
    "a/" * 300 + "b",
    "0" * 64,
    "f" * 64,
    -1,
    0,
    1,
    0o4755,
    0o777,
    1 << 31,
    1 << 40,
    (1 << 40) + 1,
    1 << 63,
    1 << 64,
    1.5,
    float(1 << 70),
    True,
    None,
    [],
    {},
    [[]],
    "dir",
    "tree",
)


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes at random places."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(6)
        if kind == 0 and found:
            found[min(at, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 2:
            del found[at : at + rng.randint(1, 64)]
        elif kind == 3:
            found[at : at + 8] = rng.choice((b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7))
        elif kind == 4:
            start = rng.randrange(len(found) + 1)
            found[at:at] = found[start : start + rng.randint(1, 64)]
        else:
            del found[at:]
    return bytes(found)


def any_manifest(rng: random.Random) -> bytes:
    """A manifest whose JSON is changed, and whose sections fit together: of all that it lists, or
    of a later generation, written against the good one."""
    statement, locations = (copy.deepcopy(section) for section in samples.sections())
    for _ in range(rng.randint(1, 3)):
        _change(statement if rng.random() < 0.6 else locations, rng)
    base = samples.base() if rng.random() < 0.3 else None
    if base is not None and statement.get("generation") == 1:
        statement["generation"] = 2
    return join_sections(
        Sections(
            statement=compress_statement(msgspec.json.encode(statement), base),
            locations=compress(msgspec.json.encode(locations)),
            base=base.generation if base else 0,
            base_statement=base.statement if base else b"",
        )
    )


def _change(value: Any, rng: random.Random) -> None:
    """One place of a JSON value: another value, one more, one less, or one twice."""
    places: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        one = todo.pop()
        pairs = one.items() if isinstance(one, dict) else enumerate(one)
        for name, inner in pairs:
            places.append((one, name))
            if isinstance(inner, (dict, list)) and inner:
                todo.append(inner)
    if not places:
        return
    holder, name = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0:
        del holder[name]
    elif kind == 1 and isinstance(holder, list):
        holder.append(copy.deepcopy(rng.choice(holder)))
    elif kind == 2 and isinstance(holder[name], str) and holder[name]:
        text = holder[name]
        at = rng.randrange(len(text))
        holder[name] = text[:at] + rng.choice(("/", "..", "\x00", "A", "é", "")) + text[at + 1 :]
    elif kind == 3 and isinstance(holder[name], int):
        holder[name] += rng.choice((-1, 1, 1 << 16, 1 << 32))
    else:
        holder[name] = copy.deepcopy(rng.choice(NASTY))
