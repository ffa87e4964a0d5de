"""What an engine process knows: its recipe, its part, and what vLLM's hash is made of.

Read from vLLM's own configuration objects (0.32), which have no type here: what a version lacks is
left empty, as all of it is recorded to find and to explain, and none of it decides what is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import Any

from aotcache.engines.vllm.command import model_name
from aotcache.probe.platform import Detected
from aotcache.probe.torch_probe import detect_with_torch
from aotcache.protocol.names import SHARED, rank_part
from aotcache.protocol.recipe import Recipe
from aotcache.settings import is_secret

logger = logging.getLogger("vllm.aotcache")

_MAX_VALUE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """cache_root: absolute. expected_parts: of a tree that all ranks have saved."""

    cache_root: str
    part: str
    expected_parts: tuple[str, ...]
    recipe: Recipe
    detected: Detected


def facts_of(vllm_config: Any, cache_root: str) -> Facts:
    """Raises what vLLM's objects and the platform's detection raise."""
    parallel = vllm_config.parallel_config
    device = _device()
    data_parallel = _number(parallel, "data_parallel_size")
    world = _number(parallel, "world_size")
    local = max(1, _number(parallel, "local_world_size", world))
    on_cpu = not _has_devices()
    expected = [
        rank_part(rank, replica, 0 if on_cpu else rank % local)
        for replica in range(data_parallel)
        for rank in range(world)
    ]
    part = rank_part(parallel.rank, _number(parallel, "data_parallel_index", 0), device)
    return Facts(
        cache_root=cache_root,
        part=part,
        expected_parts=(SHARED, *(expected if part in expected else ())),
        recipe=recipe_of(vllm_config),
        detected=detect_with_torch(device),
    )


def _has_devices() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _device() -> int:
    """The worker has set its device before it builds a model; its index is in the kernels' keys."""
    import torch

    return int(torch.cuda.current_device()) if _has_devices() else 0


def recipe_of(vllm_config: Any) -> Recipe:
    """The recipe as vLLM has resolved it. `protocol.recipe.Recipe.answers` compares it with what a
    command line names."""
    import vllm

    model = vllm_config.model_config
    parallel = vllm_config.parallel_config
    scheduler = getattr(vllm_config, "scheduler_config", None)
    extra = {
        "max_model_len": _text(model, "max_model_len"),
        "max_num_batched_tokens": _text(scheduler, "max_num_batched_tokens"),
        "max_num_seqs": _text(scheduler, "max_num_seqs"),
        "kv_cache_dtype": _text(getattr(vllm_config, "cache_config", None), "cache_dtype"),
    }
    return Recipe(
        engine="vllm",
        engine_version=str(vllm.__version__),
        model=model_name(_text(model, "model")),
        revision=_text(model, "revision"),
        quantization=_text(model, "quantization"),
        dtype=_text(model, "dtype").removeprefix("torch."),
        tensor_parallel_size=_number(parallel, "tensor_parallel_size"),
        pipeline_parallel_size=_number(parallel, "pipeline_parallel_size"),
        data_parallel_size=_number(parallel, "data_parallel_size"),
        speculative=_speculative(getattr(vllm_config, "speculative_config", None)),
        lora=_lora(getattr(vllm_config, "lora_config", None)),
        multimodal=_multimodal(getattr(model, "multimodal_config", None)),
        extra={name: value for name, value in extra.items() if value},
    )


def _speculative(config: Any) -> str:
    if config is None:
        return ""
    names = ("method", "model", "num_speculative_tokens")
    return " ".join(text for name in names if (text := _text(config, name)))


def _lora(config: Any) -> str:
    if config is None:
        return ""
    return f"rank {_text(config, 'max_lora_rank')} loras {_text(config, 'max_loras')}"


def _multimodal(config: Any) -> str:
    limits = getattr(config, "limit_per_prompt", None)
    if not limits:
        return ""
    counts = {str(name): getattr(limit, "count", limit) for name, limit in dict(limits).items()}
    return json.dumps(counts, sort_keys=True, default=str)[:_MAX_VALUE]


def hash_factors(module: Any) -> dict[str, str]:
    """The parts of what vLLM hashes into a tree's name (`vllm.compilation.caching`), to tell later
    why two hashes differ. Of a variable that may hold a secret it is only said that it is set.
    Empty where vLLM's inside has changed: a tree is published without them."""
    try:
        return _hash_factors(module)
    except Exception as error:
        logger.debug("aotcache: what vLLM hashes is not recorded: %s", error)
        return {}


def _hash_factors(module: Any) -> dict[str, str]:
    from vllm import envs
    from vllm.compilation import caching, decorators
    from vllm.config.utils import hash_factors as digest

    variables = envs.compile_factors()
    config = module.vllm_config
    factors = {"env": str(digest(variables)), "config": str(config.compute_hash())}
    for name, value in variables.items():
        if value is not None:
            text = json.dumps(value, default=str)
            factors[f"env.{name}"] = "set" if is_secret(name) else text[:_MAX_VALUE]
    for name, value in vars(config).items():
        if callable(getattr(value, "compute_hash", None)):
            factors[f"config.{name}"] = str(value.compute_hash())
    if getattr(envs, "VLLM_USE_MEGA_AOT_ARTIFACT", False):
        for index, factor in enumerate(caching.get_inductor_factors()):
            factors[f"compiler.{index}"] = _digest(str(factor))
    factors["forward"] = str(decorators._model_hash_key(module.forward))
    return factors


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(owner: Any, name: str) -> str:
    value = getattr(owner, name, None)
    text = "" if value is None else str(value)[:_MAX_VALUE]
    return text if text.isprintable() else ascii(text)[:_MAX_VALUE]


def _number(owner: Any, name: str, default: int = 1) -> int:
    value = getattr(owner, name, None)
    return value if isinstance(value, int) else default
