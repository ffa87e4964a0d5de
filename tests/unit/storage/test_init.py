"""Opening stores: URLs, secrets in them, and what is imported for which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aotcache.errors import UsageError
from aotcache.storage import open_store


@pytest.mark.parametrize(
    "url", ["", "/x", "gs://", "s3://", "s3:///x", "s3://b/../x", "s3://b//x", "http://x:1"]
)
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "az://bucket/x?sig=secret", "s3://[x"])
def test_secrets_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gcs"), ("az", "azure")])
def test_clouds_say_what_to_install(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "aotcache.storage.cloud_store", raising=False)
    with pytest.raises(UsageError, match=rf"pip install 'aotcache\[{extra}\]'"):
        open_store(f"{scheme}://bucket")


def test_a_backend_is_imported_when_it_is_opened(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from aotcache.storage import open_store, http_store\n"
        "open_store(sys.argv[1])\n"
        "heavy = {'obstore', 'botocore', 'urllib3', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path.as_uri()], check=True, timeout=60)


def test_presigned_packs_need_no_s3_library() -> None:
    script = (
        "import sys\n"
        "from aotcache.net.http import HttpClient\n"
        "from aotcache.storage import presigned_store\n"
        "presigned_store(HttpClient('http://127.0.0.1:1'))\n"
        "heavy = {'obstore', 'botocore', 'asyncio'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_stores_of_one_memory_share_it() -> None:
    open_store("memory://shared-name").put("ns/a", b"x")
    assert open_store("memory://shared-name").get("ns/a") == b"x"
    assert list(open_store("memory://shared").list("")) == []
