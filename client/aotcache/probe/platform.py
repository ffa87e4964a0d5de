"""The platform of this machine, found without importing torch or Triton (that takes seconds)."""

from __future__ import annotations

import ast
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from aotcache.errors import UsageError
from aotcache.probe.gpu import Gpu, amd, nvidia
from aotcache.probe.host import libc_version, python_version, read_cpu, toolchain_notes
from aotcache.probe.sources import package_directory, parse
from aotcache.protocol.platform import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """notes: recorded to explain, never compared."""

    platform: Platform
    notes: dict[str, str]


def detect(device: int = 0) -> Detected:
    """The platform of a process that uses GPU number `device` of those visible to it.

    `Platform.cpu` is always set; `Platform.for_any_cpu` is for trees that hold no C++. Raises
    UsageError where torch is not installed or the GPU cannot be told, LocalError where a driver or
    the kernel does not answer.
    """
    torch = _torch_version()
    if torch["cuda"]:
        gpu = nvidia(device)
    elif torch["hip"]:
        gpu = amd(device)
    else:
        gpu = Gpu()
    return assemble(torch, _triton_version(), gpu)


def assemble(torch: Mapping[str, str], triton: str, gpu: Gpu) -> Detected:
    """The rest of the platform around what was found of torch, Triton and the GPU.

    torch: the constants of torch/version.py, empty where there is none.
    """
    if torch.get("xpu"):
        raise UsageError("torch is built for Intel GPUs, which aotcache cannot tell apart yet")
    cpu = read_cpu()
    return Detected(
        platform=Platform(
            torch=torch["__version__"],
            triton=triton,
            cuda=torch["cuda"],
            hip=torch["hip"],
            device=gpu.device,
            arch=gpu.arch,
            python=python_version(),
            machine=platform.machine(),
            libc=libc_version(),
            cpu=cpu.digest,
        ),
        notes=toolchain_notes()
        | gpu.notes
        | {"cpu_name": cpu.name, "torch_git": torch["git_version"]},
    )


def _torch_version() -> dict[str, str]:
    found = _constants("torch", "version.py")
    if "__version__" not in found:
        raise UsageError(
            "cannot detect the platform: torch is not installed beside aotcache; run it with the "
            "engine's Python, or pass --platform FILE"
        )
    return {"cuda": "", "hip": "", "git_version": ""} | found


def _triton_version() -> str:
    # What Triton itself puts into its keys. The distribution's name varies (triton,
    # pytorch-triton, triton-rocm …), and reading metadata takes longer than all the rest here.
    return _constants("triton", "__init__.py").get("__version__", "")


def _constants(package: str, file: str) -> dict[str, str]:
    """The strings that a file of an installed package assigns at its top level, by reading it."""
    directory = package_directory(package)
    if directory is None:
        return {}
    try:
        tree = parse(directory, file)
    except FileNotFoundError:
        return {}
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if (
            isinstance(target, ast.Name)
            and isinstance(value, ast.Constant)
            and isinstance(value.value, str)
        ):
            found[target.id] = value.value
    return found
