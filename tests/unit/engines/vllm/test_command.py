"""Recipes off command lines: what vLLM would be asked, without vLLM."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aotcache.engines.vllm.command import is_vllm, model_name, recipe_of_command
from aotcache.errors import UsageError
from aotcache.protocol.recipe import Recipe


def _recipe(line: str) -> Recipe:
    return recipe_of_command(shlex.split(line))


@pytest.mark.parametrize(
    ("line", "yes"),
    [
        ("vllm serve org/m", True),
        ("/opt/venv/bin/vllm serve org/m", True),
        ("python /opt/venv/bin/vllm serve org/m", True),
        ("env A=1 vllm serve org/m", True),
        ("python -m vllm.entrypoints.openai.api_server --model org/m", True),
        ("python3.12 -u -m vllm.entrypoints.cli.main serve org/m", True),
        ("vllm serve", True),
        ("vllm bench latency", False),
        ("vllm", False),
        ("python -m vllm.entrypoints.cli.main bench latency", False),
        ("python -m vllm.entrypoints.cli.main", False),
        ("python -m torch.distributed.run train.py", False),
        ("python -m", False),
        ("python train.py serve vllm", False),
        ("", False),
    ],
)
def test_what_is_a_server_of_vllm(line: str, yes: bool) -> None:
    assert is_vllm(shlex.split(line)) is yes


def test_a_command_makes_a_recipe() -> None:
    recipe = _recipe(
        "vllm serve org/m --revision abc --quantization fp8 --dtype bfloat16 "
        "--tensor-parallel-size 2 --pipeline_parallel_size=3 -dp 4 "
        "--max-model-len 8k --max-num-batched-tokens=2K --max-num-seqs 256 --kv-cache-dtype fp8"
    )
    assert recipe == Recipe(
        engine="vllm",
        engine_version=recipe.engine_version,
        model="org/m",
        revision="abc",
        quantization="fp8",
        dtype="bfloat16",
        tensor_parallel_size=2,
        pipeline_parallel_size=3,
        data_parallel_size=4,
        extra={
            "max_model_len": "8000",
            "max_num_batched_tokens": "2048",
            "max_num_seqs": "256",
            "kv_cache_dtype": "fp8",
        },
    )


def test_what_is_not_said_is_left_open() -> None:
    recipe = _recipe("vllm serve org/m --dtype auto --max-model-len -1 --kv-cache-dtype auto")
    assert (recipe.dtype, recipe.quantization, recipe.extra) == ("", "", {})
    started = Recipe(
        engine="vllm",
        engine_version=recipe.engine_version,
        model="org/m",
        dtype="bfloat16",
        extra={"max_model_len": "4096"},
    )
    assert started.answers(recipe)
    assert not started.answers(_recipe("vllm serve org/m --max-model-len 8192"))
    assert not started.answers(_recipe("vllm serve org/m -tp 2"))


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("vllm serve org/m", "org/m"),
        ("vllm serve --model org/m", "org/m"),
        ("vllm serve --model=org/m", "org/m"),
        ("vllm serve -tp 2 --model org/m --model org/last", "org/last"),
        ("python -m vllm.entrypoints.openai.api_server --model org/m", "org/m"),
        ("vllm serve /hub/models--org--m/snapshots/0123abc", "org/m"),
        ("vllm serve /hub/models--org--m/snapshots/0123abc/", "org/m"),
        ("vllm serve /data/llama", "/data/llama"),
    ],
)
def test_where_the_model_is_named(line: str, model: str) -> None:
    assert _recipe(line).model == model


def test_a_snapshot_of_a_model_with_dashes() -> None:
    assert model_name("/h/models--org--a--b/snapshots/0f/") == "org/a--b"
    assert model_name("org/a--b") == "org/a--b"


@pytest.mark.parametrize(
    ("said", "dtype"), [("half", "float16"), ("float", "float32"), ("float16", "float16")]
)
def test_names_of_one_dtype_are_one(said: str, dtype: str) -> None:
    assert _recipe(f"vllm serve org/m --dtype {said}").dtype == dtype


@pytest.mark.parametrize(
    ("said", "number"),
    [("4096", "4096"), ("1k", "1000"), ("1K", "1024"), ("25.6k", "25600"), ("1m", "1000000")],
)
def test_numbers_with_units(said: str, number: str) -> None:
    recipe = _recipe(f"vllm serve org/m --max-num-batched-tokens {said}")
    assert recipe.extra == {"max_num_batched_tokens": number}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("vllm bench latency", "not a `vllm serve` command"),
        ("", "not a `vllm serve` command"),
        ("vllm serve", "names no model"),
        ("vllm serve -tp 2", "names no model"),
        ("vllm serve --config conf.yaml", "--config file is not read"),
        ("vllm serve org/m -tp two", "tensor-parallel-size 'two'"),
        ("vllm serve org/m -tp 0", "tensor-parallel-size '0'"),
        ("vllm serve org/m -tp -2", "tensor-parallel-size '-2'"),
        ("vllm serve org/m -tp", "tensor-parallel-size ''"),
        ("vllm serve org/m -tp ²", "tensor-parallel-size '²'"),
        ("vllm serve org/m -pp 99999999", "pipeline_parallel_size is not 0 to"),
        ("vllm serve org/m --max-model-len many", "max-model-len 'many' is not a number"),
        ("vllm serve org/m --max-model-len ²", "max-model-len '²' is not a number"),
        ("vllm serve org/m --max-num-seqs 1.5", "max-num-seqs '1.5' is not a number"),
        ("vllm serve 'a\x07b'", "not printable"),
        (f"vllm serve {'m' * 2000}", "too long"),
    ],
)
def test_what_makes_no_recipe_is_a_usage_error(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=why.replace("(", r"\(")):
        _recipe(line)


def test_nothing_of_vllm_or_torch_is_imported(tmp_path: Path) -> None:
    """Its version is read from its files."""
    package = tmp_path / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "_version.py").write_text("__version__ = version = '0.32.0'\n")
    program = (
        "import sys\n"
        "from aotcache.engines.vllm.command import recipe_of_command\n"
        "print(recipe_of_command(['vllm', 'serve', 'm']).engine_version)\n"
        "print([name for name in ('vllm', 'torch', 'triton') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0.32.0\n[]\n"
