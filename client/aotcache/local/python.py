"""Processes of our own Python, that import nothing from the directory they are started in.

That is the engine's, /tmp perhaps, where every user of the machine can put a `msgspec.py`. `-m` and
`-c` look there first; what keeps them from it (`-P`, PYTHONSAFEPATH) is of Python 3.11.
"""

from __future__ import annotations

import sys

_RUN = (
    "import sys; sys.path[:] = filter(None, sys.path); import runpy; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def our_python(module: str, *words: str) -> list[str]:
    """The command that runs a module, as `-m` does."""
    return [sys.executable, "-c", _RUN, module, *words]
