"""Test-only plugin of vLLM: the compile path of a GPU node on a CPU, and what each process did.

vLLM loads it in every process through the entry point beside this package, which is on PYTHONPATH.
"""

import atexit
import multiprocessing

from .gpu_path import take_gpu_path
from .report import write_report


def register() -> None:
    """Plugins that vLLM calls after this one are in later reports: the engine's when it is
    configured, a worker's when it has compiled, that of a process of its own at its end."""
    take_gpu_path()
    write_report()
    if multiprocessing.parent_process() is None:
        atexit.register(write_report)
