"""Facts: read from plain objects as vLLM's are, with what they lack left empty."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from aotcache.engines.vllm.facts import facts_of, hash_factors, recipe_of
from aotcache.protocol.recipe import MAX_TEXT


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """As much of the package as is read here."""
    module = ModuleType("vllm")
    module.__version__ = "0.32.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def _config(**more: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "model_config": SimpleNamespace(
            model="org/m",
            revision=None,
            quantization="fp8",
            dtype="torch.bfloat16",
            max_model_len=4096,
        ),
        "parallel_config": SimpleNamespace(
            rank=1,
            world_size=2,
            tensor_parallel_size=2,
            pipeline_parallel_size=1,
            data_parallel_size=1,
        ),
        **more,
    }
    return SimpleNamespace(**values)


def test_a_whole_recipe() -> None:
    recipe = recipe_of(
        _config(
            scheduler_config=SimpleNamespace(max_num_batched_tokens=2048, max_num_seqs=256),
            cache_config=SimpleNamespace(cache_dtype="auto"),
            speculative_config=SimpleNamespace(
                method="eagle", model="org/draft", num_speculative_tokens=3
            ),
            lora_config=SimpleNamespace(max_lora_rank=16, max_loras=4),
        )
    )
    assert (recipe.engine, recipe.engine_version, recipe.model) == ("vllm", "0.32.0", "org/m")
    assert (recipe.revision, recipe.quantization, recipe.dtype) == ("", "fp8", "bfloat16")
    assert (recipe.tensor_parallel_size, recipe.pipeline_parallel_size) == (2, 1)
    assert recipe.speculative == "eagle org/draft 3"
    assert recipe.lora == "rank 16 loras 4"
    assert recipe.extra == {
        "max_model_len": "4096",
        "max_num_batched_tokens": "2048",
        "max_num_seqs": "256",
        "kv_cache_dtype": "auto",
    }


def test_what_is_lacking_is_left_empty() -> None:
    bare = SimpleNamespace(model_config=SimpleNamespace(), parallel_config=SimpleNamespace())
    recipe = recipe_of(bare)
    assert (recipe.model, recipe.dtype, recipe.speculative, recipe.lora) == ("", "", "", "")
    assert recipe.tensor_parallel_size == 1
    assert recipe.extra == {}
    assert recipe_of(_config(speculative_config=None, lora_config=None)).lora == ""


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, ""),
        (None, ""),
        ({"image": 2, "audio": 0}, '{"audio": 0, "image": 2}'),
        ({"image": SimpleNamespace(count=3)}, '{"image": 3}'),
    ],
)
def test_limits_of_inputs(limits: object, said: str) -> None:
    config = _config()
    config.model_config.multimodal_config = SimpleNamespace(limit_per_prompt=limits)
    assert recipe_of(config).multimodal == said


def test_the_path_of_a_snapshot_is_the_models_name() -> None:
    config = _config()
    config.model_config.model = "/hub/models--org--m/snapshots/0123abc"
    assert recipe_of(config).model == "org/m"


@pytest.mark.parametrize("model", ["a\nb", "x" * 5000, "\x1b[31m" * 200])
def test_any_text_makes_a_recipe(model: str) -> None:
    config = _config()
    config.model_config.model = model
    assert len(recipe_of(config).model.encode()) <= MAX_TEXT


def test_parts_of_the_ranks_of_one_node() -> None:
    facts = facts_of(_config(), "/cache")
    assert facts.cache_root == "/cache"
    assert facts.part == "rank_1_0-d0"  # on a CPU every rank's device is 0
    assert facts.expected_parts == ("shared", "rank_0_0-d0", "rank_1_0-d0")


def test_a_rank_outside_of_what_is_expected() -> None:
    """Then only the shared part is: a tree is not called incomplete for a wrong guess."""
    config = _config()
    config.parallel_config.rank = 7
    facts = facts_of(config, "/cache")
    assert (facts.part, facts.expected_parts) == ("rank_7_0-d0", ("shared",))


def test_replicas_have_parts_of_their_own() -> None:
    config = _config()
    config.parallel_config.data_parallel_size = 2
    config.parallel_config.data_parallel_index = 1
    facts = facts_of(config, "/cache")
    assert facts.part == "rank_1_1-d0"
    assert facts.expected_parts == (
        "shared",
        *("rank_0_0-d0", "rank_1_0-d0", "rank_0_1-d0", "rank_1_1-d0"),
    )


def test_factors_that_cannot_be_read_are_none() -> None:
    """This `vllm` has none of what is looked into."""
    assert hash_factors(SimpleNamespace(vllm_config=_config())) == {}


def test_factors_hold_no_secret(monkeypatch: pytest.MonkeyPatch, vllm: ModuleType) -> None:
    environment = {"HF_TOKEN": "hf_secret", "VLLM_X": "seen", "UNSET": None}

    class Hashed:
        def compute_hash(self) -> str:
            return "0123"

    def add(name: str, **values: object) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    vllm.envs = add(  # type: ignore[attr-defined]
        "vllm.envs", compile_factors=lambda: environment, VLLM_USE_MEGA_AOT_ARTIFACT=True
    )
    caching = add("vllm.compilation.caching", get_inductor_factors=lambda: ["a", "b"])
    decorators = add("vllm.compilation.decorators", _model_hash_key=lambda function: "source")  # noqa: ARG005
    add("vllm.compilation", caching=caching, decorators=decorators)
    add("vllm.config")
    add("vllm.config.utils", hash_factors=lambda variables: len(variables))
    config = SimpleNamespace(
        parallel_config=Hashed(), other="no config", compute_hash=Hashed().compute_hash
    )
    model = SimpleNamespace(vllm_config=config, forward=None)
    factors = hash_factors(model)
    assert "hf_secret" not in str(factors)
    assert factors.pop("env.HF_TOKEN") == "set"
    assert {name for name in factors if name.startswith("compiler.")} == {
        "compiler.0",
        "compiler.1",
    }
    assert (factors["env.VLLM_X"], factors["config.parallel_config"]) == ('"seen"', "0123")
    assert (factors["env"], factors["config"], factors["forward"]) == ("3", "0123", "source")
    assert "env.UNSET" not in factors
