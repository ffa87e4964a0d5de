"""What somebody else chose to call a thing is printed as text: a terminal is told nothing by it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from aotcache.cli import cli, output
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.v1.explain import Explanation, Misses, MissGroup, Nearest
from aotcache.protocol.v1.lookup import Miss
from aotcache.protocol.v1.quarantine import Quarantined, QuarantinedPart
from aotcache.protocol.v1.trees import TreeDetail, TreeDetails, TreePage, TreeSummary
from support.http import Reply, Request, serving
from support.stored import HASH, PLATFORM, RANK

EVIL = "\x1b]0;owned\x07\nnode-1\u009b2J"
PRINTED = r"\x1b]0;owned\x07\nnode-1\x9b2J"

SUMMARY = TreeSummary(
    namespace="default",
    layout=VLLM_AOT,
    hash=HASH,
    platform_id=PLATFORM.id,
    platform=PLATFORM,
    recipe=None,
    parts=(RANK,),
    missing=(),
    files=1,
    raw_bytes=1,
    stored_bytes=1,
    compile_seconds=None,
    publisher=EVIL,
    created=1,
    used=1,
    lookups=1,
    outcomes={EVIL: 1},
)
NEAR = Nearest(
    layout=VLLM_AOT,
    hash=HASH,
    platform=PLATFORM.id,
    model=EVIL,
    publisher=EVIL,
    created=1,
    platform_differences=(),
    recipe_differences=(),
    factor_differences=(),
    known=True,
)
GROUP = MissGroup(
    reason="r",
    cause=EVIL,
    nodes=1,
    misses=1,
    last=1,
    node=EVIL,
    hash=HASH,
    model=EVIL,
    differences=(),
)
PART = QuarantinedPart(
    namespace="default",
    layout=VLLM_AOT,
    hash=HASH,
    platform=PLATFORM.id,
    part=RANK,
    generation=1,
    reason=EVIL,
    since=1,
)
ANSWERS: dict[str, object] = {
    "/v1/trees": TreePage(trees=()),
    f"/v1/trees/{HASH}": TreeDetails(
        trees=(TreeDetail(tree=SUMMARY, parts=(), hash_factors={}, notes={}),)
    ),
    "/v1/lookup": Miss(reason="unknown_hash", message=EVIL),
    "/v1/explain": Explanation(reason="r", message="m", cause="c", nearest=NEAR),
    "/v1/misses": Misses(groups=(GROUP,)),
    "/v1/quarantine": Quarantined(parts=(PART,)),
}


def _answer(request: Request) -> Reply:
    path = request.path.partition("?")[0]
    return Reply(404 if path == "/v1/lookup" else 200, msgspec.json.encode(ANSWERS[path]))


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (("show", HASH), 2),
        (("lookup", HASH, "--explain", "--platform", "FILE"), 3),
        (("misses",), 3),
        (("quarantine", "list"), 1),
    ],
)
def test_names_from_elsewhere_are_text(words: tuple[str, ...], times: int, tmp_path: Path) -> None:
    platform = tmp_path / "platform.json"
    platform.write_text(json.dumps(asdict(PLATFORM)))
    with serving(_answer) as server:
        done = CliRunner().invoke(
            cli,
            [str(platform) if word == "FILE" else word for word in words],
            env={"AOTCACHE_URL": server.url},
        )
    assert done.exit_code in (0, 3), done.output
    assert done.output.count(PRINTED) == times
    assert all(line.isprintable() for line in done.output.split("\n"))


def test_names_in_tables_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("name",), [(EVIL,)])
    assert PRINTED in capsys.readouterr().out
