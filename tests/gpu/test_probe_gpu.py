"""The probe against torch on a real GPU. tests/gpu is the one place where tests may skip."""

import pytest
import torch

from aotcache.probe.platform import detect
from aotcache.probe.torch_probe import detect_with_torch

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"
)


def test_detect_says_what_torch_says_of_every_device() -> None:
    for device in range(torch.cuda.device_count()):
        found = detect(device).platform
        assert found == detect_with_torch(device).platform
        assert found.device != "cpu"


def test_the_device_is_the_one_torch_computes_on() -> None:
    properties = torch.cuda.get_device_properties(0)
    found = detect().platform
    if torch.version.cuda:
        assert found.device == torch.cuda.get_device_name(0)
        assert found.arch == f"sm_{properties.major}{properties.minor}"
        assert detect().notes["driver"]
    else:
        assert found.arch == properties.gcnArchName.split(":")[0]


def test_a_device_beyond_the_last_is_a_cpu_to_both() -> None:
    device = torch.cuda.device_count()
    assert detect(device).platform == detect_with_torch(device).platform
    assert detect(device).platform.device == "cpu"
