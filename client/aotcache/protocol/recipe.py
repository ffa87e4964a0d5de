"""The recipe: what the engine was asked to run. A recipe leads to the trees its starts used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields

from aotcache.protocol.platform import Difference

MAX_TEXT = 1024  # bytes of a text; two of them fit into a row of PostgreSQL's index (2704)
MAX_EXTRA = 64
MAX_PARALLEL = 1 << 20

_EXTRA = "extra."
# What makes another graph: where it is empty it is not known, and where it is empty there is none.
_GRAPH = ("quantization", "dtype", "tensor_parallel_size", "pipeline_parallel_size")
_GRAPH_OPTIONS = ("speculative", "lora", "multimodal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`model` is a name or path as given to the engine; `extra` holds what has no field here
    yet. Every text is printable and has at most MAX_TEXT bytes; ValueError for others.

    An empty text and a parallel size of 0 mean: not known. A recipe that is asked for leaves open
    so what it does not name, as an init container knows only a command line.
    """

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

    def __post_init__(self) -> None:
        if len(self.extra) > MAX_EXTRA:
            raise ValueError(f"a recipe has at most {MAX_EXTRA} extra fields")
        for name, value in _flat(self).items():
            if isinstance(value, int):
                if not 0 <= value <= MAX_PARALLEL:
                    raise ValueError(f"recipe field {name} is not 0 to {MAX_PARALLEL}")
            elif any(
                not text.isprintable() or len(text.encode()) > MAX_TEXT for text in (name, value)
            ):
                raise ValueError(f"recipe field {name[:80]!a} is not printable or too long")

    @property
    def id(self) -> str:
        """32 hex characters: the start of the SHA-256 of the fields as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def answers(self, asked: Recipe) -> bool:
        """Is every field that `asked` names the same here?"""
        return not differences(self, asked)


def differences(stored: Recipe, asked: Recipe) -> list[Difference]:
    """The fields that `asked` names and that are others in a stored recipe."""
    have, want = _flat(stored), _flat(asked)
    return [
        Difference(field=name, stored=str(have.get(name, "")), asked=str(value))
        for name, value in want.items()
        if have.get(name) != value and (value or name.startswith(_EXTRA))
    ]


def graph_differences(stored: Recipe, asked: Recipe) -> list[Difference]:
    """The fields that make another graph of the same model, and that are others. vLLM's hash has
    left some of them out (vllm#50891, #53366, #55383), so that one start would run another's graph.

    Both recipes are whole, as the plugin records them: no LoRA is as much of an answer as some.
    """
    have, want = _flat(stored), _flat(asked)
    return [
        Difference(field=name, stored=str(have[name]), asked=str(want[name]))
        for name in (*_GRAPH, *_GRAPH_OPTIONS)
        if have[name] != want[name] and (name in _GRAPH_OPTIONS or (have[name] and want[name]))
    ]


def in_words(found: Iterable[Difference]) -> str:
    return "; ".join(f"{d.field} {d.stored or 'none'} (here {d.asked or 'none'})" for d in found)


def _flat(recipe: Recipe) -> dict[str, str | int]:
    """Every field by name, those of `extra` with a prefix."""
    named = {f.name: getattr(recipe, f.name) for f in fields(recipe) if f.name != "extra"}
    return named | {_EXTRA + name: value for name, value in recipe.extra.items()}
