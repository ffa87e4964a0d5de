"""The platform: what a tree is valid for. Two platforms are the same when their ids are.

The hash of a tree alone is not a safe key: it lacks the Python patch release, the CPU, and without
mega-AOT the GPU (two GPU generations shared one hash and crash-looped).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace

MAX_FIELD = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Every field must match. An empty string means: there is none (no CUDA, no Triton).

    torch    full version with local part, `2.13.0+cpu`
    triton   version of the triton package
    cuda     CUDA version torch was built for, `13.0`
    hip      HIP version torch was built for
    device   device name as the driver gives it, `NVIDIA H100 80GB HBM3`; `cpu` without one
    arch     `sm_90`, `gfx942`; empty on a CPU
    python   implementation and exact version, `cpython-3.11.7`: torch's AOT loader refuses another
             patch release
    machine  `x86_64`, `aarch64`
    libc     `glibc-2.36`
    cpu      digest of the CPU's flags: `.so` files are built with -march=native.
             Empty where the tree holds no compiled C++: it then runs on any CPU.
    """

    torch: str
    triton: str = ""
    cuda: str = ""
    hip: str = ""
    device: str
    arch: str = ""
    python: str
    machine: str
    libc: str
    cpu: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if len(value) > MAX_FIELD or not value.isprintable():
                raise ValueError(f"platform field {field.name} is not printable or too long")

    @property
    def id(self) -> str:
        """32 hex characters: the start of the SHA-256 of the fields as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def for_any_cpu(self) -> Platform:
        return replace(self, cpu="")

    def acceptable(self) -> tuple[str, str]:
        """The ids of the trees that a machine of this platform can use, the closer one first."""
        return self.id, self.for_any_cpu().id


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field in which what is stored is not what was asked for."""

    field: str
    stored: str
    asked: str


def differences(stored: Platform, asked: Platform) -> list[Difference]:
    """The fields that keep a stored tree from being used on the asked platform."""
    found = []
    for field in fields(Platform):
        have, want = getattr(stored, field.name), getattr(asked, field.name)
        if have != want and not (field.name == "cpu" and have == ""):
            found.append(Difference(field=field.name, stored=have, asked=want))
    return found
