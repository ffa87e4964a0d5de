"""A clock that is off: Debian's faketime."""

from __future__ import annotations

import json
import subprocess
import sys

from support.process import tool

_SHOWN = """
import json, os
print(json.dumps({n: v for n, v in os.environ.items() if "FAKE" in n or n == "LD_PRELOAD"}))
"""


def clock(by: str) -> dict[str, str]:
    """The environment of processes whose clock is off by so much (`+1h`). What waits so many
    seconds waits as long."""
    faketime = tool("faketime", "Debian's faketime")
    words = [faketime, "--exclude-monotonic", "-f", by, sys.executable, "-c", _SHOWN]
    found: dict[str, str] = json.loads(subprocess.check_output(words))
    found.pop("FAKETIME_SHARED", None)  # is gone with that process
    return found
