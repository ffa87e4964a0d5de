"""Clocks an hour off, on one replica of two and on a node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from aotcache.net.http import HttpClient
from aotcache.protocol.v1.leases import GRANTED, HELD, AskLease, new_holder
from aotcache.protocol.v1.lookup import Lookup
from aotcache.protocol.v1.publish import OpenSession
from aotcache.remote.index import Index
from support.fault_table import Table
from support.faults import Fleet, last_line
from support.process import tool
from support.s3 import S3Server
from support.site import AOTCACHE, Service, aotcache, printed, run
from support.stored import HASH, PLATFORM, RANK

HOUR = 3600
OFF = {"ahead": "+1h", "behind": "-1h"}


def wrong(by: str) -> tuple[str, ...]:
    """A clock of the day only: what waits so many seconds waits as long."""
    return (tool("faketime", "Debian's faketime"), "--exclude-monotonic", "-f", by)
