"""`aotcache exec`: any torch.compile program, warm at another place; its exit code is its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.site import AOTCACHE, Service, aotcache, printed
from support.trees import PROGRAM

COUNTERS = (
    PROGRAM
    + """
from torch._dynamo.utils import counters
print(counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""
)


@pytest.fixture
def env(service: Service, tmp_path: Path) -> dict[str, str]:
    return {
        "AOTCACHE_URL": service.url,
        "AOTCACHE_TRUST": "unsigned",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


def _exec(env: dict[str, str], root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    words = ["exec", "--key", "softmax", "--cache-root", str(root)]
    if command[0] == "sh":  # nothing says which Python a shell runs
        words += ["--platform", "detect"]
    words += ["--", *command]
    return aotcache(*words, env=env, check=False)


def test_the_second_machine_starts_warm(env: dict[str, str], tmp_path: Path) -> None:
    cold = _exec(env, tmp_path / "first", sys.executable, "-c", COUNTERS)
    assert (cold.returncode, cold.stdout.split()) == (0, ["0", "1"]), cold.stderr
    assert "miss" in cold.stderr
    assert "published" in cold.stderr
    warm = _exec(env, tmp_path / "second", sys.executable, "-c", COUNTERS)
    assert (warm.returncode, warm.stdout.split()) == (0, ["1", "0"]), warm.stderr
    assert "unsigned parts accepted" in warm.stderr
    assert "already stored" in warm.stderr


def test_the_exit_code_is_the_commands_own(env: dict[str, str], tmp_path: Path) -> None:
    for command, code in (("exit 7", 7), ("kill -TERM $$", 143), ("exit 0", 0)):
        assert _exec(env, tmp_path, "sh", "-c", command).returncode == code


def test_a_signal_is_handed_on(env: dict[str, str], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.05; done"
    words = ["exec", "--key", "k", "--cache-root", str(tmp_path), "--platform", "detect"]
    words += ["--", "sh", "-c", script]
    process = subprocess.Popen([*AOTCACHE, *words], env={**os.environ, **env})
    try:
        end = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 9
    finally:
        process.kill()


@pytest.mark.parametrize("broken", ["no service", "no policy", "root read-only"])
def test_a_broken_cache_is_one_warning_and_a_normal_run(
    env: dict[str, str], tmp_path: Path, broken: str
) -> None:
    root = tmp_path / "root"
    if broken == "no service":
        env["AOTCACHE_URL"] = "http://127.0.0.1:1"
    elif broken == "no policy":
        env["AOTCACHE_TRUST"] = ""
    else:
        root = Path("/proc/nothing")
    done = _exec(env, root, "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_a_service_that_hangs_delays_the_command_no_longer_than_the_deadline(
    env: dict[str, str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env["AOTCACHE_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env["AOTCACHE_DEADLINE"] = "0.5"
        done = _exec(env, tmp_path, "sh", "-c", "echo ran; exit 4")
    assert (done.returncode, done.stdout) == (4, "ran\n")
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "starting without it" in warnings[0]


def test_another_python_is_not_guessed(env: dict[str, str], tmp_path: Path) -> None:
    other = tmp_path / "python3"
    other.symlink_to("/bin/echo")
    done = _exec(env, tmp_path, str(other), "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "another Python" in done.stderr
    assert printed(aotcache("ls", "--json", env=env)) == []


def test_a_machine_that_only_trusts_publishes_nothing(env: dict[str, str], tmp_path: Path) -> None:
    stranger = {**env, "XDG_CONFIG_HOME": str(tmp_path / "stranger")}
    line = aotcache("key", "generate", env=stranger).stdout.strip()
    env["AOTCACHE_TRUST"] = ""
    aotcache("key", "trust", line, env=env)
    done = _exec(env, tmp_path, "sh", "-c", "touch $TORCHINDUCTOR_CACHE_DIR/x")
    assert done.returncode == 0
    assert "no signing key" in done.stderr
    assert "WARNING" not in done.stderr
    assert printed(aotcache("ls", "--json", env=env)) == []


def test_what_a_shell_runs_is_not_guessed(env: dict[str, str], tmp_path: Path) -> None:
    words = ("exec", "--key", "k", "--cache-root", str(tmp_path), "--", "sh", "-c", "echo ran")
    done = aotcache(*words, env=env)
    assert done.stdout == "ran\n"
    assert "--platform detect" in done.stderr


def test_a_program_keeps_its_own_cache_where_ours_cannot_be(
    env: dict[str, str], tmp_path: Path
) -> None:
    done = _exec(env, Path("/proc/nothing"), "sh", "-c", "echo [$TORCHINDUCTOR_CACHE_DIR]")
    assert (done.returncode, done.stdout) == (0, "[]\n")
    done = _exec(env, tmp_path, "sh", "-c", "echo [$TORCHINDUCTOR_CACHE_DIR]")
    assert done.stdout == f"[{tmp_path}/inductor/softmax]\n"


def test_a_command_that_is_not_there_is_a_usage_error(env: dict[str, str], tmp_path: Path) -> None:
    done = _exec(env, tmp_path, "no-such-command")
    assert done.returncode == 2
    assert "no-such-command" in done.stderr
