import platform
import sys
from pathlib import Path

import pytest

from aotcache.errors import LocalError
from aotcache.probe.host import libc_version, python_version, read_cpu, toolchain_notes

X86 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9454
microcode\t: 0x1000065
cpu MHz\t\t: 2596.128
flags\t\t: fpu sse2 avx2 avx512f constant_tsc hypervisor
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 2000.00
Features\t: fp asimd sve sve2
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd4f
CPU revision\t: 0
"""


def digest(tmp_path: Path, text: str) -> str:
    (tmp_path / "cpuinfo").write_text(text)
    return read_cpu(str(tmp_path / "cpuinfo")).digest


def test_the_digest_of_this_cpu_is_stable() -> None:
    cpu = read_cpu()
    assert cpu == read_cpu()
    assert len(cpu.digest) == 16
    int(cpu.digest, 16)


def test_it_does_not_depend_on_clocks_order_or_what_a_hypervisor_shows(tmp_path: Path) -> None:
    other = (
        X86.replace("2596.128", "3100.000")
        .replace("0x1000065", "0x1000099")
        .replace("fpu sse2 avx2", "avx2 sse2 fpu")
        .replace("constant_tsc hypervisor", "ibrs_enhanced perfctr_core svm")
    )
    assert digest(tmp_path, X86) == digest(tmp_path, other)


@pytest.mark.parametrize(
    ("old", "new"),
    [(" avx512f", ""), ("AuthenticAMD", "GenuineIntel"), (": 25", ": 26"), (": 17", ": 18")],
)
def test_it_depends_on_instructions_and_on_what_the_compiler_tunes_for(
    tmp_path: Path, old: str, new: str
) -> None:
    assert digest(tmp_path, X86) != digest(tmp_path, X86.replace(old, new, 1))


@pytest.mark.parametrize(("old", "new"), [(" sve2", ""), ("0xd4f", "0xd40"), ("0x41", "0x42")])
def test_arm(tmp_path: Path, old: str, new: str) -> None:
    assert digest(tmp_path, ARM) != digest(tmp_path, ARM.replace(old, new, 1))


def test_a_flag_that_no_list_knows_counts(tmp_path: Path) -> None:
    assert digest(tmp_path, X86) != digest(tmp_path, X86.replace("avx2", "avx2 avx11"))


def test_the_name_is_for_people(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(X86)
    assert read_cpu(str(tmp_path / "cpuinfo")).name == "AMD EPYC 9454"


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\nBogoMIPS\t: 1\n"])
def test_a_cpu_that_is_not_told_is_an_error_and_not_a_digest(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    with pytest.raises(LocalError, match="--platform FILE"):
        read_cpu(str(tmp_path / "cpuinfo"))


def test_python_and_libc() -> None:
    assert python_version().startswith(f"{sys.implementation.name}-{platform.python_version()}")
    name, version = platform.libc_ver()
    assert libc_version() == (f"{name}-{version}" if name else "musl")


def test_notes_name_a_compiler_only_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "my-g++-14"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    notes = toolchain_notes()
    assert notes["compiler"] == str(compiler.resolve())
    assert notes["python_prefix"] == sys.prefix
    monkeypatch.setenv("CXX", str(tmp_path / "gone"))
    assert "compiler" not in toolchain_notes()
