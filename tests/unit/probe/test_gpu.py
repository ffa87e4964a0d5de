"""Which GPU is which. The GPUs are made up here; tests/gpu asks real ones."""

import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from aotcache.errors import LocalError, UsageError
from aotcache.probe.gpu import Gpu, amd, nvidia, visible

H100 = ("NVIDIA H100 80GB HBM3", (9, 0))
A10 = ("NVIDIA A10", (8, 6))


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3, 1", [3, 1]),
        ("-1", []),
        ("1,-1,2", [1]),
        ("1,4,2", [1]),
        ("1,1", []),
        ("0,none", [0]),
        ("GPU-aa,GPU-bb", ["GPU-aa", "GPU-bb"]),
        ("GPU-aa,1", ["GPU-aa"]),
        ("GPU-aa,GPU-aa", []),
        ("MIG-aa", ["MIG-aa"]),
    ],
)
def test_cuda_visible_devices(value: str | None, left: list[Any]) -> None:
    assert visible(value, 4) == left


class FakeNvml:
    """As much of pynvml as is asked for. A handle is (index of the GPU, is it a MIG slice)."""

    NVMLError = pynvml.NVMLError
    NVMLError_LibraryNotFound = pynvml.NVMLError_LibraryNotFound
    NVMLError_DriverNotLoaded = pynvml.NVMLError_DriverNotLoaded
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_InvalidArgument = pynvml.NVMLError_InvalidArgument

    def __init__(self, *gpus: tuple[str, tuple[int, int]], mig: bool = False) -> None:
        self.gpus = gpus
        self.mig = mig
        self.open = 0

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, bool]:
        return (index, False)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> tuple[int, bool]:
        return (int(uuid.removeprefix("MIG-")), True)

    def nvmlDeviceGetUUID(self, handle: tuple[int, bool]) -> str:
        return f"GPU-{handle[0]}{handle[0]}aa"

    def nvmlDeviceGetName(self, handle: tuple[int, bool]) -> str:
        return self.gpus[handle[0]][0] + (" MIG 1g.10gb" if handle[1] else "")

    def nvmlDeviceGetMigMode(self, handle: tuple[int, bool]) -> tuple[int, int]:
        if self.gpus[handle[0]] == A10:
            raise pynvml.NVMLError_NotSupported
        return (int(self.mig), int(self.mig))

    def nvmlDeviceGetMigDeviceHandleByIndex(
        self, handle: tuple[int, bool], _: int
    ) -> tuple[int, bool]:
        return (handle[0], True)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
        self, handle: tuple[int, bool]
    ) -> tuple[int, bool]:
        if not handle[1]:
            raise pynvml.NVMLError_InvalidArgument
        return (handle[0], False)

    def nvmlDeviceGetCudaComputeCapability(self, handle: tuple[int, bool]) -> tuple[int, int]:
        assert not handle[1]
        return self.gpus[handle[0]][1]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*gpus: tuple[str, tuple[int, int]], mig: bool = False) -> FakeNvml:
        nvml = FakeNvml(*gpus, mig=mig)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return install


def test_name_architecture_and_driver(machine: Any) -> None:
    nvml = machine(H100, H100)
    gpu = nvidia(1, {})
    assert gpu == Gpu(device=H100[0], arch="sm_90", notes={"driver": "570.86.15"})
    assert nvml.open == 0


@pytest.mark.parametrize(("mask", "device"), [("", 0), ("0", 1), ("-1", 0)])
def test_no_device_that_is_visible_is_a_cpu_and_the_notes_say_so(
    machine: Any, mask: str, device: int
) -> None:
    machine(H100, H100)
    gpu = nvidia(device, {"CUDA_VISIBLE_DEVICES": mask})
    assert (gpu.device, gpu.arch) == ("cpu", "")
    assert "2 found" in gpu.notes["gpu"]


@pytest.mark.parametrize(
    ("mask", "arch"), [("GPU-11", "sm_86"), ("GPU-11aa,GPU-00aa", "sm_86"), ("GPU-0", "sm_90")]
)
def test_a_uuid_or_its_start_names_one_of_several_kinds(machine: Any, mask: str, arch: str) -> None:
    machine(H100, A10)
    assert nvidia(0, {"CUDA_VISIBLE_DEVICES": mask}).arch == arch


@pytest.mark.parametrize("mask", ["GPU-", "GPU-77"])
def test_a_uuid_that_fits_none_or_many_is_refused(machine: Any, mask: str) -> None:
    machine(H100, A10)
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES"):
        nvidia(0, {"CUDA_VISIBLE_DEVICES": mask})


def test_ordinals_on_a_machine_of_several_kinds_need_an_order(machine: Any) -> None:
    nvml = machine(H100, A10)
    with pytest.raises(UsageError, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        nvidia(1, {"CUDA_VISIBLE_DEVICES": "1,0"})
    assert nvml.open == 0
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "1,0"}
    assert nvidia(0, order).arch == "sm_86"
    assert nvidia(1, order).arch == "sm_90"


@pytest.mark.parametrize("env", [{}, {"CUDA_VISIBLE_DEVICES": "MIG-0"}])
def test_a_slice_has_its_own_name_and_its_gpus_architecture(
    machine: Any, env: dict[str, str]
) -> None:
    machine(H100, mig=True)
    gpu = nvidia(0, env)
    assert (gpu.device, gpu.arch) == ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "sm_90")


def test_an_nvml_that_fails_is_an_error_and_not_a_cpu(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise pynvml.NVMLError_LibRmVersionMismatch

    nvml = machine(H100)
    monkeypatch.setattr(nvml, "nvmlInit", fail, raising=False)
    with pytest.raises(LocalError, match="nvidia-smi"):
        nvidia(0, {})


def test_no_nvml_library_is_a_cpu(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(machine(), "nvmlInit", fail, raising=False)
    gpu = nvidia(0, {})
    assert gpu.device == "cpu"
    assert gpu.notes["gpu"].startswith("none found")


def kfd(root: Path, *versions: int) -> str:
    for number, version in enumerate(versions):
        (root / str(number)).mkdir()
        (root / str(number) / "properties").write_text(
            f"cpu_cores_count {0 if version else 64}\ngfx_target_version {version}\nunique_id 17\n"
        )
    return str(root)


@pytest.mark.parametrize(
    ("version", "arch"), [(90402, "gfx942"), (90010, "gfx90a"), (110000, "gfx1100")]
)
def test_amd_is_named_by_its_architecture(tmp_path: Path, version: int, arch: str) -> None:
    gpu = amd(0, {}, kfd(tmp_path, 0, version))
    assert (gpu.device, gpu.arch) == (arch, arch)


@pytest.mark.parametrize(
    ("env", "device", "arch"),
    [
        ({}, 1, "gfx1100"),
        ({}, 2, ""),
        ({"HIP_VISIBLE_DEVICES": "1"}, 0, "gfx1100"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 0, "gfx1100"),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, 0, "gfx942"),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, 0, "gfx1100"),
        ({"ROCR_VISIBLE_DEVICES": ""}, 0, ""),
    ],
)
def test_amd_masks(tmp_path: Path, env: dict[str, str], device: int, arch: str) -> None:
    assert amd(device, env, kfd(tmp_path, 0, 90402, 110000)).arch == arch


def test_amd_uuids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--platform FILE"):
        amd(0, {"ROCR_VISIBLE_DEVICES": "GPU-11"}, kfd(tmp_path, 90402))


def test_no_kfd_is_a_cpu(tmp_path: Path) -> None:
    assert amd(0, {}, str(tmp_path / "gone")).device == "cpu"
