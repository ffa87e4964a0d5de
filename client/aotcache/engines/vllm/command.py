"""What a command line asks vLLM to run: the recipe, as far as its words tell.

Nothing of vLLM is imported, so that an init container finds trees within a second and without a
device. What is not said is left open: the answer is what starts of the same words have used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from aotcache.errors import UsageError
from aotcache.probe.sources import package_directory, version_in
from aotcache.protocol.recipe import Recipe

# Options of vLLM's command line (vllm/engine/arg_utils.py), by the field of the recipe.
_SHORT = {
    "-q": "quantization",
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
}
_TEXTS = ("model", "revision", "quantization", "dtype")
_SIZES = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
_EXTRA = ("max-model-len", "max-num-batched-tokens", "max-num-seqs", "kv-cache-dtype")
_UNITS = {
    **{unit: 1000**power for power, unit in enumerate("kmgt", 1)},
    **{unit: 1024**power for power, unit in enumerate("KMGT", 1)},
}
_SAME = {"half": "float16", "float": "float32"}  # vLLM resolves one to the other
_SNAPSHOT = re.compile(r".*/models--(.+?)--(.+?)/snapshots/[0-9a-f]+/?")


def is_vllm(words: Sequence[str]) -> bool:
    """Whether a command starts vLLM's server: `vllm serve …`, `python -m vllm.entrypoints.…`."""
    return _arguments(words) is not None


def recipe_of_command(words: Sequence[str]) -> Recipe:
    """The recipe of a command, with what it leaves open left open. Raises UsageError for one that
    is not vLLM's, names no model, or has a number that is none."""
    arguments = _arguments(words)
    if arguments is None:
        raise UsageError(f"{' '.join(words)[:200]!r} is not a `vllm serve` command")
    said = _options(arguments)
    if arguments and not arguments[0].startswith("-"):
        said.setdefault("model", arguments[0])
    if "model" not in said:
        where = " (its --config file is not read)" if "config" in said else ""
        raise UsageError(f"the command names no model{where}: name it as vLLM's --model")
    texts = {name: said[name] for name in _TEXTS if said.get(name, "auto") != "auto"}
    if "dtype" in texts:
        texts["dtype"] = _SAME.get(texts["dtype"], texts["dtype"])
    try:
        return Recipe(
            engine="vllm",
            engine_version=_version(),
            **{**texts, "model": model_name(said["model"])},
            tensor_parallel_size=_count(said, _SIZES[0]),
            pipeline_parallel_size=_count(said, _SIZES[1]),
            data_parallel_size=_count(said, _SIZES[2]),
            extra={
                name.replace("-", "_"): _plain(name, said[name])
                for name in _EXTRA
                if said.get(name, "auto") not in ("auto", "-1")
            },
        )
    except ValueError as error:
        raise UsageError(f"the command makes no recipe: {error}") from error


def model_name(model: str) -> str:
    """A model as it is called everywhere: offline, vLLM puts the path of this node's snapshot."""
    found = _SNAPSHOT.fullmatch(model)
    return f"{found[1]}/{found[2]}" if found else model


def _arguments(words: Sequence[str]) -> Sequence[str] | None:
    """The words after `vllm serve`, or after the module that is the same server."""
    words = list(words)
    for at, word in enumerate(words):
        if os.path.basename(word) == "vllm" and words[at + 1 : at + 2] == ["serve"]:
            return words[at + 2 :]
        if word == "-m" and words[at + 1 : at + 2]:
            module = words[at + 1]
            if module == "vllm.entrypoints.cli.main":
                return words[at + 3 :] if words[at + 2 : at + 3] == ["serve"] else None
            return words[at + 2 :] if module.startswith("vllm.entrypoints.") else None
    return None


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """Long names without dashes, and the word after each; the last wins, as in vLLM."""
    said: dict[str, str] = {}
    for at, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if not name.startswith("-"):
            continue
        name = _SHORT.get(name, name.lstrip("-").replace("_", "-"))
        following = arguments[at + 1 : at + 2]
        said[name] = value if equals else (following[0] if following else "")
    return said


def _plain(name: str, text: str) -> str:
    """`4k` as vLLM reads it: `4000`. What is no number is a name."""
    digits, unit = text[:-1], text[-1:]
    if unit in _UNITS and re.fullmatch(r"\d+(\.\d+)?", digits):
        return str(int(float(digits) * _UNITS[unit]))
    if name.startswith("max-") and not text.isdecimal():
        raise UsageError(f"--{name} {text!r} is not a number")
    return text


def _count(said: dict[str, str], name: str) -> int:
    text = said.get(name, "1")
    if not text.isdecimal() or not int(text):
        raise UsageError(f"--{name} {text!r} is not a number of processes")
    return int(text)


def _version() -> str:
    directory = package_directory("vllm")
    return version_in(directory, "_version.py") if directory else ""
