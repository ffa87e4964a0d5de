"""`aotcache token`, beside a running service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from aotcache_service.commands.serve import serve
from aotcache_service.commands.token import token
from support.site import Service, aotcache, printed


def ran(folder: Path, *words: str) -> Result:
    command, *rest = words
    return CliRunner().invoke(token, [command, "--data-dir", str(folder), *rest])


def made(folder: Path, *words: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(ran(folder, "create", "--json", *words).stdout)
    return found


def listed(folder: Path) -> Any:
    return json.loads(ran(folder, "list", "--json").stdout)


def test_made_listed_revoked(tmp_path: Path) -> None:
    assert "no token was ever made" in ran(tmp_path, "list").stderr
    assert listed(tmp_path) == []
    first = ran(tmp_path, "create", "--name", "node pool a", "--expires", "90d")
    assert first.exit_code == 0
    text = first.stdout.strip()
    token_id = text.split("_")[1]
    assert first.stderr == f"token {token_id}, to read in default; keep it secret:\n"
    (row,) = listed(tmp_path)
    assert (row["id"], row["name"], row["scope"]) == (token_id, "node pool a", "read")
    assert (row["namespaces"], row["state"]) == (["default"], "good")
    assert row["expires"] - row["created"] == 90 * 86400
    assert text.split("_", 2)[2] not in json.dumps(row)
    line = ran(tmp_path, "list").stdout
    assert line.startswith(f"{token_id}  good     read     default ")
    assert line.endswith("node pool a\n")
    assert ran(tmp_path, "revoke", token_id).stdout == f"{token_id} is revoked\n"
    assert listed(tmp_path)[0]["state"] == "revoked"


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    for words, why in [
        (("create", "--namespace", "Not One"), "namespace"),
        (("create", "--scope", "root"), "'root' is not one of"),
        (("create", "--expires", "soon"), "90d, 12h, 30m"),
        (("create", "--expires", "0d"), "90d, 12h, 30m"),
        (("create", "--name", "a\x1b[31m"), "printable"),
        (("revoke", "0123456789ab"), "there is no token"),
    ]:
        result = ran(tmp_path, *words)
        assert result.exit_code != 0
        assert why in (result.output + str(result.exception)), words
    assert listed(tmp_path) == []


def test_one_that_was_made_elsewhere(tmp_path: Path) -> None:
    """As a cluster's secret has it, before each start."""
    text = f"aotc_{'0123456789ab'}_{'s' * 43}"
    file = tmp_path / "token"
    file.write_text(text + "\n")
    words = ("adopt", str(file), "--scope", "admin", "--namespace", "*", "--name", "cluster")
    said = [ran(tmp_path, *words) for _ in range(2)]
    assert [done.exit_code for done in said] == [0, 0]
    assert [done.stderr for done in said] == [
        "token 0123456789ab is adopted\n",
        "token 0123456789ab is known already\n",
    ]
    (row,) = listed(tmp_path)
    assert (row["id"], row["scope"], row["namespaces"]) == ("0123456789ab", "admin", ["*"])
    assert (row["name"], row["state"]) == ("cluster", "good")
    for given, more, why in (
        (text, ("--scope", "read"), "known already, to admin in *"),
        (text[:-1] + "t", words[2:], "known already, to admin in *"),
        ("aotc_short", words[2:], "holds no token"),
    ):
        file.write_text(given)
        refused = ran(tmp_path, "adopt", str(file), *more)
        assert refused.exit_code == 1
        assert why in str(refused.exception)
        assert given not in str(refused.exception)
    file.write_text(text)
    ran(tmp_path, "revoke", "0123456789ab")
    # No failure: a service's start would be one.
    assert "is revoked and stays so" in ran(tmp_path, *words).stderr
    assert listed(tmp_path)[0]["state"] == "revoked"


def test_a_port_that_kubernetes_set_is_none(tmp_path: Path) -> None:
    """In pods beside a Service called `aotcache`."""
    env = {"AOTCACHE_PORT": "tcp://10.96.0.17:8750"}
    words = ["--data-dir", str(tmp_path), "--host", "192.0.2.1"]
    made(tmp_path)
    done = CliRunner().invoke(serve, words, env=env)
    assert "cannot listen on 192.0.2.1 port 8750" in done.output
    done = CliRunner().invoke(serve, words, env={"AOTCACHE_PORT": "what"})
    assert done.exit_code == 2


def test_the_service_listens_elsewhere_only_with_a_token(tmp_path: Path) -> None:
    words = ["--data-dir", str(tmp_path), "--host", "192.0.2.1", "--port", "0"]
    revoked = made(tmp_path)
    ran(tmp_path, "revoke", revoked["id"])
    refused = CliRunner().invoke(serve, words)
    assert refused.exit_code == 2
    assert "there is no token" in refused.output
    made(tmp_path)
    # Now it tries to; the address is nobody's.
    assert "cannot listen on 192.0.2.1" in CliRunner().invoke(serve, words).output


def test_a_running_service_and_its_clients(service: Service, tmp_path: Path) -> None:
    """Made, used from a file and from the environment, revoked: no restart."""
    words = ("--url", service.url, "--json")
    assert printed(aotcache("ls", *words)) == []
    one = made(service.data, "--scope", "admin", "--namespace", "*")
    done = aotcache("ls", *words, check=False)
    assert done.returncode == 1
    assert "it has no token. Name one in AOTCACHE_TOKEN or AOTCACHE_TOKEN_FILE" in done.stderr
    file = tmp_path / "token"
    file.write_text(one["token"] + "\n")
    assert printed(aotcache("ls", *words, "--token-file", str(file))) == []
    for env in ({"AOTCACHE_TOKEN": one["token"]}, {"AOTCACHE_TOKEN_FILE": str(file)}):
        assert printed(aotcache("ls", *words, env=env)) == []
    ran(service.data, "revoke", one["id"])
    done = aotcache("ls", *words, "--token-file", str(file), check=False)
    assert done.returncode == 1
    assert f"token {one['id']} is revoked" in done.stderr
    assert one["token"] not in done.stderr
