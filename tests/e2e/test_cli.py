"""The command line as a person or a script uses it: help, JSON, exit codes, signed trees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from aotcache.local.pulled import read_note
from aotcache.probe.trees import FoundTree
from aotcache.protocol.record import TreeUsed
from support.site import AOTCACHE, Service, aotcache, printed, publish_tree
from support.small import record, small_tree
from support.trees import H100, RECIPE, contents, make_ranks

COMMANDS = [
    *("serve", "reindex", "watch", "push", "pull", "lookup", "ls", "show", "rm", "exec", "key"),
    *("bench", "doctor", "token", "quarantine"),
]


@pytest.fixture
def env(service: Service, tmp_path: Path) -> dict[str, str]:
    return {"AOTCACHE_URL": service.url, "XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def tree(tmp_path: Path, triton_kernels: Path, inductor_output: Path) -> FoundTree:
    return make_ranks(tmp_path / "node", triton_kernels, inductor_output, range(2), world=3)


@pytest.fixture
def h100(tmp_path: Path) -> str:
    file = tmp_path / "h100.json"
    file.write_text(json.dumps(asdict(H100)))
    return str(file)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    done = aotcache(command, "--help")
    assert "Usage:" in done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_the_overview_names_every_command() -> None:
    shown = aotcache("--help").stdout
    assert all(f"\n  {command} " in shown for command in COMMANDS)


def test_signed_from_the_first_key_to_the_last_row(
    env: dict[str, str], tree: FoundTree, h100: str, tmp_path: Path, service: Service
) -> None:
    node = ("--cache-root", str(tmp_path / "node"))
    fresh = ("--cache-root", str(tmp_path / "fresh"), "--platform", h100)

    # Nobody chose yet whom to trust: nothing is moved.
    refused = aotcache("push", tree.hash, *node, env=env, check=False)
    assert refused.returncode == 2
    assert "aotcache key trust" in refused.stderr

    line = aotcache("key", "generate", env=env).stdout.strip()
    again = aotcache("key", "generate", env=env, check=False)
    assert (again.returncode, "there already" in again.stderr) == (2, True)
    said = aotcache("push", tree.hash[:8], *node, env=env).stdout
    assert "shared published (generation 1" in said
    once_more = printed(aotcache("push", "--all", "--json", *node, env=env))
    assert {part["status"] for part in once_more["published"][0]["parts"]} == {"already stored"}
    assert once_more["published"][0]["uploaded_bytes"] == 0

    # Another machine: it trusts nobody, then somebody else, then the publisher.
    other = {**env, "XDG_CONFIG_HOME": str(tmp_path / "other")}
    assert aotcache("pull", tree.hash, *fresh, env=other, check=False).returncode == 2
    stranger = {**env, "XDG_CONFIG_HOME": str(tmp_path / "stranger")}
    aotcache("key", "trust", aotcache("key", "generate", env=stranger).stdout.strip(), env=other)
    untrusted = aotcache("pull", tree.hash, *fresh, env=other, check=False)
    assert untrusted.returncode == 1
    assert "trusted keys" in untrusted.stderr
    assert not (tmp_path / "fresh/torch_compile_cache/torch_aot_compile" / tree.hash).exists()
    assert "from now on" in aotcache("key", "trust", line, env=other).stdout
    assert "trusted already" in aotcache("key", "trust", line, env=other).stdout
    key = line.split()[1]
    assert "signs as" in aotcache("key", "show", env=env).stdout
    assert aotcache("key", "show", env=other).stdout.count("trusts ") == 2
    assert key not in untrusted.stderr

    hit = printed(aotcache("lookup", tree.hash, "--platform", h100, "--json", env=other))
    assert [part["part"] for part in hit["parts"]] == ["rank_0_0-d0", "rank_1_0-d1", "shared"]
    assert hit["missing"] == ["rank_2_0-d2"]
    pulled = aotcache("pull", tree.hash, *fresh, env=other)
    assert "signed by" in pulled.stdout
    assert "not stored yet: rank_2_0-d2" in pulled.stdout
    place = Path(str(tree.path).replace(str(tmp_path / "node"), str(tmp_path / "fresh")))
    assert set(contents(place)) == set(contents(tree.path))
    assert "fetching" in pulled.stderr  # a line a step, as stderr is no terminal

    listed = printed(aotcache("ls", "--json", "--model", "org/llama", env=other))
    assert [row["hash"] for row in listed] == [tree.hash]
    assert tree.hash[:16] in aotcache("ls", env=other).stdout
    shown = aotcache("show", tree.hash, env=other).stdout
    for text in ("sm_90", "org/llama", "rank_1_0-d1", "not stored yet", "41.0 s"):
        assert text in shown
    assert printed(aotcache("show", tree.hash, "--json", env=other))["trees"][0]["parts"]

    # The database is lost: the storage is the truth.
    service.stop()
    for file in service.data.glob("index.sqlite3*"):
        file.unlink()
    counts = printed(aotcache("reindex", "--data-dir", str(service.data), "--json"))
    assert (counts["trees"], counts["parts"], counts["skipped"]) == (1, 3, [])
    service.start()
    env["AOTCACHE_URL"] = other["AOTCACHE_URL"] = service.url
    rebuilt = printed(aotcache("ls", "--json", env=other))
    kept = [{**row, "used": 0, "lookups": 0} for row in listed]
    assert [{**row, "used": 0, "lookups": 0} for row in rebuilt] == kept

    assert "deleted" in aotcache("rm", tree.hash, "--yes", env=env).stdout
    gone = aotcache("lookup", tree.hash, "--platform", h100, env=env, check=False)
    assert (gone.returncode, "unknown_hash" in gone.stdout) == (3, True)
    assert printed(aotcache("ls", "--json", env=env)) == []
    assert "shared published (generation 2" in aotcache("push", tree.hash, *node, env=env).stdout


def test_exit_codes(env: dict[str, str], tree: FoundTree, h100: str, tmp_path: Path) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    node = ("--cache-root", str(tmp_path / "node"))
    aotcache("push", "--all", *node, env=env)
    a100 = tmp_path / "a100.json"
    a100.write_text(json.dumps(asdict(replace(H100, arch="sm_80"))))
    cases = {
        0: [("lookup", tree.hash, "--platform", h100)],
        1: [
            ("lookup", tree.hash, "--platform", h100, "--url", "http://127.0.0.1:1"),
            ("show", "0" * 64),
        ],
        2: [
            ("push",),
            ("push", "--all", "--cache-root", str(tmp_path / "empty")),
            ("push", "ffff", *node),
            ("lookup", "not a hash!", "--platform", h100),
            ("lookup", tree.hash, "--platform", str(tmp_path / "nothing.json")),
            ("lookup", tree.hash, "--no-such-option"),
            ("pull", tree.hash, "--trust", "maybe", "--platform", h100),
            ("serve", "--data-dir", str(tmp_path / "data"), "--host", "0.0.0.0"),
            ("no-such-command",),
        ],
        3: [
            ("lookup", "0" * 64, "--platform", h100),
            ("lookup", tree.hash, "--platform", str(a100)),
            ("lookup", tree.hash, "--platform", h100, "--part", "rank_2_0-d2"),
            ("pull", tree.hash, "--platform", str(a100), "--cache-root", str(tmp_path / "x")),
        ],
    }
    for code, lines in cases.items():
        for words in lines:
            done = aotcache(*words, env=env, check=False)
            assert done.returncode == code, (words, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr, words
            assert done.stdout or done.stderr, words


def test_a_miss_names_the_field(env: dict[str, str], tree: FoundTree, tmp_path: Path) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    aotcache("push", "--all", "--cache-root", str(tmp_path / "node"), env=env)
    file = tmp_path / "other.json"
    file.write_text(json.dumps(asdict(replace(H100, python="cpython-3.11.9"))))
    done = aotcache("lookup", tree.hash, "--platform", str(file), env=env, check=False)
    assert "python: stored 'cpython-3.11.7', asked for 'cpython-3.11.9'" in done.stdout


def test_a_push_without_record_wants_the_platform(
    env: dict[str, str], tree: FoundTree, tmp_path: Path, h100: str
) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    shutil.rmtree(Path(tree.path).parent / ".aotcache")
    words = ("push", tree.hash, "--cache-root", str(tmp_path / "node"))
    refused = aotcache(*words, env=env, check=False)
    assert refused.returncode == 2
    assert "--platform detect" in refused.stderr
    assert "rank_1_0-d1 published" in aotcache(*words, "--platform", h100, env=env).stdout


def test_a_machine_that_pulled_has_nothing_to_push(
    env: dict[str, str], tree: FoundTree, tmp_path: Path, h100: str
) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    aotcache("push", "--all", "--cache-root", str(tmp_path / "node"), env=env)
    fresh = ("--cache-root", str(tmp_path / "fresh"))
    aotcache("pull", tree.hash, *fresh, "--platform", h100, env=env)
    again = aotcache("pull", tree.hash, *fresh, "--platform", h100, env=env)
    assert "there already, in " in again.stdout
    # Beside an AOT tree vLLM leaves a directory that only explains it.
    explained = tmp_path / "fresh/torch_compile_cache/0123456789/rank_0_0/backbone"
    explained.mkdir(parents=True)
    (explained / "computation_graph.py").write_text("pass")
    done = aotcache("push", "--all", *fresh, env=env)
    assert done.stderr.count("nothing to publish of ") == 2


def test_typos_are_named(env: dict[str, str], tree: FoundTree, h100: str) -> None:
    for typo in (tree.hash[:-1], tree.hash.upper()):
        done = aotcache("lookup", typo, "--platform", h100, env=env, check=False)
        assert done.returncode == 2
        assert "64 characters" in done.stderr
    done = aotcache("ls", "--namespace", "TeamA", env=env, check=False)
    assert "lower" in done.stderr or "a-z" in done.stderr


def test_a_tree_that_is_damaged_in_storage_is_named(
    env: dict[str, str], tree: FoundTree, h100: str, tmp_path: Path, service: Service
) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    aotcache("push", "--all", "--cache-root", str(tmp_path / "node"), env=env)
    for pack in (service.data / "objects/default/packs").rglob("*-*"):
        pack.unlink()
    words = ("--cache-root", str(tmp_path / "fresh"), "--platform", h100)
    done = aotcache("pull", tree.hash, *words, env=env, check=False)
    assert done.returncode == 1
    assert f"aotcache rm {tree.hash}" in done.stderr
    # What it says helps.
    aotcache("rm", tree.hash, "--yes", env=env)
    aotcache("push", "--all", "--cache-root", str(tmp_path / "node"), env=env)
    aotcache("pull", tree.hash, *words, env=env)


def test_rm_takes_the_start_of_a_platform(
    env: dict[str, str], tree: FoundTree, tmp_path: Path
) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    aotcache("push", "--all", "--cache-root", str(tmp_path / "node"), env=env)
    platform = printed(aotcache("ls", "--json", env=env))[0]["platform_id"]
    assert platform[:12] in aotcache("ls", env=env).stdout
    words = ("rm", tree.hash, "--yes", "--platform-id")
    assert aotcache(*words, "ffffffffffff", env=env, check=False).returncode == 2
    assert platform in aotcache(*words, platform[:8], env=env).stdout


def test_lookup_imports_nothing_heavy() -> None:
    """What keeps its start short: no torch, obstore, rich, cryptography, service, http.client."""
    program = (
        "import sys; sys.argv = ['aotcache', 'lookup', 'x', '--url', 'http://127.0.0.1:1']\n"
        "from aotcache.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = ['torch', 'triton', 'obstore', 'botocore', 'rich', 'cryptography', 'watchdog',\n"
        "         'fastapi', 'sqlalchemy', 'aotcache_service', 'blake3', 'urllib3', 'http',\n"
        "         'email', 'ssl', 'aotcache.storage']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert "no answer" in done.stderr


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(
    env: dict[str, str], tree: FoundTree, h100: str, tmp_path: Path
) -> None:
    env["AOTCACHE_TRUST"] = "unsigned"
    aotcache("push", "--all", "--cache-root", str(tmp_path / "node"), env=env)
    words = ("pull", tree.hash, "--platform", h100, "--cache-root")
    log = aotcache(*words, str(tmp_path / "log"), env=env).stderr
    assert "fetching" in log
    assert "\x1b[" not in log
    master, slave = os.openpty()
    done = subprocess.run(
        [*AOTCACHE, *words, str(tmp_path / "terminal")],
        env={**os.environ, **env, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=slave,
        check=True,
    )
    os.close(slave)
    shown = os.read(master, 1 << 20)
    os.close(master)
    assert b"\x1b[" in shown
    assert b"INFO" not in shown
    assert b"files installed" in done.stdout


def test_keys_and_publishes_as_json(env: dict[str, str], tree: FoundTree, tmp_path: Path) -> None:
    made = printed(aotcache("key", "generate", "--json", env=env))
    trusted = tmp_path / "trusted"
    trusted.write_text(f"{made['line']}")  # no line feed at the end
    stranger = {**env, "XDG_CONFIG_HOME": str(tmp_path / "stranger")}
    line = printed(aotcache("key", "generate", "--json", env=stranger))["line"]
    words = ("key", "trust", line, "--json", "--trusted-keys", str(trusted))
    assert [printed(aotcache(*words, env=env))["already"] for _ in range(2)] == [False, True]
    shown = printed(aotcache("key", "show", "--json", "--trusted-keys", str(trusted), env=env))
    assert shown["signs"]["id"] == made["id"]
    assert len({key["id"] for key in shown["trusts"]}) == 2
    root = ("--cache-root", str(tmp_path / "node"))
    done = printed(aotcache("watch", "--once", "--json", *root, env=env))
    assert {part["status"] for part in done["parts"]} == {"published"}
    assert done["tree"]["hash"] == tree.hash


SERVE = "vllm serve org/llama --tensor-parallel-size 8"


@pytest.fixture
def stored(env: dict[str, str], service: Service, tmp_path: Path) -> list[FoundTree]:
    """Two modules of one start, and another model's tree."""
    env["AOTCACHE_TRUST"] = "unsigned"
    two = [small_tree(tmp_path / "node", name=name) for name in ("main", "draft")]
    used = tuple(TreeUsed(layout=tree.layout, hash=tree.hash) for tree in two)
    for tree in two:
        record(Path(tree.path), "rank_0_0-d0", trees=used)
        publish_tree(service.site(), tree)
    other = small_tree(tmp_path / "node", name="other", recipe=replace(RECIPE, model="org/other"))
    publish_tree(service.site(), other)
    return two


def test_pull_by_recipe(
    env: dict[str, str], stored: list[FoundTree], h100: str, tmp_path: Path
) -> None:
    fresh = ("--cache-root", str(tmp_path / "fresh"), "--platform", h100)
    done = aotcache("pull", "--recipe-of", SERVE, *fresh, env=env)
    assert done.stdout.count(" files installed in ") == 2
    home = tmp_path / "fresh/torch_compile_cache/torch_aot_compile"
    assert {path.name for path in home.iterdir() if path.name != ".aotcache"} == {
        tree.hash for tree in stored
    }
    for tree in stored:
        assert set(contents(home / tree.hash)) == set(contents(tree.path))
    again = printed(aotcache("pull", "--recipe-of", SERVE, "--json", *fresh, env=env))
    assert {one["tree"]["hash"] for one in again} == {tree.hash for tree in stored}
    assert [sum(part["installed"] for part in one["parts"]) for one in again] == [0, 0]
    one = aotcache("pull", stored[0].hash, "--json", *fresh, env=env)
    assert printed(one)["tree"]["hash"] == stored[0].hash


@pytest.mark.usefixtures("stored")
def test_exit_codes_of_a_pull_by_recipe(env: dict[str, str], h100: str, tmp_path: Path) -> None:
    a100 = tmp_path / "a100.json"
    a100.write_text(json.dumps(asdict(replace(H100, arch="sm_80"))))
    cases = {
        1: [("--recipe-of", SERVE, "--url", "http://127.0.0.1:1")],
        2: [
            (),
            ("a" * 64, "--recipe-of", SERVE),
            ("--recipe-of", ""),
            ("--recipe-of", "python train.py"),
            ("--recipe-of", "vllm serve"),
            ("--recipe-of", "vllm serve ''"),
            ("--recipe-of", "vllm serve --config conf.yaml"),
            ("--recipe-of", "vllm serve 'org/llama"),
            ("--recipe-of", f"{SERVE} -tp two"),
            ("--recipe-of", f"{SERVE} -tp 99999999"),
            ("--recipe-of", f"{SERVE} --max-model-len many"),
            ("--recipe-of", f"vllm serve {'m' * 2000}"),
            ("--recipe-of", SERVE, "--part", "rank_0_0-d0"),
            ("--recipe-of", SERVE, "--wait", "long"),
        ],
        3: [
            ("--recipe-of", "vllm serve org/llama"),  # on one GPU
            ("--recipe-of", "vllm serve org/nobody -tp 8"),
            ("--recipe-of", SERVE, "--namespace", "team"),
            ("--recipe-of", SERVE, "--platform", str(a100)),
        ],
    }
    for code, lines in cases.items():
        for words in lines:
            platform = () if "--platform" in words else ("--platform", h100)
            root = ("--cache-root", str(tmp_path / "fresh"))
            done = aotcache("pull", *words, *platform, *root, env=env, check=False)
            assert done.returncode == code, (words, done.stdout, done.stderr)
            assert "Traceback" not in done.stderr, words
            assert done.stderr, words
    assert not list((tmp_path / "fresh").glob("**/model"))


@pytest.mark.usefixtures("stored")
def test_a_miss_by_recipe_as_json(env: dict[str, str], h100: str, tmp_path: Path) -> None:
    words = ("--platform", h100, "--cache-root", str(tmp_path / "fresh"), "--json")
    line = "vllm serve org/llama --dtype half"
    done = aotcache("pull", "--recipe-of", line, *words, env=env, check=False)
    assert done.returncode == 3
    (miss,) = printed(done)
    assert miss["reason"] == "other_recipe"
    assert "tensor_parallel_size" in miss["message"]


def test_a_recipe_whose_tree_is_damaged(
    env: dict[str, str],
    stored: list[FoundTree],
    service: Service,
    h100: str,
    tmp_path: Path,
) -> None:
    for pack in (service.data / "objects/default/packs").rglob("*-*"):
        pack.unlink()
    words = ("--platform", h100, "--cache-root", str(tmp_path / "fresh"))
    done = aotcache("pull", "--recipe-of", SERVE, *words, env=env, check=False)
    assert done.returncode == 1
    assert "damaged in storage" in done.stderr
    assert len(stored) == 2


@pytest.mark.usefixtures("stored")
def test_what_a_recipe_brought_before_a_damaged_tree_is_said(
    env: dict[str, str], service: Service, h100: str, tmp_path: Path
) -> None:
    def pull(root: str, *more: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        words = ("--platform", h100, "--cache-root", str(tmp_path / root), *more)
        return aotcache("pull", "--recipe-of", SERVE, *words, env=env, check=check)

    first, second = printed(pull("whole", "--json", check=True))
    (details,) = service.site().index.tree(second["tree"]["hash"]).trees
    for part in details.parts:
        (service.data / "objects" / part.manifest).unlink()
    done = pull("fresh")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert first["tree"]["hash"] in done.stdout
    assert "damaged in storage" in done.stderr
    again = pull("fresh", "--json")
    assert (again.returncode, "damaged in storage" in again.stderr) == (1, True)
    assert [one["tree"] for one in printed(again)] == [first["tree"]]


def test_what_crashed_here_exits_as_a_miss(
    env: dict[str, str], stored: list[FoundTree], h100: str, tmp_path: Path
) -> None:
    words = ("--platform", h100, "--cache-root", str(tmp_path / "fresh"))
    aotcache("pull", stored[0].hash, *words, env=env)
    home = tmp_path / "fresh/torch_compile_cache/torch_aot_compile"
    note = read_note(str(home / stored[0].hash), "rank_0_0-d0")
    assert note is not None
    (home / ".aotcache/poison").mkdir()
    poison = home / f".aotcache/poison/{stored[0].hash}.json"
    poison.write_text(json.dumps([note.content]))
    done = aotcache("pull", stored[0].hash, *words, env=env, check=False)
    assert (done.returncode, "crashed_here" in done.stderr) == (3, True)
    poison.unlink()  # as it says
    assert str(poison) in done.stderr
    aotcache("pull", stored[0].hash, *words, env=env)
