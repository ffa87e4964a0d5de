"""Secrets are found wherever they lie, and nothing else is taken for one."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.core.leaks import Scanner
from aotcache.errors import LeakError

SECRET = "correct-horse-battery"
ENVIRON = {"MY_API_KEY": SECRET}
SIZE = 300_000
BASE = random.Random(1).randbytes(SIZE)


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def found(data: bytes, *, size: int = 1 << 20, base: bytes = b"", **environ: str) -> str:
    """What is said; empty: nothing."""
    scanner = Scanner(environ or ENVIRON)
    pieces = in_pieces(data, size)
    try:
        assert list(scanner.checked(iter(pieces), "tree/model", base)) == pieces
    except LeakError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("hf_" + "a1B" * 11 + "c", "a Hugging Face token"),
        ("AKIA" + "ABCDEFGH12345678", "an AWS access key"),
        ("ASIA" + "ABCDEFGH12345678", "an AWS access key"),
        ("ghp_" + "x" * 36, "a GitHub token"),
        ("github_pat_" + "x" * 70, "a GitHub token"),
        ("glpat-" + "x" * 20, "a GitLab token"),
        ("nvapi-" + "x" * 64, "an NVIDIA token"),
        ("sk-" + "x" * 48, "an API key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("aotc_" + "0" * 12 + "_" + "x" * 43, "a token of aotcache"),
        ("https://s3/x?X-Amz-Signature=" + "0" * 64, "a presigned URL"),
    ],
)
def test_tokens_of_known_form(token: str, kind: str) -> None:
    said = found(b"import os\n# " + token.encode() + b"\n")
    assert f"tree/model holds, at byte {12 + max(token.find('X-Amz'), 0)}, what looks like" in said
    assert kind in said
    assert token[-20:] not in said


@pytest.mark.parametrize(
    "text",
    [
        "hf_config, hf_model_type",
        "AKIA",
        "mask-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-----BEGIN CERTIFICATE-----",
        "ghp_short",
        "triton_poi_fused_add_sk-1",
    ],
)
def test_what_only_begins_like_one(text: str) -> None:
    assert found(text.encode()) == ""


@pytest.mark.parametrize(
    ("name", "value", "is_secret"),
    [
        ("HF_TOKEN", "not-of-any-form", True),
        ("db_password", "hunter2hunter2", True),
        ("AWS_SECRET_ACCESS_KEY", "abc/def+ghi", True),
        ("HOSTNAME", "node-17.example", False),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("MAX_NUM_BATCHED_TOKENS", "1000000000", False),
        ("AOTCACHE_SIGNING_KEY", "/etc/keys/signing.pem", False),
        ("KEY_SERVER", "https://keys.example", False),
    ],
)
def test_variables_that_hold_secrets(name: str, value: str, *, is_secret: bool) -> None:
    said = found(f"x = {value!r}".encode(), **{name: value})
    assert (f"the value of {name}" in said) == is_secret
    assert value not in said


@given(st.integers(0, SIZE), st.integers(1000, 1 << 17), st.booleans())
def test_wherever_it_lies(at: int, size: int, near: bool) -> None:
    """Across pieces, and where all around it is what the base holds."""
    data = BASE[:at] + SECRET.encode() + BASE[at:]
    said = found(data, size=size, base=BASE if near else b"")
    assert f"at byte {at}, the value of MY_API_KEY" in said


@given(st.integers(0, SIZE - 30), st.integers(1, 20), st.integers(1000, 1 << 17))
def test_one_that_ends_in_what_is_the_same(at: int, cut: int, size: int) -> None:
    """Half of it is the base's own."""
    secret = SECRET.encode()
    base = BASE[:at] + b"?" * cut + secret[cut:] + BASE[at:]
    data = BASE[:at] + secret + BASE[at:]
    assert f"at byte {at}" in found(data, size=size, base=base)


def test_little_is_looked_at_where_a_base_holds_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    look = Scanner._look
    monkeypatch.setattr(
        Scanner,
        "_look",
        lambda self, data, at, what: (seen.append(len(data)), look(self, data, at, what))[1],
    )
    base = os.urandom(8 << 20)
    data = base[:1_000_000] + b"something put in" + base[1_000_000:5_000_000] + base[5_000_100:]
    assert found(data, base=base) == ""
    assert sum(seen) < 600_000


def test_values_that_are_no_text() -> None:
    name = os.fsdecode(b"caf\xe9-secret-value")
    assert "MY_SECRET" in found(b"x caf\xe9-secret-value y", MY_SECRET=name)
