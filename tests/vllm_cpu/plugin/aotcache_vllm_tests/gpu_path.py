"""Makes vLLM on a CPU compile as it does on a GPU: mega-AOT artifact, `inductor_cache`, ranks."""

from __future__ import annotations

from typing import Any

from vllm.config import CompilationMode
from vllm.platforms.cpu import CpuPlatform

from .report import write_report


def take_gpu_path() -> None:
    """Patch the platform, once a process: vLLM may call plugins again."""
    inner = CpuPlatform.check_and_update_config.__func__
    if inner.__module__ == __name__:
        return

    def check_and_update_config(cls: type[CpuPlatform], vllm_config: Any) -> None:
        inner(cls, vllm_config)
        compilation = vllm_config.compilation_config
        # The CPU platform goes over to DYNAMO_TRACE_ONCE, whose saved `model` vLLM cannot load.
        compilation.mode = CompilationMode.VLLM_COMPILE
        compilation.backend = "inductor"
        # Left unset there; vLLM's backend counts the sizes and finds the one range missing.
        compilation.compile_sizes = []
        # Where vLLM compiles is a worker: it gets the other patch, and reports.
        vllm_config.parallel_config.worker_cls = "aotcache_vllm_tests.worker.ReportingWorker"
        write_report()

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
