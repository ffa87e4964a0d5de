"""The lock file names, with hashes, all that the service's image installs, within our ranges."""

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


def test_the_lock_fits_our_ranges() -> None:
    text = (ROOT / "deploy" / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["service"], *extras["postgres"], *extras["s3"]]
    for requirement in map(Requirement, wanted):
        if requirement.name == "aotcache":
            continue
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    blocks = re.split(r"\n(?=[a-z])", text)
    assert all("--hash=sha256:" in block for block in blocks if "==" in block.split("\n")[0])
