from __future__ import annotations

from support.small_vllm import small_vllm

__all__ = ["small_vllm"]
