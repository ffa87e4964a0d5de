"""`make demo` does what the README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_demo_is_warm() -> None:
    demo = Path(__file__).parents[1] / "demo" / "demo.py"
    done = subprocess.run(
        [sys.executable, str(demo)], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the second start compiled nothing and gave the same result" in done.stdout
