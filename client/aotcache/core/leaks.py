"""Leaks: secrets in what is about to be published.

A `model` can hold values of the environment and the model's source. What is looked for: the values
of variables whose names sound like secrets, and tokens of known form. Nothing else is found: this
is a net under the publisher, not a proof.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from aotcache.errors import LeakError

SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8  # a shorter value is found by chance

# By what they begin with: that is found ten times as fast as an expression matches.
_FORMS: dict[bytes, tuple[str, bytes]] = {
    b"hf_": ("a Hugging Face token", rb"hf_[A-Za-z0-9]{30,}"),
    b"AKIA": ("an AWS access key", rb"AKIA[0-9A-Z]{16}"),
    b"ASIA": ("an AWS access key", rb"ASIA[0-9A-Z]{16}"),
    b"X-Amz-Signature=": ("a presigned URL", rb"X-Amz-Signature=[0-9a-f]{64}"),
    b"ghp_": ("a GitHub token", rb"ghp_[A-Za-z0-9]{36}"),
    b"ghs_": ("a GitHub token", rb"ghs_[A-Za-z0-9]{36}"),
    b"github_pat_": ("a GitHub token", rb"github_pat_[A-Za-z0-9_]{60,}"),
    b"glpat-": ("a GitLab token", rb"glpat-[A-Za-z0-9_-]{20}"),
    b"nvapi-": ("an NVIDIA token", rb"nvapi-[A-Za-z0-9_-]{60}"),
    b"sk-": ("an API key", rb"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{32,}"),
    b"-----BEGIN ": ("a private key", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    b"aotc_": ("a token of aotcache", rb"aotc_[0-9a-f]{12}_[A-Za-z0-9_-]{43}"),
}
_LONGEST = 96  # bytes by which each of these forms is known
_BLOCKS = (64 << 10, 4 << 10, 512)
_PROBE = 64


class Scanner:
    """Looks for the secrets of this environment, and for tokens of anybody's."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._values = {
            value.encode("utf-8", "surrogateescape"): name
            for name, value in environ.items()
            if SECRET_NAME.search(name) and _is_secret(value)
        }
        self._margin = max([_LONGEST, *map(len, self._values)])

    def check(self, data: bytes, what: str) -> None:
        """Raises LeakError. what: where it lies, for the message."""
        self._look(data, 0, what)

    def checked(self, pieces: Iterable[bytes], what: str, base: bytes = b"") -> Iterator[bytes]:
        """The same pieces, each once it and its seams are checked. base: something that is nearly
        equal and is checked itself; what is the same there is not looked at again."""
        at, tail, to_the_end = 0, b"", False
        same = _Same(base)
        for piece in pieces:
            spans = [(0, 0)] if to_the_end else []  # a secret may end in what is the same again
            spans += same.others(piece, at)
            for start, end in self._with_margins(spans, len(piece)):
                before = tail if start == 0 else b""
                self._look(before + piece[start:end], at + start - len(before), what)
            to_the_end = bool(spans) and spans[-1][1] == len(piece)
            yield piece
            at += len(piece)
            tail = (tail + piece)[-self._margin :]

    def _with_margins(self, spans: Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
        """Spans that touch once they have their margins are one."""
        found: list[tuple[int, int]] = []
        for first, last in spans:
            start, end = max(0, first - self._margin), min(size, last + self._margin)
            if found and start <= found[-1][1]:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found

    def _look(self, data: bytes, at: int, what: str) -> None:
        for value, name in self._values.items():
            if (found := data.find(value)) >= 0:
                raise _leak(what, at + found, f"the value of {name}")
        for begin, (kind, form) in _FORMS.items():
            found = data.find(begin)
            while found >= 0:
                if re.compile(form).match(data, found):
                    raise _leak(what, at + found, f"what looks like {kind}")
                found = data.find(begin, found + 1)


def _is_secret(value: str) -> bool:
    """Not a place, of which every tree is full, nor a number."""
    return (
        len(value) >= _SHORTEST
        and not value.startswith(("/", "~", ".", "http://", "https://"))
        and not value.replace(",", "").isdigit()
    )


def _leak(what: str, at: int, which: str) -> LeakError:
    return LeakError(
        f"{what} holds, at byte {at}, {which}: nothing more was published. Whoever can read the "
        "tree could read it. Take it out of the engine's environment or model and compile again, "
        "or say AOTCACHE_ALLOW_SECRETS=1 if all who can read may know it"
    )


class _Same:
    """Where pieces are what a base holds, also after something was put in or left out."""

    def __init__(self, base: bytes) -> None:
        self._base = base
        self._shift = 0

    def others(self, piece: bytes, at: int) -> Iterator[tuple[int, int]]:
        """The spans of a piece that begins at `at` that are not the base's. Ranks' models differ in
        three bytes here and there, so that only small spans are equal."""
        if not self._base:
            yield 0, len(piece)
            return
        for start in range(0, len(piece), _BLOCKS[0]):
            end = min(start + _BLOCKS[0], len(piece))
            found = list(self._differ(piece, at, start, end))
            yield from found
            if found:
                self._find(piece[max(start, end - _PROBE) : end], at + end)

    def _differ(
        self, piece: bytes, at: int, start: int, end: int, depth: int = 0
    ) -> Iterator[tuple[int, int]]:
        there = at + start + self._shift
        if there >= 0 and self._base[there : there + end - start] == piece[start:end]:
            return
        if depth + 1 == len(_BLOCKS):
            yield start, end
            return
        step = _BLOCKS[depth + 1]
        for inner in range(start, end, step):
            yield from self._differ(piece, at, inner, min(inner + step, end), depth + 1)

    def _find(self, probe: bytes, end: int) -> None:
        """How far what follows is shifted, if these last bytes before `end` tell."""
        here = end - len(probe) + self._shift
        if self._base[max(0, here) : here + len(probe)] == probe:
            return
        near = max(0, here - _BLOCKS[0])
        found = self._base.find(probe, near, here + _BLOCKS[0] + len(probe))
        if found >= 0:
            self._shift = found - (end - len(probe))
