"""`exec -- vllm serve`: what it was told holds for the plugin in the command too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

VLLM = """#!{python}
import json, os
print(json.dumps({{name: value for name, value in os.environ.items() if "AOTC" in name}}))
"""


@pytest.fixture
def vllm(tmp_path: Path) -> str:
    """A command called `vllm` of this Python, that says in which environment it runs."""
    script = tmp_path / "vllm"
    script.write_text(VLLM.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


def _told(vllm: str, *words: str, **variables: str) -> dict[str, str]:
    root = str(Path(vllm).parent / "root")
    command = [sys.executable, "-m", "aotcache", "exec", "--cache-root", root, *words]
    done = subprocess.run(
        [*command, "--trust", "unsigned", "--", vllm, "serve", "org/llama"],
        env={**os.environ, "XDG_CONFIG_HOME": root, **variables},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_the_plugin_waits_no_longer_than_what_is_left(vllm: str) -> None:
    """A service that hangs is waited for once, not by both."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = _told(vllm, "--url", url, "--deadline", "1")
    assert float(told["AOTCACHE_DEADLINE"]) == 0


def test_what_exec_did_not_need_is_the_plugins(vllm: str) -> None:
    told = _told(vllm, "--url", "http://127.0.0.1:1", "--deadline", "50")
    assert 0 < float(told["AOTCACHE_DEADLINE"]) <= 50


def test_no_publish_holds_for_the_plugin_too(vllm: str) -> None:
    words = ("--url", "http://127.0.0.1:1", "--deadline", "0")
    assert _told(vllm, *words, AOTCACHE_PUBLISH="1")["AOTCACHE_PUBLISH"] == "1"
    assert "AOTCACHE_PUBLISH" not in _told(vllm, *words, "--no-publish", AOTCACHE_PUBLISH="1")
