"""The recipe: what the engine was asked to run. A recipe leads to the trees its starts used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`model` is a name or path as given to the engine; `extra` holds what has no field here
    yet."""

    engine: str
    engine_version: str = ""
    model: str = ""
    revision: str = ""
    quantization: str = ""
    dtype: str = ""
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    speculative: str = ""
    lora: str = ""
    multimodal: str = ""
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """32 hex characters: the start of the SHA-256 of the fields as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]
