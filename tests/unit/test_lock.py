"""The lock files name, with hashes, all that the images install, within our ranges."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info < (3, 11):
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)

import tomllib

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLIENT = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
PLUGIN = [one for one in CLIENT if re.match(r"watchdog|ahocorasick-rs|backports\.zstd", one)]


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("requirements.lock", [*CLIENT, *EXTRAS["service"], *EXTRAS["postgres"], *EXTRAS["s3"]]),
        ("requirements-node.lock", [*CLIENT, *EXTRAS["s3"]]),
        ("requirements-plugin.lock", PLUGIN),
        ("requirements-build.lock", PYPROJECT["build-system"]["requires"]),
    ],
)
def test_the_lock_fits_our_ranges(file: str, wanted: list[str]) -> None:
    text = (ROOT / "deploy" / file).read_text()
    locked = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", text, re.MULTILINE))
    for requirement in map(Requirement, wanted):
        if requirement.name == "aotcache":
            continue
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    blocks = re.split(r"\n(?=[a-z])", text)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.split("\n")[0])
