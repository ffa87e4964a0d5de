"""Whether the engine that is installed here can be helped: vLLM, torch, plugin, platform."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aotcache.engines.doctor.findings import Finding, note, ok, problem
from aotcache.engines.doctor.installed import PLUGIN_GROUP, Installed, Vllm
from aotcache.errors import AotcacheError
from aotcache.probe.platform import detect
from aotcache.probe.sources import release

AOT, MEGA = (2, 10), (2, 12)  # torch, from which vLLM's defaults have them (vllm/envs.py)


def check_engine(installed: Installed, environ: Mapping[str, str]) -> Iterator[Finding]:
    vllm = installed.vllm
    if vllm is None:
        yield note(
            "vllm",
            "not installed beside aotcache",
            "if this machine runs vLLM, run this with vLLM's own Python; else nothing",
        )
        return
    yield ok("vllm", f"vLLM {vllm.version or 'of unknown version'}")
    yield from _check_source(vllm)
    yield from _check_torch(installed.torch)
    yield from _check_plugin(installed, environ)


def _check_source(vllm: Vllm) -> Iterator[Finding]:
    for file in vllm.unread:
        yield problem(
            "vllm", f"its source cannot be read: {file}", "look whether vLLM is installed whole"
        )
    if vllm.unread:
        return
    if vllm.nests:
        yield ok("vllm", "Inductor's cache lies in the AOT directory: one tree holds it all")
    else:
        yield problem(
            "vllm",
            "this vLLM leaves Inductor's files outside its trees, in /tmp/torchinductor_$USER or "
            "TORCHINDUCTOR_CACHE_DIR: they are not published, and a fresh node builds them again",
            "upgrade: vLLM 0.20 put them in the tree, docs/vllm.md names the versions tried",
        )
    if not vllm.hook:
        yield note(
            "vllm",
            "this vLLM does not load AOT compilations by the function that the plugin knows: the "
            "plugin cannot pull in the moment a tree is needed",
            "use a vLLM of the table in docs/vllm.md",
        )


def _check_torch(torch: str) -> Iterator[Finding]:
    if not torch:
        return  # the platform check says so
    if release(torch) < AOT:
        yield problem(
            "torch",
            f"torch {torch} has no AOT compile: vLLM writes no tree that can be pulled by its hash",
            "upgrade to torch 2.12 or later, with the vLLM that goes with it",
        )
    elif release(torch) < MEGA:
        yield note(
            "torch",
            f"torch {torch} has no mega-AOT artifact: two trees travel for each compiled module",
            "nothing; torch 2.12 and later need one",
        )


def _check_plugin(installed: Installed, environ: Mapping[str, str]) -> Iterator[Finding]:
    if not installed.plugins:
        yield problem(
            "plugin",
            f"this Python finds no aotcache among the entry points {PLUGIN_GROUP}: vLLM does not "
            "load it",
            "pip install aotcache with vLLM's own Python; on PYTHONPATH its dist-info directory "
            "has to lie beside the package",
        )
        return
    name = installed.plugins[0]
    if "VLLM_PLUGINS" not in environ:
        yield ok("plugin", f"vLLM finds the plugin `{name}`")
        return
    # Split as vLLM does: without stripping, and an empty value names none.
    allowed = environ["VLLM_PLUGINS"].split(",")
    if not set(allowed) & set(installed.plugins):
        spaced = name in (each.strip() for each in allowed)
        yield problem(
            "plugin",
            f"VLLM_PLUGINS={environ['VLLM_PLUGINS']} leaves `{name}` out"
            + (" (vLLM takes the space as part of the name)" if spaced else ""),
            f"add `{name}` to it, or unset it",
        )
        return
    enters = installed.vllm and "VLLM_PLUGINS" in (installed.vllm.hashed or ())
    yield note(
        "plugin",
        f"vLLM loads `{name}`; VLLM_PLUGINS is set" + (" and enters vLLM's hash" if enters else ""),
        "set it to the same text on every node, publishers included" if enters else "",
    )


def check_platform(installed: Installed) -> Iterator[Finding]:
    try:
        found = detect()
    except AotcacheError as error:
        yield problem("platform", str(error))
        return
    platform = found.platform
    yield ok(
        "platform",
        f"{platform.arch or platform.device} {platform.device if platform.arch else ''}".strip()
        + f", torch {platform.torch}, triton {platform.triton or 'none'}, {platform.python}, "
        f"{platform.machine}, {platform.libc}",
    )
    if platform.device == "cpu" and (platform.cuda or platform.hip):
        yield note(
            "platform",
            f"torch {installed.torch} is built for GPUs and none is visible here "
            f"({found.notes.get('gpu', 'none found')})",
            "on a node: look at the driver and CUDA_VISIBLE_DEVICES; in an image: nothing",
        )
