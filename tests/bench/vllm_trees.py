"""Trees of real vLLM on a CPU, with the records that its plugin writes. Minutes each."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from support.site import run
from support.vllm import VENV
from support.vllm_site import cold_start

LIMIT = 900  # seconds of a start: a minute and a half where nothing else runs


def lacking() -> dict[str, str]:
    """Why there is no vLLM here, as Found.left_out has it; empty where there is."""
    return {} if VENV.exists() else {"vLLM": f"{VENV} is missing: make env-vllm"}


def compile_tree(root: Path, **options: Any) -> None:
    """A cold start whose cache root is `root`."""
    service_home = Path(tempfile.mkdtemp(prefix="aotcache-bench-vllm-"))
    try:
        with run(service_home / "service") as service:
            cold_start(service, root, limit_seconds=LIMIT, **options)
    finally:
        shutil.rmtree(service_home, ignore_errors=True)
    # They do not travel with aotcache; without them the others do not carry them either.
    for lock in (root / "torch_compile_cache").glob("*/*/**/*.lock"):
        lock.unlink()
