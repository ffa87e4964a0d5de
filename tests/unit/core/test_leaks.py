"""Secrets are found wherever they lie, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotcache.core.framing import FRAME_RAW, Source, digest_of, in_pieces
from aotcache.core.leaks import Scanner, leak_in, masked, masked_outcome
from aotcache.core.pack import build_packs
from aotcache.errors import LeakError
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.explain import Explain
from aotcache.protocol.v1.outcomes import LOAD_FAILED, OTHER_SOURCE, Outcome
from support.stored import HASH, PLATFORM, RECIPE

SECRET = "correct-horse-battery"
ENVIRON = {"MY_API_KEY": SECRET}
SIZE = 300_000
BASE = random.Random(1).randbytes(SIZE)


def found(data: bytes, **environ: str) -> str:
    """What is said; empty: nothing."""
    leak = Scanner(environ or ENVIRON).find(data)
    return "" if leak is None else str(leak_in("tree/model", 0, leak))


def packed(*contents: bytes, near: bool = False, scanner: Scanner | None = None) -> str:
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
        )
        for number, data in enumerate(contents)
    ]
    try:
        list(build_packs(sources, "5" * 32, scanner or Scanner(ENVIRON)))
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
        ("ghs_" + "x" * 36, "a GitHub token"),
        ("gho_" + "x" * 36, "a GitHub token"),
        ("ghu_" + "x" * 36, "a GitHub token"),
        ("ghr_" + "x" * 76, "a GitHub token"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + "x" * 43, "a JSON web token"),
        ("eyJ" + "h" * 500 + ".eyJzdWIiOiIxMjM0In0." + "x" * 86, "a JSON web token"),
        ("ASIA" + "ABCDEFGH12345678", "an AWS access key"),
        ("AIza" + "x" * 35, "a Google API key"),
        ("glpat-" + "x" * 20, "a GitLab token"),
        ("nvapi-" + "x" * 64, "an NVIDIA API key"),
        ("xoxb-" + "1" * 12 + "-" + "2" * 12 + "-" + "x" * 24, "a Slack token"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
        ("aotc_" + "0" * 12 + "_" + "x" * 43, "a token of aotcache"),
        ("https://s3/x?X-Amz-Signature=" + "0" * 64, "a presigned URL"),
    ],
)
def test_tokens_of_known_form(token: str, kind: str) -> None:
    said = found(b"import os\n# " + token.encode() + b"\n")
    known = max(token.find("X-Amz"), token.find(".eyJ"), 0)
    assert f"tree/model holds, at byte {12 + known}, what looks like" in said
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
        "eyJhbGciOiJIUzI1NiJ9.eyJ",
        "eyJhbGciOiJIUzI1NiJ9 is the head of one",
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
        ("DB_PASSWORD", ".Sup3rS3cret!", True),
        ("DB_PASSWORD", "~Tr0ub4dor&3", True),
        ("SECRET_URL", "https://me:hunter2pw@db/x", True),
        ("PGPASS", "hunter2hunter2", True),
        ("SMTP_PASS", "hunter2hunter2", True),
        ("MYSQL_PWD", "hunter2hunter2", True),
        ("BASIC_AUTH", "me:hunter2", True),
        ("HTTP_AUTHORIZATION", "Basic bWU6aHVudGVyMg==", True),
        ("PWD", "somewhere-in-the-engine", False),
        ("OLDPWD", "somewhere-in-the-engine", False),
        ("GIT_AUTHOR_NAME", "Ada Lovelace", False),
    ],
)
def test_variables_that_hold_secrets(name: str, value: str, *, is_secret: bool) -> None:
    said = found(f"x = {value!r}".encode(), **{name: value})
    assert (f"the value of {name}" in said) == is_secret
    assert value not in said


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ("postgres://user:hunter2hunter2@db/x", "hunter2hunter2"),
        ("postgres://user:hunter2%2Fhunter@db:5432/x?a=b", "hunter2/hunter"),
        ("a=redis://:hunter2hunter2@one b=redis://:hunter3hunter3@two", "hunter3hunter3"),
        ("amqp://me:hunter2@hunter2@mq", "hunter2@hunter2"),
    ],
)
def test_the_password_of_a_url(value: str, known: str) -> None:
    assert "the value of DATABASE_URL" in found(f"x={known}".encode(), DATABASE_URL=value)
    assert found(b"postgres://user@db:5432/x", DATABASE_URL="postgres://user@db:5432/x") == ""
    assert found(b"short", DATABASE_URL="postgres://user:short@db/x") == ""


@given(st.integers(0, SIZE))
def test_wherever_it_lies(at: int) -> None:
    leak = Scanner(ENVIRON).find(BASE[:at] + SECRET.encode() + BASE[at:])
    assert leak == (at, "the value of MY_API_KEY")


def test_behind_the_beginning_of_another() -> None:
    """A search that goes on behind what it found must not miss what overlaps it."""
    assert "a private key" in found(b"sk" + b"-----BEGIN PRIVATE KEY-----")
    assert "an AWS access key" in found(b"AKI" + b"AKIA" + b"ABCDEFGH12345678")
    assert "MY_KEY" in found(b"ghp_horse-battery", MY_KEY="p_horse-battery")
    both = {"MY_KEY": "horse-battery", "MY_TOKEN": "correct-horse"}
    assert "MY_TOKEN" in found(b"correct-horse-battery", **both)
    assert found(b"horse", PATH="/usr/bin") == ""


@pytest.mark.parametrize("before", [3, 20, 23, 30])
def test_a_web_token_across_frames(before: int) -> None:
    token = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0." + b"x" * 43
    said = packed(b" " * (FRAME_RAW - before) + token + b" " * 300_000)
    assert said.startswith(
        f"tree/0 holds, at byte {FRAME_RAW - before + 20}, what looks like a JSON"
    )


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


@pytest.mark.parametrize(
    "write", [json.dumps, repr, lambda value: value, lambda value: json.dumps({"a": value})]
)
@pytest.mark.parametrize(
    "value", ['quo"ted-horse', "new\nline-horse", "back\\slash", "schön-geheim"]
)
def test_however_it_is_written(value: str, write: Callable[[str], str]) -> None:
    assert "MY_SECRET" in found(f"x = {write(value)}".encode(), MY_SECRET=value)


def test_a_mounted_secret_ends_with_a_line() -> None:
    assert "MY_SECRET" in found(b"x = 'hunter2hunter2'", MY_SECRET="hunter2hunter2\n")


@pytest.mark.parametrize("at", [0, FRAME_RAW - 60_000, FRAME_RAW - 100])
def test_a_long_one_across_frames(at: int) -> None:
    """Longer than what is kept of the frame before: known by how it begins."""
    secret = "".join(random.Random(3).choices("abcdefgh", k=100_000))
    large = random.Random(2).randbytes(FRAME_RAW + 300_000)
    source = large[:at] + secret.encode() + large[at:]
    said = packed(source, scanner=Scanner({"MY_SECRET": secret}))
    assert said.startswith(f"tree/0 holds, at byte {at}, the value of MY_SECRET")


def test_behind_a_blob_that_ends_with_its_frame() -> None:
    said = packed(bytes(FRAME_RAW), b"a" * 100 + SECRET.encode())
    assert said.startswith("tree/1 holds, at byte 100, ")
    # Two files that lie together are not one text.
    half = SECRET.encode()[:10]
    assert packed(bytes(FRAME_RAW - 10) + half, SECRET.encode()[10:]) == ""


def test_much_that_only_begins_like_one() -> None:
    assert found(b"xsk-" * 1_000_000) == ""
    assert found(b"eyJ" * 1_000_000) == ""
    assert found(b"." + b".eyJ" * 1_000_000) == ""
    assert "an API key" in found(b"xsk-" * 300_000 + b" sk-" + b"y" * 40)


def test_a_miss_is_told_without_secrets() -> None:
    said = Explain(
        layout=VLLM_AOT,
        hash=HASH,
        platform=PLATFORM,
        recipe=replace(RECIPE, model=f"s3://user:{SECRET}@models/x"),
        hash_factors={"env.A": "plain", "env.B": f'"{SECRET}"'},
    )
    told = masked(said, Scanner(ENVIRON))
    assert SECRET not in str(told)
    assert told.recipe is None
    assert told.hash_factors == {"env.A": "plain", "env.B": "(a secret)"}
    plain = replace(said, recipe=RECIPE, hash_factors={"env.A": "plain"})
    assert masked(plain, Scanner(ENVIRON)) == plain


def test_an_outcome_is_told_without_secrets() -> None:
    about = {"layout": VLLM_AOT, "hash": HASH, "platform": PLATFORM.id, "part": "shared"}
    reason = f"{OTHER_SOURCE} in s3://user:{SECRET}@models/x"
    said = Outcome(**about, generation=1, outcome=LOAD_FAILED, reason=reason)
    told = masked_outcome(said, Scanner(ENVIRON))
    assert told == replace(said, reason=f"{OTHER_SOURCE} in s3://user:(a secret)")
    long = replace(said, reason=f"{'x' * (2000 - len(SECRET))}{SECRET}")
    assert SECRET not in masked_outcome(long, Scanner(ENVIRON)).reason
    plain = replace(said, reason=OTHER_SOURCE)
    assert masked_outcome(plain, Scanner(ENVIRON)) == plain
