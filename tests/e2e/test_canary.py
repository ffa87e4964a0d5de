"""Secrets are driven through every path, at the highest log level, and looked for wherever somebody
else could read them: output, logs, errors, command lines, what lies beside the trees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from aotcache.core.trust import generate_key
from aotcache.engines.vllm.jobs import Answer, Wait
from aotcache.local.python import our_python
from aotcache.probe.trees import FoundTree
from aotcache.protocol.v1.leases import FREE, GRANTED, HELD
from support.s3 import S3Server
from support.site import AOTCACHE, Service, aotcache, printed
from support.small import small_tree
from support.trees import H100, RECIPE

# What a presigned URL holds beside its path.
SIGNATURE = "X-Amz-Signature"


class Watched:
    """Runs commands, and keeps all that they said and all that was seen of them in /proc."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.said: list[str] = []

    def run(self, *words: str, ok: bool = True, **env: str) -> str:
        with subprocess.Popen(
            [*AOTCACHE, "-v", *words],
            env={**os.environ, **self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            self.look()
            out, err = process.communicate(timeout=120)
        self.said += [out, err]
        assert (process.returncode == 0) == ok, err[-3000:]
        return out

    def page(self, client: httpx2.Client, method: str, path: str, **about: Any) -> None:
        """What a browser is shown, and what it keeps."""
        answer = client.request(method, path, **about)
        self.said += [answer.text, str(answer.url), *answer.headers.values()]
        assert answer.status_code == 200, (path, answer.text)

    def wait_for_another(self, job: Wait) -> None:
        """Two engines' companions: one may compile, and the other waits for that."""
        env = {**os.environ, **self.env}
        words = our_python("aotcache.engines.vllm.companion")
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with (
            subprocess.Popen(words, env=env, **pipes) as first,
            subprocess.Popen(words, env=env, **pipes) as second,
        ):
            for process, turns in ((first, [GRANTED]), (second, [HELD, FREE])):
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                process.stdin.flush()
                lines = [process.stdout.readline() for _ in turns]
                self.look()
                self.said += [line.decode() for line in lines]
                assert [msgspec.json.decode(line, type=Answer).turn for line in lines] == turns
            self.said += [text.decode() for one in (first, second) for text in one.communicate()]

    def look(self) -> None:
        """At the command lines of all processes, as every user can."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.said.append(path.read_bytes().decode("utf-8", "replace"))
            except OSError:
                continue  # it has ended

    def require_silence(self, **secrets: str) -> None:
        for name, secret in secrets.items():
            for text in self.said:
                at = text.find(secret)
                assert at < 0, f"{name}: {text[max(0, at - 300) : at]}"


@contextmanager
def serving(data: Path, storage_url: str, env: dict[str, str]) -> Iterator[Service]:
    service = Service(data, storage_url, env=env)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def make_token(data: Path, *words: str) -> dict[str, str]:
    done = aotcache("token", "create", "--data-dir", str(data), "--json", *words)
    found: dict[str, str] = printed(done)
    return found


def operate(watched: Watched, service: Service, tree: FoundTree, token: str) -> None:
    """What an operator does with a tree."""
    box = str(service.data.parent / "box")
    watched.run("export", tree.hash, "--to", box)
    watched.run("import", box, "--namespace", "team")
    for words in ("stats", "status", "misses", f"pin {tree.hash}", f"unpin {tree.hash}"):
        watched.run(*words.split())
    for words in ("gc --dry-run", "gc", "reconcile"):
        watched.run(*words.split())
    storage = ("--data-dir", str(service.data), "--storage-url", service.storage_url)
    watched.run("reindex", *storage)
    with httpx2.Client(base_url=service.url, follow_redirects=True) as browser:
        refused = browser.post("/sign-in", data={"token": token[:-3] + "xyz"})
        watched.said.append(refused.text)
        assert "Admin token" in refused.text
        watched.page(browser, "POST", "/sign-in", data={"token": token})
        for path in ("/", "/trees", "/misses", "/audit"):
            watched.page(browser, "GET", path)
        assert "Admin token" not in watched.said[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transfer", "log"), [("presigned", "json"), ("direct", "text"), ("proxy", "json")]
)
def test_no_secret_is_seen(seaweedfs: S3Server, tmp_path: Path, transfer: str, log: str) -> None:
    storage_url = seaweedfs.fresh_url()
    data, key_file = tmp_path / "service", tmp_path / "signing.pem"
    token = make_token(data, "--scope", "admin", "--namespace", "*")["token"]
    key = generate_key()
    key_file.write_bytes(key.pem())
    key_file.chmod(0o600)
    (tmp_path / "trusted").write_text(key.public_line())
    platform = tmp_path / "platform.json"
    platform.write_bytes(msgspec.json.encode(H100))
    tree = small_tree(tmp_path / "publisher", ranks=(0, 1))
    env = {**seaweedfs.env(), "AOTCACHE_LOG_FORMAT": log}
    with serving(data, storage_url, env) as service:
        watched = Watched(
            {
                **seaweedfs.env(),
                "AOTCACHE_URL": service.url,
                "AOTCACHE_TOKEN": token,
                "AOTCACHE_SIGNING_KEY": str(key_file),
                "AOTCACHE_TRUSTED_KEYS": str(tmp_path / "trusted"),
                "AOTCACHE_TRANSFER": transfer,
                "HF_TOKEN": "hf_canaryCANARYcanaryCANARYcanaryCANARY",
            }
        )
        if transfer == "direct":
            watched.env["AOTCACHE_STORAGE_URL"] = storage_url
        root = ("--cache-root", str(tmp_path / "node"))
        watched.run("push", "--cache-root", str(tmp_path / "publisher"), tree.hash)
        watched.run("pull", tree.hash, *root, "--platform", str(platform))
        for words in ("ls", f"show {tree.hash}", "quarantine list", "key show"):
            watched.run(*words.split())
        watched.run("doctor")
        watched.run("token", "list", "--data-dir", str(data))
        watched.run("lookup", tree.hash, "--platform", str(platform))
        watched.run("lookup", "1" * 64, "--platform", str(platform), "--explain", *root, ok=False)
        operate(watched, service, tree, token)
        watched.wait_for_another(
            Wait(
                cache_root=root[1],
                namespace="default",
                part="rank_0_0-d0",
                platform=H100,
                recipe=RECIPE,
                hash="2" * 64,
                seconds=1.0,
                hold=True,
            )
        )
        program = (sys.executable, "-c", "pass")
        here = ("--platform", str(platform), *root)
        watched.run("exec", "--key", "k", "--no-publish", *here, "--", *program)
        token_file = tmp_path / "token"
        token_file.write_text(token + "\n")
        watched.run("ls", AOTCACHE_TOKEN="", AOTCACHE_TOKEN_FILE=str(token_file))
        # A tree that holds one of them, which is found out.
        grown = Path(tree.path) / "inductor_cache" / "zz" / "czz.py"
        grown.parent.mkdir()
        grown.write_text(f"# {watched.env['HF_TOKEN']}\n# {token}\n")
        from_here = ("--cache-root", str(tmp_path / "publisher"))
        watched.run("push", *from_here, tree.hash, ok=False)
        watched.run("watch", *from_here, "--once", ok=False)
        shutil.rmtree(grown.parent)
        # What goes wrong says much.
        gone = {"AOTCACHE_URL": "http://127.0.0.1:9"}
        watched.run("ls", ok=False, **gone)
        watched.run("ls", ok=False, AOTCACHE_TOKEN=token[:-3] + "xyz")
        watched.run("ls", ok=False, AOTCACHE_TOKEN=token + "\n")
        watched.run("ls", ok=False, AOTCACHE_TOKEN_FILE=str(key_file))
        watched.run("pull", "0" * 64, *root, "--platform", str(platform), ok=False)
        for missing in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
            fresh = ("--cache-root", str(tmp_path / missing))
            watched.run(
                "pull",
                tree.hash,
                *fresh,
                "--platform",
                str(platform),
                ok=transfer != "direct",
                **{missing: "wrong-wrong-wrong-wrong"},
            )
        watched.run("key", "revoke", key.id, "--stored")
        watched.run("push", *from_here, tree.hash, ok=False)
        headers = {"Authorization": f"Bearer {token}"}
        watched.said.append(httpx2.get(f"{service.url}/metrics", headers=headers).text)
        assert "aotcache_requests_total" in watched.said[-1]
        time.sleep(0.1)
        watched.said.append(service.log.read_text())
        assert (log == "json") == watched.said[-1].splitlines()[-1].startswith("{")
    own = Path(tree.path).parent / ".aotcache"
    watched.said += [
        path.read_bytes().decode("latin-1") for path in own.rglob("*") if path.is_file()
    ]
    seed = "".join(key.pem().decode().splitlines()[1:-1])
    watched.require_silence(
        token=token.split("_", 2)[2],
        wrong_token=token.split("_", 2)[2][:-3] + "xyz",
        s3=seaweedfs.secret_key,
        presigned_url=SIGNATURE,
        private_key=seed,
        hf=watched.env["HF_TOKEN"],
    )
