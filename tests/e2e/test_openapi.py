"""schemathesis over the service's own OpenAPI document: whatever is sent, the service has no fault,
and what it answers is documented."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import site as sites
from support.site import aotcache, printed

# Each of them is what a client may rely on. Left out: what holds for documents of another kind than
# ours, as that a request that fits the schema is never refused (a hash fits, and is of no layout).
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [False, True], ids=["open", "with tokens"])
def test_every_answer_is_as_documented(tmp_path: Path, *, tokens: bool) -> None:
    data = tmp_path / "service"
    words = []
    if tokens:
        done = aotcache(
            *("token", "create", "--data-dir", str(data), "--json"),
            *("--scope", "admin", "--namespace", "*"),
        )
        words = ["--header", f"Authorization: Bearer {printed(done)['token']}"]
    with sites.run(data, env={"AOTCACHE_TOKEN_RATE": "0"}) as service:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
                *("--checks", ",".join(CHECKS), "--max-examples", "40", "--seed", "1"),
                *("--phases", "examples,coverage,fuzzing", "--no-color", *words),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in service.log.read_text()
