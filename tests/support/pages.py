"""Commands as the documentation has them."""

from __future__ import annotations

import re

from support.vllm import ROOT


def blocks(page: str, kind: str = "sh") -> list[str]:
    """The fenced blocks of one kind, in their order."""
    text = (ROOT / "docs" / page).read_text()
    found: list[str] = re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {kind} blocks"
    return found
