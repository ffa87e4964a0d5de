"""What of the AWS environment reaches S3, and who is asked for credentials."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aotcache.errors import StorageUnavailableError, UsageError
from aotcache.storage import open_store
from aotcache.storage.s3_environment import ProfileCredentials, aws_environment

KEYS = "aws_access_key_id = AK\naws_secret_access_key = SK\n"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where AWS's files would be: none yet, and nothing in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def test_nothing_said() -> None:
    environment = aws_environment("bucket")
    assert environment.endpoint == "https://bucket.s3.us-east-1.amazonaws.com"
    assert environment.in_host
    assert environment.credentials is None
    assert environment.certificates is None


def test_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert aws_environment("b").region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    assert aws_environment("b").endpoint == "https://b.s3.eu-north-1.amazonaws.com"
    monkeypatch.setenv("AWS_REGION", "cn-north-1")
    assert aws_environment("b").endpoint == "https://b.s3.cn-north-1.amazonaws.com.cn"


def test_a_bucket_that_no_certificate_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    environment = aws_environment("team.caches")
    assert environment.endpoint == "https://s3.eu-west-1.amazonaws.com"
    assert not environment.in_host


def test_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert aws_environment("b").endpoint == "http://minio:9000"
    assert not aws_environment("b").in_host
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example.com")
    assert aws_environment("b").endpoint == "https://s3.example.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    assert aws_environment("b").endpoint == "https://b.s3.us-east-1.amazonaws.com"


def test_settings_of_a_profile(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    (home / "config").write_text(
        "[default]\nregion = eu-west-1\n"
        "[profile team]\nregion = eu-north-1\nendpoint_url = http://minio:9000\n"
        "s3 =\n  addressing_style = path\n"
    )
    assert aws_environment("b").region == "eu-west-1"
    monkeypatch.setenv("AWS_PROFILE", "team")
    environment = aws_environment("b")
    assert (environment.region, environment.endpoint) == ("eu-north-1", "http://minio:9000")
    assert environment.credentials is None  # keys of the environment come first
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    assert aws_environment("b").region == "us-west-2"


def test_a_config_file_that_is_none(home: Path) -> None:
    (home / "config").write_text("secret-canary\n")
    with pytest.raises(UsageError, match="config cannot be read") as caught:
        aws_environment("b")
    assert "canary" not in str(caught.value)


def test_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(UsageError, match="AWS_CA_BUNDLE"):
        aws_environment("b")
    bundle.write_bytes(b"no certificate")
    with pytest.raises(UsageError, match="holds no certificate"):
        aws_environment("b")
    bundle.write_bytes(b"-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n")
    with pytest.raises(UsageError, match="AWS_CA_BUNDLE"):
        open_store("s3://b")


@pytest.mark.parametrize("file", ["credentials", "config"])
def test_files_are_botocores(home: Path, file: str) -> None:
    (home / file).write_text(f"[default]\n{KEYS}")
    credentials = aws_environment("b").credentials
    assert isinstance(credentials, ProfileCredentials)
    found = credentials()
    assert (found["access_key_id"], found["secret_access_key"]) == ("AK", "SK")
    assert found["token"] is None


def test_files_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"[team]\n{KEYS}aws_session_token = T\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    credentials = aws_environment("b").credentials
    assert credentials is not None
    assert credentials()["token"] == "T"


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    store = open_store("s3://b")
    with pytest.raises(StorageUnavailableError, match=r"no AWS credentials: .*nobody"):
        store.get("ns/a/b")
    with pytest.raises(StorageUnavailableError, match=r"no AWS credentials: .*nobody"):
        store.put("ns/a/b", b"x")


def test_botocore_is_imported_for_files_only(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "credentials").write_text(f"[default]\n{KEYS}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
    assert aws_environment("b").credentials is None


def test_a_profile_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setenv("AWS_PROFILE", "team")
    with pytest.raises(UsageError, match="pip install botocore"):
        aws_environment("b")


def test_files_without_botocore(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """They may hold no more than a region: what obstore finds by itself comes first."""
    monkeypatch.setitem(sys.modules, "botocore", None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:2")
    (home / "credentials").write_text(f"[default]\n{KEYS}")
    with pytest.raises(StorageUnavailableError, match="pip install botocore") as caught:
        open_store("s3://b").get("ns/a/b")
    assert str(home / "credentials") in str(caught.value)
    assert "connection refused" in str(caught.value).lower()


def test_no_metadata_is_asked_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageUnavailableError, match="set AWS_ACCESS_KEY_ID"):
        open_store("s3://b").get("ns/a/b")
