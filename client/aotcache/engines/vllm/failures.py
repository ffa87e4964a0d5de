"""What an exception of the engine's tells of the artifact that it ran."""

from __future__ import annotations


def lacks_memory(error: BaseException | None) -> bool:
    """vLLM raises another error in the place of torch's, and some of CUDA's have no type."""
    while error is not None:
        if type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False
