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

from aotcache.probe.platform import detect
from aotcache.probe.trees import FoundTree, tree_path
from aotcache.sync.pull import Pulled
from support.site import AOTCACHE, Service, aotcache, printed, publish_tree, pull_tree
from support.small import small_tree
from support.trees import PROGRAM, contents

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


# As process 1 of a container, which the kernel keeps from signals that it does not handle.
AS_FIRST = ("unshare", "--pid", "--fork", "--kill-child")
MAY_BE_FIRST = subprocess.run([*AS_FIRST, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param((), id="process"),
        pytest.param(
            AS_FIRST,
            id="process 1",
            marks=pytest.mark.skipif(not MAY_BE_FIRST, reason="only root makes a process 1"),
        ),
    ],
)
def test_a_signal_during_the_pull_ends_it_at_once(
    env: dict[str, str], tmp_path: Path, prefix: tuple[str, ...], number: int
) -> None:
    words = ["exec", "--key", "k", "--cache-root", str(tmp_path), "--platform", "detect"]
    words += ["--deadline", "inf", "--", "touch", str(tmp_path / "ran")]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env["AOTCACHE_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*prefix, *AOTCACHE, *words],
            env={**os.environ, **env},
            # Whatever runs these tests may ignore it, in the background or below nohup.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
        silent.settimeout(60)
        connection, _ = silent.accept()  # it pulls
        try:
            os.kill(_first_child(process.pid) if prefix else process.pid, number)
            assert process.wait(30) == 128 + number
        finally:
            process.kill()
            connection.close()
    assert not (tmp_path / "ran").exists()


def _first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_what_is_ignored_is_ignored_by_the_command_too(env: dict[str, str], tmp_path: Path) -> None:
    nohup = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", *AOTCACHE]
    words = ["exec", "--key", "k", "--cache-root", str(tmp_path), "--platform", "detect"]
    done = subprocess.run(
        [*nohup, *words, "--", "sh", "-c", "kill -HUP $$; echo lives"],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert done.stdout == b"lives\n"


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


@pytest.mark.parametrize("deadline", ["inf", "1e12"])
def test_a_deadline_without_end_waits_for_the_pull(
    env: dict[str, str], tmp_path: Path, deadline: str
) -> None:
    env["AOTCACHE_DEADLINE"] = deadline
    done = _exec(env, tmp_path, "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("deadline", ["nan", "soon"])
def test_a_deadline_that_is_no_number_is_a_usage_error(
    env: dict[str, str], tmp_path: Path, deadline: str
) -> None:
    env["AOTCACHE_DEADLINE"] = deadline
    done = _exec(env, tmp_path, "sh", "-c", "echo ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert deadline in done.stderr
    assert "Traceback" not in done.stderr


VLLM = """#!{python}
import json, os, sys
said = {{name: value for name, value in os.environ.items() if name.startswith(("AOTC", "VLLM"))}}
print(json.dumps({{"environment": said, "arguments": sys.argv[1:], "inductor":
    os.environ.get("TORCHINDUCTOR_CACHE_DIR")}}))
sys.exit(int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def vllm(tmp_path: Path) -> str:
    """A command called `vllm` of this Python, that says in which environment it runs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "vllm"
    script.write_text(VLLM.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


def _serve(
    env: dict[str, str], root: Path, vllm: str, *words: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    serve = words or ("org/llama", "--tensor-parallel-size", "8")
    return aotcache(
        *("exec", "--cache-root", str(root), "--", vllm, "serve", *serve), env=env, check=check
    )


@pytest.fixture
def tree(service: Service, tmp_path: Path) -> FoundTree:
    """Of this machine, stored."""
    found = small_tree(tmp_path / "node", platform=detect().platform)
    publish_tree(service.site(), found)
    return found


def test_vllm_serve_needs_no_key(
    env: dict[str, str], vllm: str, tree: FoundTree, tmp_path: Path
) -> None:
    """Its trees are there before it runs, and the plugin is told what `exec` was."""
    done = _serve(env, tmp_path / "fresh", vllm)
    said = printed(done)
    assert said["arguments"] == ["serve", "org/llama", "--tensor-parallel-size", "8"]
    assert said["inductor"] is None  # vLLM's own to choose
    told = said["environment"]
    assert told["VLLM_CACHE_ROOT"] == str(tmp_path / "fresh")
    assert told["AOTCACHE_URL"] == env["AOTCACHE_URL"]
    assert told["AOTCACHE_TRUST"] == "unsigned"
    assert told["AOTCACHE_PUBLISH"] == "1"
    place = Path(tree_path(str(tmp_path / "fresh"), tree.layout, tree.hash))
    assert set(contents(place)) == set(contents(tree.path))
    assert "files installed" in done.stderr
    assert "WARNING" not in done.stderr


def test_options_of_exec_are_the_plugins(
    env: dict[str, str], vllm: str, service: Service, tmp_path: Path
) -> None:
    del env["AOTCACHE_URL"], env["AOTCACHE_TRUST"]
    words = ("--url", service.url, "--trust", "unsigned", "--namespace", "team", "--no-publish")
    (tmp_path / "token").write_text("secret")
    words += ("--token-file", str(tmp_path / "token"), "--cache-root", "relative")
    done = subprocess.run(
        [*AOTCACHE, "exec", *words, "--", vllm, "serve", "org/llama"],
        env={**os.environ, **env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    told = printed(done)["environment"]
    assert told["AOTCACHE_URL"] == service.url
    assert (told["AOTCACHE_TRUST"], told["AOTCACHE_NAMESPACE"]) == ("unsigned", "team")
    assert (told["AOTCACHE_TOKEN_FILE"], told["VLLM_CACHE_ROOT"]) == (
        str(tmp_path / "token"),
        str(tmp_path / "relative"),
    )
    assert "AOTCACHE_PUBLISH" not in told
    assert "miss (unknown_recipe)" in done.stderr


def test_what_the_server_compiled_is_published_when_it_ends(
    env: dict[str, str], vllm: str, service: Service, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    tree = small_tree(root, name="compiled", platform=detect().platform)
    assert printed(_serve({**env, "CODE": "0"}, root, vllm, "org/other"))
    there = pull_tree(service.site(), tree, detect().platform, tmp_path / "fresh")
    assert isinstance(there, Pulled)


def test_a_server_that_fails_is_not_published(
    env: dict[str, str], vllm: str, tmp_path: Path
) -> None:
    small_tree(tmp_path / "root", platform=detect().platform)
    done = _serve({**env, "CODE": "7"}, tmp_path / "root", vllm, check=False)
    assert done.returncode == 7
    assert printed(aotcache("ls", "--json", env=env)) == []


def test_a_machine_that_only_trusts_has_no_publisher(
    env: dict[str, str], vllm: str, tmp_path: Path
) -> None:
    stranger = {**env, "XDG_CONFIG_HOME": str(tmp_path / "stranger")}
    line = aotcache("key", "generate", env=stranger).stdout.strip()
    env["AOTCACHE_TRUST"] = ""
    aotcache("key", "trust", line, env=env)
    done = _serve(env, tmp_path, vllm)
    assert "AOTCACHE_PUBLISH" not in printed(done)["environment"]
    assert "no signing key" in done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-tp", "2"), "names no model"),
        (("org/llama", "-tp", "two"), "is not a number"),
        (("org/llama", "-tp", "99999999"), "makes no recipe"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_vllms_to_refuse(
    env: dict[str, str], vllm: str, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = _serve(env, tmp_path, vllm, *words)
    assert printed(done)["arguments"] == ["serve", *words]
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1, done.stderr
    assert said in warnings[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("broken", ["no service", "no policy"])
def test_vllm_serve_starts_without_a_cache(
    env: dict[str, str], vllm: str, tmp_path: Path, broken: str
) -> None:
    if broken == "no service":
        env["AOTCACHE_URL"] = "http://127.0.0.1:1"
    else:
        env["AOTCACHE_TRUST"] = ""
    done = _serve({**env, "CODE": "5"}, tmp_path, vllm, check=False)
    assert done.returncode == 5
    assert printed(done)["arguments"]
    assert len([line for line in done.stderr.splitlines() if "WARNING" in line]) == 1
    assert "Traceback" not in done.stderr


def test_a_key_is_for_other_programs(env: dict[str, str], vllm: str, tmp_path: Path) -> None:
    done = _exec(env, tmp_path, vllm, "serve", "org/llama")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--key is not for `vllm serve`" in done.stderr
    words = ("exec", "--cache-root", str(tmp_path), "--", "echo", "ran")
    done = aotcache(*words, env=env, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--key NAME" in done.stderr
