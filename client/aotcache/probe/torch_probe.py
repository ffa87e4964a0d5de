"""The platform as torch itself tells it, for processes that have imported torch anyway."""

from __future__ import annotations

from importlib.util import find_spec

from aotcache.probe.gpu import Gpu
from aotcache.probe.platform import Detected, assemble


def detect_with_torch(device: int = 0) -> Detected:
    """The same as `platform.detect`, from torch and Triton themselves, which it imports.

    device: index among the GPUs visible to this process. Initializes CUDA where there is one.
    Raises UsageError and LocalError as `detect` does.
    """
    import torch

    version = {
        name: getattr(torch.version, name, None) or ""
        for name in ("__version__", "cuda", "hip", "xpu", "git_version")
    }
    gpu = Gpu()
    if torch.cuda.is_available() and device < torch.cuda.device_count():
        properties = torch.cuda.get_device_properties(device)
        if version["hip"]:
            # `gfx942:sramecc+:xnack-`; the name is left out: `detect` has no way to read it.
            arch = properties.gcnArchName.split(":")[0]
            gpu = Gpu(device=arch, arch=arch)
        else:
            gpu = Gpu(device=properties.name, arch=f"sm_{properties.major}{properties.minor}")
    return assemble(version, _triton_version(), gpu)


def _triton_version() -> str:
    if find_spec("triton") is None:
        return ""
    import triton

    return str(triton.__version__)
