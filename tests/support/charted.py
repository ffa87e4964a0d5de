"""The Helm chart, rendered by Helm's own library, and the examples beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from support.vllm import ROOT

CHART = ROOT / "deploy" / "helm" / "aotcache"
EXAMPLES = sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))


def rendered(
    values: dict[str, Any], *, name: str = "aotcache", namespace: str = "serving"
) -> list[dict[str, Any]]:
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name=name, namespace=namespace)
    return [
        document
        for file, text in sorted(texts.items())
        if file.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def example(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """By the name of what makes them."""
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield document["metadata"]["name"], spec["template"]["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]
