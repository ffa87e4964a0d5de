"""Secrets are found wherever they lie, and nothing else is taken for one."""

from __future__ import annotations

import os
import random
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.core.framing import FRAME_RAW, Source, digest_of, in_pieces
from aotcache.core.leaks import Leak, Scanner, leak_in
from aotcache.core.pack import build_packs
from aotcache.errors import LeakError

SECRET = "correct-horse-battery"
ENVIRON = {"MY_API_KEY": SECRET}
SIZE = 300_000
BASE = random.Random(1).randbytes(SIZE)


def found(data: bytes, **environ: str) -> str:
    """What is said; empty: nothing."""
    leak = Scanner(environ or ENVIRON).find(data)
    return "" if leak is None else str(leak_in("tree/model", 0, leak))


def beside(data: bytes, base: bytes, at: int = 0) -> int:
    """Where it is found."""
    leak = Scanner(ENVIRON).find_beside(data, memoryview(base), at)
    return -1 if leak is None else leak.at


def packed(*contents: bytes, near: bool = False) -> str:
    """What a publisher of these blobs is told; empty: nothing. near: the others are compressed
    against the first."""
    first = digest_of(contents[0])
    sources = [
        Source(
            digest_of(data),
            len(data),
            ("shared",),
            f"tree/{number}",
            partial(in_pieces, data),
            (first, lambda: contents[0]) if near and number else None,
            own_prefix=near,
        )
        for number, data in enumerate(contents)
    ]
    try:
        list(build_packs(sources, "5" * 32, Scanner(ENVIRON)))
    except LeakError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("hf_" + "a1B" * 11 + "c", "a Hugging Face token"),
        ("AKIA" + "ABCDEFGH12345678", "an AWS access key"),
        ("ghp_" + "x" * 36, "a GitHub token"),
        ("github_pat_" + "x" * 70, "a GitHub token"),
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
        # Base64 has slashes, and the secret of a webhook is a place of its own.
        ("S3_SECRET", "/3fD9qLmZx81TtYrEwPo2/Kd", True),
        ("SLACK_TOKEN_URL", "https://hooks.example/T0/B0/aXbYcZdWeVfUgThSiRjQ", True),
        ("TOKEN_FILE", "../secrets/aotcache/token", False),
        ("KEY_HOME", "~/.config/keys", False),
    ],
)
def test_variables_that_hold_secrets(name: str, value: str, *, is_secret: bool) -> None:
    said = found(f"x = {value!r}".encode(), **{name: value})
    assert (f"the value of {name}" in said) == is_secret
    assert value not in said


@given(st.integers(0, SIZE))
def test_wherever_it_lies_in_what_is_the_same(at: int) -> None:
    """What comes after it is shifted, and found again."""
    data = BASE[:at] + SECRET.encode() + BASE[at:]
    assert beside(data, BASE) == at
    assert beside(BASE, BASE) == -1


@given(st.integers(0, SIZE - 30), st.integers(1, 20))
def test_one_half_of_which_is_the_bases(at: int, cut: int) -> None:
    secret = SECRET.encode()
    data = BASE[:at] + secret + BASE[at:]
    assert beside(data, BASE[:at] + b"?" * cut + secret[cut:] + BASE[at:]) == at
    kept = len(secret) - cut
    assert beside(data, BASE[:at] + secret[:kept] + b"?" * cut + BASE[at:]) == at


@given(st.integers(-200_000, SIZE), st.integers(0, 400_000))
def test_any_place_of_the_base_may_be_said(at: int, length: int) -> None:
    """Also one that is wrong, or not there."""
    data = (BASE * 2)[:length] + SECRET.encode()
    assert beside(data, BASE, at) == length


def test_little_is_looked_at_where_a_base_holds_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    find = Scanner.find

    def counted(self: Scanner, data: bytes) -> Leak | None:
        seen.append(len(data))
        return find(self, data)

    monkeypatch.setattr(Scanner, "find", counted)
    base = os.urandom(8 << 20)
    data = base[:1_000_000] + b"something put in" + base[1_000_000:5_000_000] + base[5_000_100:]
    assert beside(data, base) == -1
    assert sum(seen) < 300_000


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("at", [0, 5_000, FRAME_RAW - 10, FRAME_RAW, FRAME_RAW + 70_000])
def test_across_the_frames_of_a_large_blob(at: int, *, near: bool) -> None:
    large = random.Random(2).randbytes(FRAME_RAW + 300_000)
    changed = large[:at] + SECRET.encode() + large[at:]
    said = packed(large, changed, near=near)
    assert said.startswith(f"tree/1 holds, at byte {at}, the value of MY_API_KEY")
    assert packed(large, large[:at] + b"nothing" + large[at:], near=near) == ""


def test_among_small_blobs_the_right_one_is_named() -> None:
    blobs = [b"a" * 1000, b"b" * 500 + SECRET.encode(), b"c" * 1000]
    assert packed(*blobs).startswith("tree/1 holds, at byte 500, ")


def test_values_that_are_no_text() -> None:
    name = os.fsdecode(b"caf\xe9-secret-value")
    assert "MY_SECRET" in found(b"x caf\xe9-secret-value y", MY_SECRET=name)
