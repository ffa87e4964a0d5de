"""Keys: whose trees are accepted, and who signs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aotcache.core.trust import generate_key
from aotcache.engines.doctor.findings import NOTE, PROBLEM, Finding, Setup
from aotcache.engines.doctor.trust import check_trust

PUBLISHES = {"AOTCACHE_PUBLISH": "1"}


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "aotcache").mkdir()
    return tmp_path / "aotcache"


def _find(**more: Any) -> list[Finding]:
    environ = more.pop("environ", {})
    return list(check_trust(Setup(environ=environ, cache_root="/x", namespace="default", **more)))


def _said(findings: list[Finding], level: str = PROBLEM) -> str:
    return "\n".join(finding.found for finding in findings if finding.level == level)


def _signing_key(config: Path, mode: int = 0o600) -> Path:
    path = config / "signing.pem"
    path.write_bytes(generate_key().pem())
    path.chmod(mode)
    return path


def test_nothing_is_trusted() -> None:
    assert "no trusted key" in _said(_find())
    assert "trust policy 'some'" in _said(_find(trust="some"))


def test_unsigned() -> None:
    findings = _find(trust="unsigned", environ=PUBLISHES)
    assert not _said(findings)
    assert "whoever can publish" in _said(findings, NOTE)
    assert "without a signature" in _said(findings, NOTE)


def test_trusted_keys(config: Path) -> None:
    lines = "".join(generate_key().public_line() + "\n" for _ in range(2))
    (config / "trusted_keys").write_text(lines)
    findings = _find()
    assert not _said(findings)
    assert "signed: 2 trusted key(s)" in _said(findings, "ok")
    assert "there is no signing key" in _said(_find(environ=PUBLISHES))


def test_a_signing_key(config: Path) -> None:
    _signing_key(config)
    findings = _find(environ=PUBLISHES)
    assert not _said(findings)
    assert "is signed with key" in _said(findings, "ok")


@pytest.mark.parametrize(
    ("mode", "open_"), [(0o600, False), (0o440, False), (0o644, True), (0o660, True)]
)
def test_the_mode_of_a_signing_key(config: Path, mode: int, open_: bool) -> None:
    path = _signing_key(config, mode)
    assert (f"{path} has mode" in _said(_find())) == open_


def test_keys_that_cannot_be_used(config: Path, tmp_path: Path) -> None:
    assert "cannot be used" in _said(_find(signing_key=str(tmp_path / "none")))
    assert "cannot read" in _said(_find(trusted_keys=str(tmp_path / "none")))
    (config / "signing.pem").write_text("hunter2")
    (config / "trusted_keys").write_text("hunter2\n")
    said = _said(_find(environ=PUBLISHES))
    assert "is not an unencrypted PEM private key" in said
    assert "line 1: neither a public key" in said
    assert "hunter2" not in said
