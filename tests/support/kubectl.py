"""What a guide's `kubectl create` lines make, as kubectl itself says, and what pods need of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from support.charted import containers
from support.pages import blocks
from support.process import tool

SECRETS = "/run/secrets/aotcache/"  # where containers have them

# Namespace, kind and name; and the keys of its data.
Objects = dict[tuple[str, str, str], set[str]]


def lines(page: str) -> list[str]:
    """The command lines of its `console` blocks."""
    text = "".join(blocks(page, "console"))
    return [one.strip() for one in f"\n{text}".split("\n$ ")[1:]]


def created(page: str, folder: Path) -> Objects:
    """No cluster is asked. folder: where the page's files are."""
    kubectl = tool("kubectl", "kubernetes-client")
    found: Objects = {}
    for line in lines(page):
        program, *_ = line.split()
        if program != "kubectl" or " create " not in line:
            continue
        dry = line.replace("kubectl", f"{kubectl} --dry-run=client --output=yaml", 1)
        done = subprocess.run(
            ["sh", "-c", dry], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        made = yaml.safe_load(done.stdout)
        about = made["metadata"]
        found[about.get("namespace", ""), made["kind"], about["name"]] = set(made.get("data", ()))
    return found


def missing(pod: dict[str, Any], namespace: str, objects: Objects) -> Iterator[str]:
    """What its containers are told of that nobody made: objects, keys and files."""
    files: set[str] = set()
    for volume in pod.get("volumes", ()):
        for source in _sources(volume):
            ((kind, about),) = source.items()
            name = about.get("secretName", about.get("name"))
            keys = objects.get((namespace, _KINDS[kind], name))
            if keys is None:
                yield f"{kind} {name}"
                continue
            items = about.get("items", [{"key": key, "path": key} for key in keys])
            yield from (f"{name}: {one['key']}" for one in items if one["key"] not in keys)
            files |= {one["path"] for one in items}
    for container in containers(pod):
        for variable in container.get("env", ()):
            value = variable.get("value", "")
            if value.startswith(SECRETS) and Path(value).name not in files:
                yield f"{variable['name']}={value}"
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference and not reference.get("optional"):
                keys = objects.get((namespace, "Secret", reference["name"]), set())
                if reference["key"] not in keys:
                    yield f"{reference['name']}: {reference['key']}"
        for source in container.get("envFrom", ()):
            name = source["secretRef"]["name"]
            if (namespace, "Secret", name) not in objects:
                yield f"secret {name}"


_KINDS = {"secret": "Secret", "configMap": "ConfigMap"}


def _sources(volume: dict[str, Any]) -> list[dict[str, Any]]:
    if "projected" in volume:
        return list(volume["projected"]["sources"])
    return [{kind: volume[kind]} for kind in _KINDS if kind in volume]
