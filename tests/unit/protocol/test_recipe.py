from dataclasses import replace

import pytest

from aotcache.protocol.platform import Difference
from aotcache.protocol.recipe import Recipe, differences

STORED = Recipe(
    engine="vllm",
    engine_version="0.32.0",
    model="org/model",
    dtype="bfloat16",
    tensor_parallel_size=2,
    extra={"max_model_len": "4096", "empty": ""},
)
ASKED = Recipe(
    engine="vllm",
    model="org/model",
    tensor_parallel_size=0,
    pipeline_parallel_size=0,
    data_parallel_size=0,
)


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"dtype": "bfloat16", "tensor_parallel_size": 2},
        {"pipeline_parallel_size": 1},
        {"extra": {"max_model_len": "4096"}},
        {"extra": {"empty": ""}},
    ],
)
def test_what_is_not_named_is_left_open(named: dict[str, object]) -> None:
    assert STORED.answers(replace(ASKED, **named))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "field", "stored", "asked"),
    [
        ({"engine": "torch"}, "engine", "vllm", "torch"),
        ({"model": "org/other"}, "model", "org/model", "org/other"),
        ({"quantization": "fp8"}, "quantization", "", "fp8"),
        ({"tensor_parallel_size": 1}, "tensor_parallel_size", "2", "1"),
        ({"extra": {"max_model_len": "1"}}, "extra.max_model_len", "4096", "1"),
        # Nothing is named of it in the stored recipe, so that nothing is known.
        ({"extra": {"eager": ""}}, "extra.eager", "", ""),
    ],
)
def test_what_is_named_has_to_be_so(
    named: dict[str, object], field: str, stored: str, asked: str
) -> None:
    wanted = replace(ASKED, **named)  # type: ignore[arg-type]
    assert not STORED.answers(wanted)
    assert differences(STORED, wanted) == [Difference(field=field, stored=stored, asked=asked)]


def test_a_recipe_answers_itself_and_its_size_is_named_unless_0() -> None:
    assert STORED.answers(STORED)
    assert not STORED.answers(Recipe(engine="vllm", model="org/model"))


def test_the_id_is_that_of_all_fields() -> None:
    assert Recipe(engine="vllm").id == "65588f915905ca0f4e5d5b2d90bdd7ca"
    assert Recipe(engine="vllm").id != Recipe(engine="vllm", extra={"a": ""}).id
