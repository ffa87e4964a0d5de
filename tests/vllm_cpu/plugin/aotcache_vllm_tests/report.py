"""What one of vLLM's processes did, as `$TESTS_REPORTS/{pid}.json`; read by `support.vllm`."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

ROLES = {"registry.py": "ModelInspection"}


def write_report(rank: int | None = None) -> None:
    """Write, or replace, the report of this process."""
    role = ROLES.get(Path(sys.argv[0]).name, multiprocessing.current_process().name)
    report = {
        "role": role,
        "rank": rank,
        "modules": sorted(name for name in sys.modules if _is_aotcache(name)),
        "threads": sum(_runs_aotcache(frame) for frame in sys._current_frames().values()),
        **_counters(),
    }
    path = Path(os.environ["TESTS_REPORTS"]) / f"{os.getpid()}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report))
    temporary.replace(path)


def _counters() -> dict[str, Any]:
    """Nothing is imported for them: a process that did not compile has none."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    vllm = sys.modules.get("vllm.compilation.counter")
    return {
        "inductor": dict(dynamo.counters["inductor"]) if dynamo else {},
        "vllm": asdict(vllm.compilation_counter) if vllm else {},
    }


def _is_aotcache(module: str) -> bool:
    return module == "aotcache" or module.startswith("aotcache.")


def _runs_aotcache(frame: FrameType | None) -> bool:
    while frame:
        if _is_aotcache(frame.f_globals.get("__name__", "")):
            return True
        frame = frame.f_back
    return False
