"""The lock files hold what pyproject.toml asks for, each with its hashes."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.vllm import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
PLUGIN = [one for one in WANTED if re.match(r"watchdog|ahocorasick-rs|backports\.zstd", one)]


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("requirements.lock", [*WANTED, *EXTRAS["s3"], *EXTRAS["service"], *EXTRAS["postgres"]]),
        ("requirements-node.lock", [*WANTED, *EXTRAS["s3"]]),
        ("requirements-plugin.lock", PLUGIN),
        ("requirements-build.lock", PROJECT["build-system"]["requires"]),
    ],
)
def test_locks_what_is_asked_for(file: str, wanted: list[str]) -> None:
    text = (ROOT / "deploy" / file).read_text()
    locked = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", text, re.MULTILINE))
    blocks = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    for one in map(Requirement, wanted):
        if one.name != PROJECT["project"]["name"]:
            assert locked[canonicalize_name(one.name)] in one.specifier, one
