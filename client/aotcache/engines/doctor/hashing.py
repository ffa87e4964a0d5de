"""Environment variables that enter vLLM's hash: one that differs on every node makes every node
miss."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from aotcache.engines.doctor.findings import Finding, note, ok, problem
from aotcache.engines.doctor.installed import Vllm

# One process's own by what they are for, whatever they look like.
_OWN = {"VLLM_RAY_BUNDLE_INDICES": "Ray gives it to one placement group"}
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_WORD = re.compile(r"[0-9A-Za-z.:%_-]+")


def check_hashing(environ: Mapping[str, str], vllm: Vllm) -> Iterator[Finding]:
    if vllm.hashed is None:
        yield note(
            "hash",
            "cannot tell from its source which environment variables enter this vLLM's hash",
            "give every VLLM_ variable the same value on all nodes",
        )
        return
    entering = sorted(vllm.hashed & environ.keys() - {"VLLM_PLUGINS"})
    plain: list[str] = []
    for name in entering:
        why = _OWN.get(name) or belongs_to_a_node(environ[name])
        if why:
            yield problem(
                "hash",
                f"{name} enters vLLM's hash and is this node's own ({why}): every node has "
                "another hash and compiles for itself",
                "unset it, or give it the same text on every node",
            )
        elif _under_home(environ[name], environ):
            yield note(
                "hash",
                f"{name} enters vLLM's hash and is a path under the home directory",
                "use a path that is the same on every node",
            )
        else:
            plain.append(name)
    if plain:
        yield note(
            "hash",
            f"set, and part of vLLM's hash: {', '.join(plain)}",
            "give them the same values on every node, publishers included",
        )
    if not entering:
        yield ok("hash", "no variable of this environment enters vLLM's hash")


def belongs_to_a_node(value: str) -> str | None:
    """What in a value is one machine's or one pod's own, in words that repeat only that; or
    None."""
    if found := _UUID.search(value):
        return f"a UUID, {found[0]}"
    host = socket.gethostname()
    # Short names are words of their own: a host called `a` or `gpu` proves nothing.
    names = {name for name in (host, host.split(".")[0]) if len(name) > 3} - {"localhost"}
    for word in _WORD.findall(value):
        if address := _address(word):
            return f"the address {address}"
        if word.split(":")[0] in names:
            return f"the name of this host, {host}"
    return None


def _address(word: str) -> str | None:
    """The IP address that a word is, with or without a port. Loopback is the same everywhere."""
    for text in (word, word.rpartition(":")[0]):
        try:
            address = ip_address(text)
        except ValueError:
            continue
        return None if address.is_loopback or address.is_unspecified else str(address)
    return None


def _under_home(value: str, environ: Mapping[str, str]) -> bool:
    home = environ.get("HOME") or os.path.expanduser("~")
    return value.startswith("~") or (home != "/" and value.startswith(home.rstrip("/") + "/"))
