"""What the hooks call where the plugin itself cannot be imported: nothing happens, said once."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar


class Off:
    """The face of `start.Start`."""

    _one: ClassVar[Off | None] = None

    @classmethod
    def of_this_process(cls, error: Exception) -> Off:
        if cls._one is None:
            cls._one = cls()
            logging.getLogger("vllm.aotcache").warning(
                "aotcache: not used in this start, its plugin cannot be imported: %s (`aotcache "
                "doctor` says what is missing)",
                error,
            )
        return cls._one

    def changed(self, what: str, so: str) -> None: ...

    def never_ends(self, what: str) -> None: ...

    def built(self, model: Any) -> bool:  # noqa: ARG002 (the face of Start)
        return False

    def before_load(self, model: Any, path: str) -> bool:  # noqa: ARG002
        return False

    def after_load(self, model: Any, loaded: bool, reason: str, prepared: float) -> None: ...

    def compiling(self, vllm_config: Any, tag: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def running(self, *, first: bool = False) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def ended(self) -> None: ...
