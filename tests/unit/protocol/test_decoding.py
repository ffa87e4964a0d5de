"""Decoding: bytes of any origin, from any thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

from aotcache.errors import FormatError
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.platform import Platform

# Eight threads that meet a type for the first time, changing places as often as Python can.
AT_ONCE = """
import sys, threading
sys.setswitchinterval(1e-6)
from aotcache.errors import FormatError
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.manifest import Statement

def decode():
    barrier.wait()
    try:
        decode_json(b"{}", Statement)
    except FormatError:
        pass

barrier = threading.Barrier(8)
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_that_decode_a_type_at_once() -> None:
    """msgspec alone ended a process in four of them."""
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", AT_ONCE], check=False)
        assert done.returncode == 0


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b"{}", b'{"torch": 1}'])
def test_what_is_not_of_the_type_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_json(data, Platform)
