"""The hooks on a small `vllm` of the right shape, in processes of their own: what is patched and
when."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.small_vllm import REGISTER, run_python

PATCHED = """
def patched():
    from vllm.compilation import decorators, wrapper
    made = wrapper.TorchCompileWithNoGuardsWrapper.__init__
    return [
        hasattr(function, "__wrapped__")
        for function in (made, decorators._try_load_aot_compiled_fn)
    ]
"""


@pytest.mark.parametrize(
    "variables",
    [
        {"AOTCACHE_URL": ""},
        {"AOTCACHE_DISABLE": "1"},
        {"AOTCACHE_DISABLE": "yes"},
    ],
    ids=str,
)
def test_switched_off_it_imports_nothing_and_patches_nothing(
    small_vllm: Path, variables: dict[str, str]
) -> None:
    done = run_python(
        small_vllm,
        "import sys\n"
        "before = set(sys.modules)\n"
        + REGISTER
        + "print(sorted(n for n in set(sys.modules) - before if n.startswith('aotcache')))\n"
        "import threading\n"
        "print(threading.active_count(), len(sys.meta_path))\n" + PATCHED + "print(patched())\n",
        **variables,
    )
    ours, rest, patched = done.stdout.splitlines()
    assert ours == str(
        ["aotcache", "aotcache.engines", "aotcache.engines.vllm", "aotcache.settings"]
    )
    assert rest.split()[0] == "1"
    assert patched == "[False, False]"


def test_registered_it_starts_and_imports_nothing_heavy(small_vllm: Path) -> None:
    done = run_python(
        small_vllm,
        "import sys, threading\n"
        + REGISTER
        + "heavy = ['vllm', 'torch', 'msgspec', 'blake3', 'aotcache.net', 'subprocess']\n"
        "print([n for n in heavy if n in sys.modules], threading.active_count())\n",
    )
    assert done.stdout == "[] 1\n"
    assert not (small_vllm.parent / "root").exists()
    assert done.stderr == ""


@pytest.mark.parametrize("before", [True, False])
def test_patches_are_applied_on_import_and_to_what_is_imported(
    small_vllm: Path, before: bool
) -> None:
    imports = "import vllm.compilation.decorators, vllm.compilation.wrapper\n"
    done = run_python(
        small_vllm,
        "import sys\nfinders = len(sys.meta_path)\n"
        + (imports + REGISTER if before else REGISTER + imports)
        + PATCHED
        + "print(patched(), len(sys.meta_path) - finders)\n",
    )
    assert done.stdout == "[True, True] 0\n"


def test_one_module_may_come_before_the_other(small_vllm: Path) -> None:
    done = run_python(
        small_vllm, "import vllm.compilation.wrapper\n" + REGISTER + PATCHED + "print(patched())\n"
    )
    assert done.stdout == "[True, True]\n"


def test_a_module_stays_what_it_is(small_vllm: Path) -> None:
    done = run_python(
        small_vllm,
        REGISTER
        + """
import importlib.util, inspect
import vllm.compilation.decorators as module
print("bytes of another world" in inspect.getsource(module))
print("bytes of another world" in module.__loader__.get_source(module.__name__))
print(type(module.__loader__).__name__, module.__spec__.origin == module.__file__)
print(module._try_load_aot_compiled_fn.__doc__, module._try_load_aot_compiled_fn.__name__)
""",
    )
    assert done.stdout.splitlines() == [
        *("True", "True", "SourceFileLoader True"),
        "vLLM's own words. _try_load_aot_compiled_fn",
    ]


def test_who_only_looks_for_a_module_takes_nothing_away(small_vllm: Path) -> None:
    done = run_python(
        small_vllm,
        REGISTER
        + "import importlib.util\n"
        + "importlib.util.find_spec('vllm.compilation.decorators')\n"
        + PATCHED
        + "print(patched())\n",
    )
    assert done.stdout == "[True, True]\n"


def test_a_module_that_fails_fails_as_it_would(small_vllm: Path) -> None:
    """And is patched when it can be imported after all."""
    file = small_vllm / "vllm/compilation/decorators.py"
    text = file.read_text()
    file.write_text("import os\nif 'BROKEN' in os.environ: raise RuntimeError('its own')\n" + text)
    done = run_python(
        small_vllm,
        REGISTER
        + """
import os
os.environ["BROKEN"] = "1"
try:
    import vllm.compilation.decorators
except RuntimeError as error:
    print(error)
try:
    import vllm.compilation.none
except ModuleNotFoundError as error:
    print(error)
del os.environ["BROKEN"]
"""
        + PATCHED
        + "print(patched())\n",
    )
    assert done.stdout.splitlines() == [
        "its own",
        "No module named 'vllm.compilation.none'",
        "[True, True]",
    ]


def test_a_module_that_is_gone_is_not_found(small_vllm: Path) -> None:
    (small_vllm / "vllm/compilation/decorators.py").unlink()
    done = run_python(
        small_vllm,
        REGISTER
        + """
try:
    import vllm.compilation.decorators
except ModuleNotFoundError as error:
    print(error)
""",
    )
    assert done.stdout == "No module named 'vllm.compilation.decorators'\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("wrapper", "OTHER = 1", "TorchCompileWithNoGuardsWrapper is not in this vLLM"),
        ("wrapper", "TorchCompileWithNoGuardsWrapper = 7", "vllm.compilation.wrapper"),
        ("wrapper", "TorchCompileWithNoGuardsWrapper = int", "vllm.compilation.wrapper"),
        ("decorators", "OTHER = 1", "_try_load_aot_compiled_fn(model, path) is not in"),
        ("decorators", "def _try_load_aot_compiled_fn(path): ...", "is not in this vLLM"),
        ("decorators", "_try_load_aot_compiled_fn = 7", "vllm.compilation.decorators"),
    ],
)
def test_a_vllm_that_has_changed_is_one_line(
    small_vllm: Path, name: str, text: str, said: str
) -> None:
    (small_vllm / f"vllm/compilation/{name}.py").write_text(text)
    done = run_python(
        small_vllm,
        REGISTER + f"import vllm.compilation.{name}\nprint('imported')\n",
    )
    assert done.stdout == "imported\n"
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
