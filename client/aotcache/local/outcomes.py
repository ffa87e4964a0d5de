"""Outcomes and misses on disk: written the moment they are known, kept until the service has been
told."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgspec

from aotcache.errors import FormatError, RemoteError, UnavailableError, UsageError
from aotcache.local.locks import alone
from aotcache.local.state import STATE_DIRECTORY, TreeState, read_folder, write_whole
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.outcomes import Outcome

logger = logging.getLogger(__name__)

_MISS = "-miss"


def keep_outcome(tree_path: str, said: Outcome | Explain) -> None:
    """Keep an outcome of a part of this tree, or that it was missed, until `tell_outcomes`. Raises
    LocalError."""
    name = secrets.token_hex(8) + (_MISS if isinstance(said, Explain) else "")
    path = os.path.join(TreeState(tree_path).outcomes, name + ".json")
    write_whole(path, msgspec.json.encode(said))


def has_kept(folder: str) -> bool:
    """Whether outcomes of trees in `folder` wait to be told."""
    try:
        names = os.listdir(os.path.join(folder, STATE_DIRECTORY, "outcomes"))
    except OSError:
        return False
    return any(name.endswith(".json") for name in names)  # not what a killed writer left


def tell_outcomes(folder: str, tell: Callable[[Outcome | Explain], object]) -> int:
    """Tell what is kept of the trees in `folder`; how many were told. What the service refuses (its
    tree is deleted, say) is dropped. Raises UnavailableError, then they are kept; LocalError."""
    if not has_kept(folder):
        return 0
    base = os.path.join(folder, STATE_DIRECTORY, "outcomes")
    told = 0
    # All ranks of a node end their start at once: each outcome is told by one of them.
    with alone(base + ".lock"):
        for name, data in read_folder(base, ".json").items():
            try:
                if name.endswith(_MISS):
                    tell(decode_json(data, Explain))
                else:
                    tell(decode_json(data, Outcome))
                told += 1
            except UnavailableError:
                raise
            except (FormatError, RemoteError, UsageError) as error:
                logger.info("an outcome is dropped: %s", error)
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(base, name + ".json"))
    return told
