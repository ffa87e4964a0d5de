"""Leaks: secrets in what is about to be published.

A `model` can hold values of the environment and the model's source. What is looked for: the values
of variables whose names sound like secrets, passwords in URLs, and tokens of known form. Nothing
else is found: this is a net under the publisher, not a proof.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import msgspec

from aotcache.errors import LeakError
from aotcache.settings import is_secret

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

    from aotcache.protocol.v1.explain import Explain
    from aotcache.protocol.v1.outcomes import Outcome

_SHORTEST = 8  # a shorter value is found by chance
_MOST = 4096  # characters of a longer one that are looked for
_PIECE = 256 << 10  # bytes that are searched at a time
_LONG = 20  # characters between two slashes that are no name any more

# By what they begin with: to find one of these texts takes a hundredth of the time that one of the
# expressions takes.
_FORMS: dict[bytes, tuple[str, bytes]] = {
    b"hf_": ("a Hugging Face token", rb"hf_[A-Za-z0-9]{30,}"),
    b"AKIA": ("an AWS access key", rb"AKIA[0-9A-Z]{16}"),
    b"ASIA": ("an AWS access key", rb"ASIA[0-9A-Z]{16}"),
    b"X-Amz-Signature=": ("a presigned URL", rb"X-Amz-Signature=[0-9a-f]{64}"),
    b"AIza": ("a Google API key", rb"AIza[A-Za-z0-9_-]{35}"),
    b"ghp_": ("a GitHub token", rb"ghp_[A-Za-z0-9]{36}"),
    b"ghs_": ("a GitHub token", rb"ghs_[A-Za-z0-9]{36}"),
    b"gho_": ("a GitHub token", rb"gho_[A-Za-z0-9]{36}"),
    b"ghu_": ("a GitHub token", rb"ghu_[A-Za-z0-9]{36}"),
    b"ghr_": ("a GitHub token", rb"ghr_[A-Za-z0-9]{36}"),
    b"github_pat_": ("a GitHub token", rb"github_pat_[A-Za-z0-9_]{60,}"),
    b"glpat-": ("a GitLab token", rb"glpat-[A-Za-z0-9_-]{20,}"),
    b"nvapi-": ("an NVIDIA API key", rb"nvapi-[A-Za-z0-9_-]{60,}"),
    b"sk-": ("an API key", rb"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{32,}"),
    b"xoxb-": ("a Slack token", rb"xoxb-[0-9]{10,}-[A-Za-z0-9-]{20,}"),
    b"-----BEGIN ": ("a private key", rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    # Its second part, the end of the first before it: that may be long, and begins much else.
    b".eyJ": ("a JSON web token", rb"(?<=[A-Za-z0-9_-]{16})\.eyJ[A-Za-z0-9_-]{8}"),
    b"aotc_": ("a token of aotcache", rb"aotc_[0-9a-f]{12}_[A-Za-z0-9_-]{43}"),
}
_LONGEST = 96  # bytes by which each of these forms is known

# `scheme://user:password@host`
_PASSWORD = re.compile(r"://[^\s/?#:@]*:([^\s/?#]+)@")


class Leak(NamedTuple):
    """at: byte of what was searched. what: in words, never the secret itself."""

    at: int
    what: str


class _Sought(NamedTuple):
    """begins: finds where one of `form`'s groups may begin. words: for each group."""

    begins: BytesAhoCorasick
    form: re.Pattern[bytes]
    words: list[str]
    margin: int


class Scanner:
    """Looks for the secrets of this environment, and for tokens of anybody's. The interpreter's
    lock is not held while it does. What it looks for is gathered when it is first asked: who only
    pulls never does.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    @property
    def margin(self) -> int:
        """Bytes that two pieces must share for nothing to lie unseen on their seam."""
        return self._sought.margin

    @cached_property
    def _sought(self) -> _Sought:
        from ahocorasick_rs import BytesAhoCorasick, MatchKind

        values = {
            form: name
            for name, text in self._environ.items()
            for value in _secrets(name, text.strip())
            if _stands_out(value)
            for form in _written(value)
        }
        forms = {
            **{re.escape(value): f"the value of {name}" for value, name in values.items()},
            **{form: f"what looks like {kind}" for kind, form in _FORMS.values()},
        }
        return _Sought(
            # Of its ways to match this is the one that is vectorised: 12 GB/s in place of 0.6.
            begins=BytesAhoCorasick([*values, *_FORMS], matchkind=MatchKind.LeftmostFirst),
            form=re.compile(b"|".join(b"(%b)" % form for form in forms)),
            words=list(forms.values()),
            margin=max([_LONGEST, *map(len, values)]),
        )

    def find(self, data: bytes) -> Leak | None:
        sought = self._sought
        # In pieces, as all that only begins like one is held in memory.
        for piece in range(0, len(data), _PIECE):
            part = data[piece : piece + _PIECE + sought.margin]
            for _, start, end in sought.begins.find_matches_as_indexes(part):
                # It goes on behind what it found, which may overlap the beginning of another.
                for at in range(piece + start, piece + end):
                    if found := sought.form.match(data, at):
                        return Leak(at, sought.words[(found.lastindex or 0) - 1])
        return None


def masked(said: Explain, scanner: Scanner) -> Explain:
    """A miss as it may be told: whoever reads the service sees what differs."""
    recipe = said.recipe
    if recipe is not None and scanner.find(msgspec.json.encode(recipe)):
        recipe = None
    factors = {
        name: "(a secret)" if scanner.find(os.fsencode(value)) else value
        for name, value in said.hash_factors.items()
    }
    return replace(said, recipe=recipe, hash_factors=factors)


def masked_outcome(said: Outcome, scanner: Scanner) -> Outcome:
    """Its reason up to where a secret begins: what an engine says may quote its configuration."""
    reason = os.fsencode(said.reason)
    found = scanner.find(reason)
    if found is None:
        return said
    return replace(said, reason=f"{os.fsdecode(reason[: found.at])}(a secret)"[:2000])


def _secrets(name: str, value: str) -> set[str]:
    """What nobody may know of a variable: all of it, or the passwords of its URLs."""
    found = {value} if is_secret(name) else set()
    for password in _PASSWORD.findall(value):
        found |= {password, unquote(password)}
    return found


def _stands_out(value: str) -> bool:
    """Not a number, nor a place, of which every tree is full: that has no long piece, and no
    password."""
    is_place = value.startswith(("/", "~/", "./", "../", "http://", "https://"))
    pieces = value.split("/")
    if is_place and "@" not in value and all(len(piece) < _LONG for piece in pieces):
        return False
    return len(value) >= _SHORTEST and not value.replace(",", "").isdigit()


def _written(value: str) -> set[bytes]:
    """As bytes, in JSON, and in Python's and C++'s sources. A long one is known by its beginning,
    so that what two pieces have to share stays small."""
    kept = value[:_MOST]
    in_json = (json.dumps(kept, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    texts = {kept, *in_json, repr(kept)[1:-1], kept.replace('"', '\\"')}
    return {text.encode("utf-8", "surrogateescape") for text in texts}


def leak_in(name: str, at: int, found: Leak) -> LeakError:
    """at: of the data that was searched, in what `name` names."""
    return LeakError(
        f"{name} holds, at byte {at + found.at}, {found.what}: nothing more was published. Whoever "
        "can read the tree could read it. Take it out of the engine's environment or model and "
        "compile again, or say AOTCACHE_ALLOW_SECRETS=1 if all who can read may know it"
    )
