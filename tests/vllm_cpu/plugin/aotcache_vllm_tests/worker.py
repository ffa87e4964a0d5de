"""vLLM's CPU worker, which writes its report while it lives: it may be killed at the end."""

from __future__ import annotations

import os
from typing import Any

from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
from vllm.v1.worker.cpu_worker import CPUWorker

from .report import write_report

# Enough for the first, short generate; later ones are timed.
REPORTED_STEPS = 8


class ReportingWorker(CPUWorker):
    steps = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _leave_functionalization()
        rank = kwargs["rank"]
        # A node each, as far as their disks go.
        os.environ["VLLM_CACHE_ROOT"] = os.environ["VLLM_CACHE_ROOT"].format(rank=rank)
        super().__init__(*args, **kwargs)

    def compile_or_warm_up_model(self) -> Any:
        times = super().compile_or_warm_up_model()
        write_report(self.rank)
        return times

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        output = super().execute_model(*args, **kwargs)
        self.steps += 1
        if self.steps <= REPORTED_STEPS:
            write_report(self.rank)
        return output


def _leave_functionalization() -> None:
    """The pass that undoes it names kernels that only a GPU build has; Inductor undoes it too."""

    def nothing(this: object, graph: object) -> None:
        del this, graph

    FixFunctionalizationPass.__call__ = nothing
