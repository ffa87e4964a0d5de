"""The GPU of this machine, as torch would name it, without torch: NVML, or the kernel's KFD."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, TypeVar

from aotcache.errors import LocalError, UsageError

KFD_NODES = "/sys/class/kfd/kfd/topology/nodes"
_Entry = TypeVar("_Entry", int, str)
_AMBIGUOUS = (
    "this machine has GPUs of several kinds and CUDA orders them by speed, so that only torch "
    "knows which one is device {device}: set CUDA_DEVICE_ORDER=PCI_BUS_ID, name it by its UUID in "
    "CUDA_VISIBLE_DEVICES, or pass --platform FILE"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """device and arch as Platform has them; `cpu` and empty where there is none to be used."""

    device: str = "cpu"
    arch: str = ""
    notes: dict[str, str] = field(default_factory=dict)


def visible(value: str | None, count: int) -> list[int] | list[str]:
    """What CUDA_VISIBLE_DEVICES leaves of `count` devices: indices, or UUIDs if it names those.

    CUDA's own rules: unset is all, the list ends at the first entry that is not a device, and a
    device named twice leaves none.
    """
    if value is None:
        return list(range(count))
    entries = [entry.strip() for entry in value.split(",")]
    prefix = entries[0][:4]
    if prefix in ("GPU-", "MIG-"):
        return _distinct(takewhile(lambda entry: entry.startswith(prefix), entries))
    ordinals = takewhile(lambda entry: entry.isdecimal() and int(entry) < count, entries)
    return _distinct(map(int, ordinals))


def _distinct(entries: Iterable[_Entry]) -> list[_Entry]:
    found = list(entries)
    return found if len(set(found)) == len(found) else []


def nvidia(device: int = 0, env: Mapping[str, str] = os.environ) -> Gpu:
    """CUDA device number `device` of a process with this environment.

    Raises UsageError if only torch could tell which one that is, LocalError if NVML is there and
    fails.
    """
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded) as error:
        return Gpu(notes={"gpu": f"none found: {error}"})
    except nvml.NVMLError as error:
        raise _failed(error) from error
    try:
        return _nvidia(nvml, device, env)
    except nvml.NVMLError as error:
        raise _failed(error) from error
    finally:
        nvml.nvmlShutdown()


def _failed(error: Exception) -> LocalError:
    return LocalError(f"NVML failed: {error}; see that nvidia-smi works, or pass --platform FILE")


def _nvidia(nvml: Any, device: int, env: Mapping[str, str]) -> Gpu:
    notes = {"driver": nvml.nvmlSystemGetDriverVersion()}
    count = nvml.nvmlDeviceGetCount()
    chosen = visible(env.get("CUDA_VISIBLE_DEVICES"), count)
    if device >= len(chosen):
        return Gpu(notes=notes | {"gpu": f"{count} found, {len(chosen)} visible"})
    name = chosen[device]
    if isinstance(name, str):
        handle = _by_uuid(nvml, name, count)
    else:
        handle = _slice(nvml, nvml.nvmlDeviceGetHandleByIndex(name))
        if env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            if len({nvml.nvmlDeviceGetName(each) for each in handles}) > 1:
                raise UsageError(_AMBIGUOUS.format(device=device))
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(_whole(nvml, handle))
    return Gpu(device=nvml.nvmlDeviceGetName(handle), arch=f"sm_{major}{minor}", notes=notes)


def _by_uuid(nvml: Any, name: str, count: int) -> Any:
    """CUDA takes the start of a UUID where it is unique; NVML wants all of it."""
    if name.startswith("MIG-"):
        return nvml.nvmlDeviceGetHandleByUUID(name)
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    found = [each for each in handles if nvml.nvmlDeviceGetUUID(each).startswith(name)]
    if len(found) != 1:
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES names {name!r}, which fits {len(found)} GPUs of this machine"
        )
    return _slice(nvml, found[0])


def _slice(nvml: Any, handle: Any) -> Any:
    """CUDA sees the first MIG slice of a GPU that is cut into slices, and not the GPU."""
    try:
        cut, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return handle
    return nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0) if cut else handle


def _whole(nvml: Any, handle: Any) -> Any:
    """NVML tells the compute capability of whole GPUs only."""
    try:
        return nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except (nvml.NVMLError_InvalidArgument, nvml.NVMLError_NotSupported):
        return handle


def amd(device: int = 0, env: Mapping[str, str] = os.environ, nodes: str = KFD_NODES) -> Gpu:
    """HIP device number `device`. Its device field is the architecture too: no file tells the name
    that ROCm's runtime gives it.

    Raises UsageError if devices are chosen by UUID: only ROCm can tell which they are.
    """
    targets = _kfd_targets(nodes)
    notes = {"gpu": f"KFD: {', '.join(targets) or 'none'}"}
    # ROCR_VISIBLE_DEVICES takes from what there is, HIP's (or CUDA's, in its absence) from that.
    masks = (
        env.get("ROCR_VISIBLE_DEVICES"),
        env.get("HIP_VISIBLE_DEVICES", env.get("CUDA_VISIBLE_DEVICES")),
    )
    for mask in masks:
        kept = []
        for index in visible(mask, len(targets)):
            if isinstance(index, str):
                raise UsageError(f"AMD GPUs chosen by UUID ({mask!r}): pass --platform FILE")
            kept.append(targets[index])
        targets = kept
    if device >= len(targets):
        return Gpu(notes=notes)
    return Gpu(device=targets[device], arch=targets[device], notes=notes)


def _kfd_targets(nodes: str) -> list[str]:
    """`gfx942` of each GPU, in ROCm's order. A node without a target is a CPU."""
    try:
        numbers = sorted(int(name) for name in os.listdir(nodes) if name.isdecimal())
    except FileNotFoundError:
        return []
    targets = []
    for number in numbers:
        try:
            with open(os.path.join(nodes, str(number), "properties"), encoding="ascii") as lines:
                properties = dict(line.split(maxsplit=1) for line in lines if " " in line)
        except PermissionError:
            continue  # a GPU of another container: the runtime does not see it either
        version = int(properties.get("gfx_target_version", "0"))
        if version:
            major, minor, step = version // 10000, version // 100 % 100, version % 100
            targets.append(f"gfx{major}{minor:x}{step:x}")
    return targets
