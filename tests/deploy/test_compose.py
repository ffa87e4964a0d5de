"""compose.yaml: read by Docker Compose, and its command lines run as they stand there."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from aotcache.probe.trees import tree_path
from support.composed import composed, configuration
from support.images import Images
from support.small import small_tree
from support.trees import H100, contents

CLI = [sys.executable, "-m", "aotcache"]
SECRETS = {
    "POSTGRES_PASSWORD": "a-password-of-the-test",
    "S3_SECRET_KEY": "a-secret-key-of-the-test",
    "ADMIN_TOKEN": f"aotc_0123456789ab_{'t' * 43}",
}


def test_compose_takes_it_and_wants_its_secrets() -> None:
    about = configuration(SECRETS)
    assert set(about["services"]) == {"postgres", "s3", "token", "aotcache"}
    assert not about.get("secrets"), "Compose puts none into what is read-only"
    with pytest.raises(AssertionError, match=r"say it in \.env"):
        configuration({})
    for name, service in about["services"].items():
        assert "build" in service or re.search(r":\d+\.\d+(\.\d+)?(-\w+)?$", service["image"]), name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", "others are let in on purpose: LISTEN"
        if "build" in service:
            assert service["read_only"]
            assert (service["cap_drop"], service["security_opt"]) == (
                ["ALL"],
                ["no-new-privileges:true"],
            )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_services_work_together(images: Images, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    tree = small_tree(tmp_path / "publisher", ranks=(0, 1))
    with composed(images, tmp_path, SECRETS) as here:

        def aotcache(*words: str) -> str:
            """On a node, outside the containers: by the ports that are published."""
            token = {"AOTCACHE_TOKEN": SECRETS["ADMIN_TOKEN"]}
            env = {**os.environ, **token, "XDG_CONFIG_HOME": str(tmp_path / "config")}
            done = here.network.run(*CLI, *words, env=env)
            assert done.returncode == 0, done.stderr
            return done.stdout

        line = aotcache("key", "generate")
        aotcache("key", "trust", line.strip())
        pushed = json.loads(
            aotcache("push", tree.hash, "--json", "--cache-root", str(tmp_path / "publisher"))
        )
        assert pushed
        platform = tmp_path / "platform.json"
        platform.write_text(json.dumps({name: getattr(H100, name) for name in H100.__slots__}))
        root = str(tmp_path / "node")
        words = ("pull", tree.hash, "--platform", str(platform), "--cache-root", root)
        # Straight to and from S3, by URLs that the service signs for the address that nodes know.
        assert "installed" in aotcache(*words, "--transfer", "presigned")
        there = contents(tree_path(root, tree.layout, tree.hash))
        assert set(there) == set(contents(tree.path))
        refused = here.network.run(*CLI, "ls", env={**os.environ, "AOTCACHE_TOKEN": ""})
        assert "it has no token" in refused.stderr
        assert "trees deleted" in aotcache("gc", "--dry-run") or "would be deleted" in aotcache(
            "gc", "--dry-run"
        )
        # A start later the token is there already.
        again = here.container("token").run(here.network, *here.command("token"))
        assert "is known already" in again.stderr
        said = "".join(file.read_text(errors="replace") for file in tmp_path.glob("*.log"))
        assert not [secret for secret in SECRETS.values() if secret in said]
