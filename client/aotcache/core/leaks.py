"""Leaks: secrets in what is about to be published.

A `model` can hold values of the environment and the model's source. What is looked for: the values
of variables whose names sound like secrets, and tokens of known form. Nothing else is found: this
is a net under the publisher, not a proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from aotcache.errors import LeakError

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8  # a shorter value is found by chance
_LONG = 20  # characters between two slashes that are no name any more

# By what they begin with: that is found ten times as fast as an expression matches. Each more takes
# 1 % of a first publish.
_FORMS: dict[bytes, tuple[str, bytes]] = {
    b"hf_": ("a Hugging Face token", rb"hf_[A-Za-z0-9]{30,}"),
    b"AKIA": ("an AWS access key", rb"AKIA[0-9A-Z]{16}"),
    b"X-Amz-Signature=": ("a presigned URL", rb"X-Amz-Signature=[0-9a-f]{64}"),
    b"ghp_": ("a GitHub token", rb"ghp_[A-Za-z0-9]{36}"),
    b"github_pat_": ("a GitHub token", rb"github_pat_[A-Za-z0-9_]{60,}"),
    b"sk-": ("an API key", rb"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{32,}"),
    b"-----BEGIN ": ("a private key", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    b"aotc_": ("a token of aotcache", rb"aotc_[0-9a-f]{12}_[A-Za-z0-9_-]{43}"),
}
_LONGEST = 96  # bytes by which each of these forms is known
_BLOCK, _SPAN, _PROBE = 64 << 10, 256, 64


class Leak(NamedTuple):
    """at: byte of what was searched. what: in words, never the secret itself."""

    at: int
    what: str


class Scanner:
    """Looks for the secrets of this environment, and for tokens of anybody's.

    margin: bytes that two pieces must share for nothing to lie unseen on their seam.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {
            value.encode("utf-8", "surrogateescape"): name
            for name, value in environ.items()
            if SECRET_NAME.search(name) and _is_secret(value)
        }
        self.margin = max([_LONGEST, *map(len, self._values)])

    def find(self, data: bytes) -> Leak | None:
        """The first of each kind that is looked for ends the search."""
        for value, name in self._values.items():
            if (at := data.find(value)) >= 0:
                return Leak(at, f"the value of {name}")
        for begin, (kind, form) in _FORMS.items():
            at = data.find(begin)
            while at >= 0:
                if re.compile(form).match(data, at):
                    return Leak(at, f"what looks like {kind}")
                at = data.find(begin, at + 1)
        return None

    def find_beside(self, data: bytes, base: bytes | memoryview, at: int) -> Leak | None:
        """As `find`, where byte `at` of something nearly equal is about the first of the data's.
        What is the same there is not looked at: it is for itself."""
        for start, end in self._with_margins(_others(data, base, at), len(data)):
            if (found := self.find(data[start:end])) is not None:
                return Leak(start + found.at, found.what)
        return None

    def _with_margins(self, spans: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
        """Spans that touch once they have their margins are one. Both ends of the data are looked
        at: what they are part of may begin or end elsewhere."""
        found: list[tuple[int, int]] = []
        for first, last in ((0, 0), *spans, (size, size)):
            start, end = max(0, first - self.margin), min(size, last + self.margin)
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found


def _is_secret(value: str) -> bool:
    """Not a number, nor a place, of which every tree is full: that has no long piece."""
    is_place = value.startswith(("/", "~", ".", "http://", "https://"))
    if is_place and all(len(piece) < _LONG for piece in value.split("/")):
        return False
    return len(value) >= _SHORTEST and not value.replace(",", "").isdigit()


def leak_in(name: str, at: int, found: Leak) -> LeakError:
    """at: of the data that was searched, in what `name` names."""
    return LeakError(
        f"{name} holds, at byte {at + found.at}, {found.what}: nothing more was published. Whoever "
        "can read the tree could read it. Take it out of the engine's environment or model and "
        "compile again, or say AOTCACHE_ALLOW_SECRETS=1 if all who can read may know it"
    )


def _others(data: bytes, base: bytes | memoryview, at: int) -> Iterator[tuple[int, int]]:
    """Spans that cover what of the data is not the base's. Ranks' models differ in three bytes here
    and there; and where something was put in, the rest is shifted."""
    shift = at
    for start in range(0, len(data), _BLOCK):
        end = min(start + _BLOCK, len(data))
        if _is_same(data, base, start, end, shift):
            continue
        yield from _differing(data, base, start, end, shift)
        shift = _shifted(data[max(start, end - _PROBE) : end], base, end, shift)


def _differing(
    data: bytes, base: bytes | memoryview, start: int, end: int, shift: int
) -> Iterator[tuple[int, int]]:
    """The first span that differs, by halving, and then the next."""
    while start < end and not _is_same(data, base, start, end, shift):
        last = end
        while last - start > _SPAN:
            middle = (start + last) // 2
            if _is_same(data, base, start, middle, shift):
                start = middle
            else:
                last = middle
        yield start, last
        start = last


def _is_same(data: bytes, base: bytes | memoryview, start: int, end: int, shift: int) -> bool:
    there = start + shift
    return there >= 0 and bytes(base[there : there + end - start]) == data[start:end]


def _shifted(probe: bytes, base: bytes | memoryview, end: int, shift: int) -> int:
    """How far what follows is shifted, if these last bytes before `end` tell."""
    here = end - len(probe) + shift
    near = max(0, here - _BLOCK)
    around = bytes(base[near : max(near, here + _BLOCK + len(probe))])
    if here >= 0 and around[here - near : here - near + len(probe)] == probe:
        return shift
    found = around.find(probe)
    return shift if found < 0 else near + found - (end - len(probe))
