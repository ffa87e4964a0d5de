"""What a tree depends on besides torch and the GPU: Python, the C library, the CPU."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass

from aotcache.errors import LocalError

CPUINFO = "/proc/cpuinfo"

# What decides, besides the flags, how code built with -march=native looks. The compiler names the
# architecture by vendor, family and model, and asks the CPU itself for features, also for those
# that an older kernel has no name for in its list of flags.
_IDENTITY = frozenset(
    {"vendor_id", "cpu family", "model"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part"}
    | {"cpu", "isa", "uarch"}
)
_FLAGS = frozenset({"flags", "Features", "features", "isa"})

# Flags that no instruction depends on, and that kernels of another age, or a hypervisor, show or
# hide on the same CPU. One that is missing here costs a miss; one too many could cost an illegal
# instruction.
_IGNORED = re.compile(
    # mitigations
    r"ibrs.*|ibpb.*|stibp|ssbd|(?:amd|virt)_(?:stibp|ssbd)|autoibrs|pti|md_clear|flush_l1d"
    r"|arch_capabilities|bhi_ctrl|spec_ctrl"
    # clocks and power
    r"|(?:constant|nonstop)_tsc.*|tsc_.*|art|arat|aperfmperf|acpi|est|tm2?|dtherm|ida|pln|pts|epb"
    r"|cpb|cppc|hw_pstate|hwp.*|hfi"
    # virtualization
    r"|hypervisor|vmx|svm.*|vnmi|ept.*|vpid|tpr_shadow|flexpriority|npt|nrip_save|lbrv|vmcb_clean"
    r"|flushbyasid|decodeassists|pausefilter|pfthreshold|(?:x2)?avic|v_.*|vgif|sme|sev.*|tdx_guest"
    # monitoring
    r"|cqm.*|rdt_a|cat_l[23]|cdp_l[23]|mba|perf.*|arch_perfmon|ibs|.*_lbr.*|pdcm|(?:amd|intel)_ppin"
    # the kernel's own notes
    r"|rep_good|nopl|xtopology|cpuid|extd_apicid|x2apic"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """digest: 16 hex characters. name: for people, as the kernel gives it; may be empty."""

    digest: str
    name: str


def python_version() -> str:
    """`cpython-3.11.7`; the ABI flag of another build (`t`, `d`) follows, its extensions differ."""
    return f"{sys.implementation.name}-{platform.python_version()}{sys.abiflags}"


def libc_version() -> str:
    """`glibc-2.36`; `musl` where the C library is not glibc (it does not tell its version)."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        version = None
    return version.replace(" ", "-") if version else "musl"


def read_cpu(path: str = CPUINFO) -> Cpu:
    """The digest of what -march=native sees. Raises LocalError where the kernel does not tell.

    The first core speaks for all: servers do not mix cores, and a large one takes long to list.
    """
    fields = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    break
                key, _, value = line.partition(":")
                fields[key.strip()] = value.strip()
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}; pass --platform FILE") from error
    flags = {flag for key in _FLAGS for flag in fields.get(key, "").split()}
    identity = [f"{key}={fields[key]}" for key in sorted(_IDENTITY & fields.keys())]
    if not flags and not identity:
        raise LocalError(f"{path} names no flags of this CPU; pass --platform FILE")
    text = "\n".join([*identity, *sorted(filter(_matters, flags))])
    return Cpu(
        digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        name=fields.get("model name") or fields.get("cpu") or "",
    )


def _matters(flag: str) -> bool:
    return _IGNORED.fullmatch(flag) is None


def toolchain_notes() -> dict[str, str]:
    """Paths that are in Inductor's keys for C++: they explain a rebuild, and decide nothing."""
    notes = {
        "python_prefix": sys.prefix,
        "python_include": sysconfig.get_path("include"),
    }
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler:
        # The link's end names the version (`x86_64-linux-gnu-g++-12`) without running it.
        notes["compiler"] = os.path.realpath(compiler)
    return notes
