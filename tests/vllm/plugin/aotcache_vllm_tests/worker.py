"""vLLM's CPU worker, which writes its report while it lives: it may be killed at the end."""

from __future__ import annotations

import threading
from typing import Any

from torch._inductor import cpu_vec_isa
from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
from vllm.v1.worker.cpu_worker import CPUWorker

from .report import write_report

# Enough for the first, short generate; later ones are timed.
REPORTED_STEPS = 8


class ReportingWorker(CPUWorker):
    steps = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _leave_functionalization()
        _ask_the_cpu_once()
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


def _ask_the_cpu_once() -> None:
    """vLLM loads a saved `model` with several threads, which all ask torch for the CPU's vector
    instructions. On a CPU with avx512_bf16 torch changes shared compiler flags while it finds out:
    another thread sees them, and its kernel, which has its name from them, is compiled again. On
    a GPU nothing asks."""
    lock = threading.Lock()
    inner = cpu_vec_isa.valid_vec_isa_list

    def valid_vec_isa_list() -> Any:
        with lock:
            return inner()

    cpu_vec_isa.valid_vec_isa_list = valid_vec_isa_list
