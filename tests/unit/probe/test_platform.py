import importlib.metadata
import json
import platform
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from aotcache.errors import FormatError, UsageError
from aotcache.probe import platform as probe
from aotcache.probe import sources
from aotcache.probe.gpu import Gpu
from aotcache.probe.platform import detect
from aotcache.probe.platform_file import load_platform
from aotcache.protocol.names import VLLM_AOT
from aotcache.protocol.platform import Platform
from aotcache.protocol.record import EngineRecord, encode_record

PLATFORM = Platform(
    torch="2.13.0+cu130",
    triton="3.9.0",
    cuda="13.0",
    device="NVIDIA H100 80GB HBM3",
    arch="sm_90",
    python="cpython-3.11.7",
    machine="x86_64",
    libc="glibc-2.36",
    cpu="0123456789abcdef",
)


def python(code: str) -> str:
    """What a process of its own prints."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_detect_says_what_torch_says() -> None:
    import torch

    from aotcache.probe.torch_probe import detect_with_torch

    told, found = detect_with_torch(), detect()
    assert found.platform == told.platform
    assert found.platform.torch == torch.__version__
    assert found.platform.cuda == (torch.version.cuda or "")
    assert found.platform.hip == (torch.version.hip or "")
    assert found.platform.triton == importlib.metadata.version("triton")
    assert found.platform.machine == platform.machine()
    assert found.notes["torch_git"] == torch.version.git_version == told.notes["torch_git"]
    assert all(isinstance(value, str) for value in found.notes.values())


def test_detect_imports_neither_torch_nor_triton() -> None:
    loaded = python(
        """
        import sys
        from aotcache.probe.platform import detect
        detect()
        print(sorted({"torch", "triton", "numpy"} & sys.modules.keys()))
        """
    )
    assert loaded == "[]"


def fake_torch(root: Path, version: str) -> None:
    """A torch that must not be imported, ahead of the real one on the path."""
    package = root / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "version.py").write_text(version)


def detect_with_path(root: Path) -> dict[str, str]:
    code = f"""
        import sys
        sys.path.insert(0, {str(root)!r})
        import json, dataclasses
        from aotcache.probe.platform import detect
        print(json.dumps(dataclasses.asdict(detect().platform)))
        """
    found: dict[str, str] = json.loads(python(code))
    return found


def test_a_torch_built_for_cuda_where_there_is_no_device(tmp_path: Path) -> None:
    """As on a login node. The device is whatever NVML finds; the rest is read from the file."""
    fake_torch(
        tmp_path,
        "__version__ = '2.13.0+cu130'\nfrom typing import Optional\n"
        "cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\ndebug = False\n",
    )
    found = detect_with_path(tmp_path)
    assert (found["torch"], found["cuda"], found["hip"]) == ("2.13.0+cu130", "13.0", "")


def test_a_torch_built_for_hip(tmp_path: Path) -> None:
    fake_torch(tmp_path, "__version__ = '2.13.0+rocm7.1'\ncuda = None\nhip = '7.1.25424'\n")
    found = detect_with_path(tmp_path)
    assert (found["torch"], found["cuda"], found["hip"]) == ("2.13.0+rocm7.1", "", "7.1.25424")


def test_a_torch_for_devices_that_cannot_be_told_apart_is_refused() -> None:
    version = {"__version__": "2.13.0+xpu", "cuda": "", "hip": "", "xpu": "20260000"}
    with pytest.raises(UsageError, match="Intel"):
        probe.assemble(version, "", Gpu())


def test_without_torch_the_user_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"torch is not installed.*--platform FILE"):
        detect()


def test_without_triton_the_field_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sources, "find_spec", lambda name: None if name == "triton" else find_spec(name)
    )
    assert detect().platform.triton == ""


def test_a_platform_is_read_from_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "platform.json").write_bytes(msgspec.json.encode(PLATFORM))
    assert load_platform(str(tmp_path / "platform.json")) == PLATFORM


def test_a_platform_is_read_from_an_engine_record(tmp_path: Path) -> None:
    record = EngineRecord(layout=VLLM_AOT, hash="ab" * 32, part="rank_0_0-d0", platform=PLATFORM)
    (tmp_path / "record.json").write_bytes(encode_record(record))
    assert load_platform(str(tmp_path / "record.json")) == PLATFORM


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"torch": "2.13"}', b'{"torch": 3}', b"\xff"]
)
def test_another_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(FormatError, match="neither a platform"):
        load_platform(str(tmp_path / "file"))


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_platform(str(tmp_path / "gone"))
