"""`watch --while-engines-run`: an engine that comes as a publisher ends is not left without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PUBLISHER = """
import subprocess, sys, threading
from aotcache.cli import watch
from aotcache.local.node import be_publisher

root = sys.argv[1]
LIVE = "import sys; from aotcache.local.node import join_engines as j; j(sys.argv[1]); input()"
RIVAL = "import sys; from aotcache.local.node import be_publisher as b; print(b(sys.argv[1]))"

class Watcher:
    failed = {}
    runs = 0

    def run(self, stop, over):
        self.runs += 1
        if self.runs == 1:
            assert over()
            # It comes after that look, and the publisher that it starts sees this one at work.
            words = [sys.executable, "-c", LIVE, root]
            self.engine = subprocess.Popen(words, stdin=subprocess.PIPE)
            while over():
                pass
            print(subprocess.check_output([sys.executable, "-c", RIVAL, root], text=True).strip())
        else:
            assert not over()
            self.engine.communicate(b"end")

watcher = Watcher()
watch._run_for_engines(watcher, root, threading.Event())
print(watcher.runs)
"""


def test_an_engine_that_comes_at_the_end_is_served(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PUBLISHER, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["None", "2"]
