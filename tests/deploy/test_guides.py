"""The guides, as a new user follows them: their `sh` blocks, copied from the pages."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aotcache_service.auth import parse_token
from support.charted import CHART, EXAMPLES, containers, example, pods, rendered
from support.composed import configuration
from support.guided import OTHER, URL, Guided
from support.kubectl import created, lines, missing
from support.pages import blocks
from support.small import small_tree
from support.trees import RECIPE
from support.vllm import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STORED = "1 trees, 3 parts; 0 manifests skipped"


def test_pages_name_what_is_there() -> None:
    pages = [ROOT / "docs/deploy.md", *(ROOT / "docs/guides").glob("*.md")]
    for page in pages:
        text = page.read_text()
        for path in re.findall(r"\bdeploy/[\w./-]*\w", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        for link in re.findall(r"\]\(([^)#:]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert all(page.name in pages[0].read_text() for page in pages[1:])


def test_one_machine(installed: Guided) -> None:
    """Nobody else reads its secrets."""
    modes = installed.shell("stat -c '%a %U' /etc/aotcache/*token /var/lib/aotcache").stdout
    assert modes.splitlines() == ["600 root", "600 root", "700 aotcache"]


def test_compiled_in_ci_and_promoted(installed: Guided) -> None:
    staging, production = (installed.folder / name for name in ("staging", "production"))
    token = installed.token(production, "publish")
    installed.shell("aotcache key generate --out /root/promotes.pem")
    with installed.service(staging) as url, second(installed, production) as other:
        collected, promoted, pinned = installed.follow(
            "ci-prewarm",
            STAGING=url,
            PRODUCTION=other,
            PRODUCTION_TOKEN=token,
            PRODUCTION_KEY="/root/promotes.pem",
            PRODUCTION_ADMIN=installed.token(production, "admin"),
        )
        assert "published" in collected
        assert "installed" in promoted
        assert "published" in promoted
        assert "pinned" in pinned
        env = f"export AOTCACHE_URL={other} AOTCACHE_TOKEN_FILE={token}\n"
        (tree,) = json.loads(installed.shell(f"{env} aotcache ls --json").stdout)
        shown = json.loads(installed.shell(f"{env} aotcache show {tree['hash']} --json").stdout)
        signers = {key for part in shown["trees"][0]["parts"] for key in part["signers"]}
        key = installed.shell("aotcache key show --json --signing-key /root/promotes.pem")
        assert signers == {json.loads(key.stdout)["signs"]["id"]}


def second(installed: Guided, data: Path) -> AbstractContextManager[str]:
    """A service beside another one."""
    return installed.service(data, host=OTHER)


def test_without_a_network(installed: Guided) -> None:
    inside = installed.folder / "inside"
    token = installed.token(inside, "publish")
    with installed.service(installed.folder / "outside") as url, second(installed, inside) as other:
        installed.shell(f"AOTCACHE_URL={url} aotcache push --all")
        page = installed.follow("air-gapped", AOTCACHE_URL=url, INSIDE=other, INSIDE_TOKEN=token)
        next(page)
        next(page)
        # From here on it is another machine's user, who trusts nobody and has no key.
        installed.shell(f"XDG_CONFIG_HOME={inside}-user")
        *_, imported = page
        assert imported.count("vllm-aot") >= 2


def test_when_something_is_lost(installed: Guided) -> None:
    data, replica = installed.folder / "lost", installed.folder / "replica"
    with installed.service(data) as url:
        installed.shell(f"AOTCACHE_URL={url} aotcache push --all")
    admin = installed.folder / "admin-token"
    admin.write_text(f"aotc_0123456789ab_{'d' * 43}\n")
    adopt = f"aotcache token adopt {admin} --data-dir {data} --scope admin --namespace '*'"
    installed.shell(f"cp -r {data}/objects {replica}; rm {data}/index.sqlite3*")
    key = json.loads(installed.shell("aotcache key show --json").stdout)["signs"]["id"]
    page = installed.follow(
        "disaster",
        DATA=str(data),
        ADMIN_TOKEN=str(admin),
        REPLICA=replica.as_uri(),
        LEAKED=key,
        LEAKED_TOKEN_ID="0123456789ab",
        AOTCACHE_URL=URL,
        AOTCACHE_TOKEN_FILE=str(admin),
    )
    assert STORED in next(page)
    assert "0123456789ab is adopted" in next(page)
    installed.shell(f"rm -r {data}/objects")
    assert STORED in next(page)
    with installed.service(data, "--storage-url", replica.as_uri()):
        assert "vllm-aot" in installed.shell("aotcache ls").stdout
    # Without a replica: nothing is stored, nothing known.
    installed.shell(f"rm -r {data} {replica}; {adopt}")
    with installed.service(data):
        assert "published" in next(page)
        assert "not served any more" in next(page)
        assert "published" in next(page)
        assert "0123456789ab is revoked" in next(page)
        assert "is revoked" in installed.shell("aotcache ls", check=False).stderr
    assert list(page) == []
    # The others have a key that counts.
    installed.shell("rm -r /root/.config/aotcache; aotcache key generate")


def test_upgraded_and_rolled_back(installed: Guided) -> None:
    data = installed.folder / "upgraded"
    page = installed.follow("upgrade", DATA=str(data), BACKUP=f"{data}.backup", AOTCACHE_URL=URL)
    with installed.service(data):
        assert "status: ready" in next(page)
        installed.shell("aotcache push --all")
    assert STORED in next(page)
    with installed.service(data):
        assert "vllm-aot" in installed.shell("aotcache ls").stdout
    assert list(page) == []
    # What the page says of an older service: it refuses an index of a newer one, and says so.
    newer = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
    newer += "db.execute('UPDATE alembic_version SET version_num = 9999'); db.commit()"
    installed.shell(f'python3 -c "{newer}" {data}/index.sqlite3')
    older = installed.shell(f"aotcache serve --data-dir {data}", check=False)
    assert older.returncode == 1
    assert "cannot be used" in older.stderr


def test_several_versions_side_by_side(installed: Guided) -> None:
    cache = installed.folder / "versions"
    for version in ("0.31.0", "0.32.0"):
        small_tree(cache, name=version, recipe=replace(RECIPE, engine_version=version))
    with installed.service(installed.folder / "side-by-side") as url:
        installed.shell(f"AOTCACHE_URL={url} aotcache push --all --cache-root {cache}")
        listed, collected = installed.follow("vllm-versions", AOTCACHE_URL=url)
        assert listed.count("vllm-aot") >= 2
        assert collected.count("0 trees would be deleted") == 2


def test_slurm_s_files_are_put_in_place(installed: Guided) -> None:
    list(installed.follow("slurm"))
    put = installed.shell("stat -c '%a %n' /etc/slurm/aotcache/* /etc/aotcache/slurm.env").stdout
    assert sorted(put.splitlines()) == [
        "644 /etc/aotcache/slurm.env",
        "755 /etc/slurm/aotcache/epilog.sh",
        "755 /etc/slurm/aotcache/prolog.sh",
        "755 /etc/slurm/aotcache/task-prolog.sh",
    ]


def test_kubernetes_s_tokens_keys_and_values(installed: Guided) -> None:
    """All that the chart and the examples name has been made, as kubectl says what it makes."""
    list(installed.follow("kubernetes"))
    page, repo = "guides/kubernetes.md", installed.folder / "repo"
    made = [repo / f"{name}-token" for name in ("admin", "publish", "read")]
    tokens = {str(parse_token(file.read_text())) for file in made}
    assert len(tokens - {"None"}) == 3
    objects = created(page, repo)
    assert ("", "Namespace", "aotcache") in objects
    (values,) = blocks(page, "yaml")
    (install,) = (line.split() for line in lines(page) if line.startswith("helm "))
    _, _, name, chart, _, namespace, _, file = install
    assert (ROOT / chart, file) == (CHART, "values.yaml")
    documents = rendered(yaml.safe_load(values), name=name, namespace=namespace)
    (rollout,) = (line.split()[-1] for line in lines(page) if "rollout status" in line)
    assert rollout in {f"deployment/{one['metadata']['name']}" for one in documents}
    needed = [(f"{name}'s {kind}", pod, namespace) for kind, pod in pods(documents)]
    for path in EXAMPLES:
        needed += [(path.name, pod, "serving") for _, pod in pods(example(path))]
    pushed = {line.split()[-1] for line in lines(page) if line.startswith("docker push")}
    built = set(re.findall(r" -t (\S+)", "\n".join(lines(page))))
    images = {one["image"] for _, pod, _ in needed for one in containers(pod)}
    assert {one for one in images if one.startswith("registry.")} <= pushed == built
    lacking = {what: list(missing(pod, where, objects)) for what, pod, where in needed}
    assert len(lacking) >= 5
    assert not any(lacking.values()), lacking


def test_compose_s_secrets(installed: Guided) -> None:
    (block,) = blocks("deploy.md")
    installed.shell("cd /repo")
    installed.shell(block)
    file = installed.folder / "repo/deploy/compose/.env"
    env = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert file.stat().st_mode & 0o777 == 0o600
    assert parse_token(env["ADMIN_TOKEN"]) is not None
    postgres = configuration({}, file.with_name("compose.yaml"))["services"]["postgres"]
    assert postgres["environment"]["POSTGRES_PASSWORD"] == env["POSTGRES_PASSWORD"]
