"""Programs that want an environment of their own, made once a machine outside the repository."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def installed(name: str, install: Callable[[Path], None]) -> Path:
    """The directory of this name, which holds its version; `install` fills it where it is not yet
    there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aotcache-tests"
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / name
    done = home / "installed"
    with FileLock(cache / f"{name.rpartition('-')[0]}.lock"):
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            install(home)
            done.touch()
    return home
