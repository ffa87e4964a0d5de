"""Test-only plugin of vLLM: the compile path of a GPU node on a CPU, and what each process did.

vLLM loads it in every process through the entry point beside this package, which is on PYTHONPATH.
"""

from .gpu_path import take_gpu_path
from .report import write_report


def register() -> None:
    take_gpu_path()
    write_report()
