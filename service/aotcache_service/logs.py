"""The service's log, on stderr: lines to read, or one JSON object each. What is logged while a
request is answered carries the request's id."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)

request_id: ContextVar[str] = ContextVar("request_id", default="")


class _WithRequest(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        found = request_id.get()
        vars(record).update(request_id=found, request=f"[{found}] " if found else "")
        return True


def configure(form: str) -> None:
    """form: one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_WithRequest())
    if form == JSON:
        fields = ["asctime", "levelname", "name", "message", "request_id"]
        names = {"asctime": "time", "levelname": "level", "name": "logger"}
        formatter: logging.Formatter = JsonFormatter(
            fields, rename_fields=names, datefmt="%Y-%m-%dT%H:%M:%S%z"
        )
    else:
        formatter = logging.Formatter("%(asctime)s aotcache %(levelname)s %(request)s%(message)s")
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aotcache_service").setLevel(logging.INFO)
    logging.getLogger("aotcache").setLevel(logging.INFO)
