"""Where S3's credentials may come from, each used on a real server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import botocore.session  # type: ignore[import-untyped]
import pytest

from aotcache.errors import StorageUnavailableError
from aotcache.storage import open_store
from support.http import Reply, Request, serving
from support.raw import Connection, raw_server
from support.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from support.tls import make_authority

KEY = "ns/packs/ab/one"
EXPIRES = "2099-01-01T00:00:00Z"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


@pytest.fixture(params=["seaweedfs", "ministack"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, S3Server)
    return found


def reach(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def works(server: S3Server) -> None:
    url = server.fresh_url()
    store = open_store(url)
    store.put(KEY, b"data")
    store.close()
    assert open_store(url).get(KEY) == b"data"


def make_role(server: S3Server, name: str) -> None:
    """That everybody may assume, and that may do all there is with S3."""
    iam = botocore.session.get_session().create_client(
        "iam",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    allowed = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}
    policy = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Statement": [allowed]}))
    iam.put_role_policy(
        RoleName=name, PolicyName="s3", PolicyDocument=json.dumps({"Statement": [policy]})
    )
    iam.close()


@pytest.mark.parametrize("profile", ["default", "team"])
def test_a_profile(
    server: S3Server, profile: str, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    (home / "credentials").write_text(
        f"[{profile}]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
    )
    section = profile if profile == "default" else f"profile {profile}"
    (home / "config").write_text(
        f"[{section}]\nregion = us-east-1\nendpoint_url = {server.endpoint}\n"
    )
    if profile != "default":
        monkeypatch.setenv("AWS_PROFILE", profile)
    works(server)


def test_a_profile_with_a_wrong_secret(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    reach(seaweedfs, monkeypatch)
    secret = "secret-canary-4711"
    (home / "credentials").write_text(
        f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={secret}\n"
    )
    with pytest.raises(StorageUnavailableError, match="403 SignatureDoesNotMatch") as caught:
        open_store(seaweedfs.fresh_url()).get(KEY)
    assert secret not in str(caught.value)


def test_a_profile_that_assumes_a_role(
    ministack: S3Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    reach(ministack, monkeypatch)
    make_role(ministack, "cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", ministack.endpoint)
    monkeypatch.setenv("AWS_PROFILE", "role")
    (home / "config").write_text(
        f"[profile keys]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
        "[profile role]\nsource_profile=keys\nrole_arn=arn:aws:iam::000000000000:role/cache\n"
    )
    works(ministack)


def test_credentials_of_a_container(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As EKS Pod Identity gives them."""
    reach(seaweedfs, monkeypatch)
    token = tmp_path / "token"
    token.write_text("token-of-the-pod")
    given = {
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "Token": "",
        "Expiration": EXPIRES,
    }
    with serving(lambda _: Reply(200, json.dumps(given).encode())) as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
        works(seaweedfs)
    assert {request.headers["authorization"] for request in agent.requests} == {"token-of-the-pod"}


def test_web_identity(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As EKS gives it to the service account of a pod: STS changes its token for keys."""
    reach(seaweedfs, monkeypatch)
    authority = make_authority(tmp_path / "ca")
    token = tmp_path / "token"
    token.write_text("token-of-the-account")
    given = (
        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
        f"<AccessKeyId>{ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SECRET_KEY}</SecretAccessKey>"
        f"<SessionToken></SessionToken><Expiration>{EXPIRES}</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    ).encode()
    asked: list[bytes] = []

    def sts(connection: Connection) -> None:
        while head := connection.head():
            asked.append(head[0])
            length = b"Content-Length: %d\r\n\r\n" % len(given)
            connection.answer(b"HTTP/1.1 200 OK\r\n" + length + given)

    with raw_server(sts, authority.server) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.certificate))
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/cache")
        works(seaweedfs)
        monkeypatch.delenv("AWS_CA_BUNDLE")
        with pytest.raises(StorageUnavailableError, match=r"no AWS credentials.*STS") as caught:
            open_store(seaweedfs.fresh_url()).get(KEY)
    assert "token-of-the-account" not in str(caught.value)
    assert all(b"WebIdentityToken=token-of-the-account" in line for line in asked)


def test_credentials_of_an_instance(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(seaweedfs, monkeypatch)
    given = {
        "Code": "Success",
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "Token": "",
        "Expiration": EXPIRES,
    }

    def answer(request: Request) -> Reply:
        if request.method == "PUT":
            return Reply(200, b"token-of-the-instance")
        if request.path.endswith("/security-credentials/"):
            return Reply(200, b"role")
        return Reply(200, json.dumps(given).encode())

    with serving(answer) as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url)
        works(seaweedfs)
    assert metadata.requests[-1].path.endswith("/security-credentials/role")


def test_metadata_that_knows_no_role(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(seaweedfs, monkeypatch)
    with serving(lambda _: Reply(404, b"not here")) as metadata:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", metadata.url)
        with pytest.raises(StorageUnavailableError, match=r"no AWS credentials: .*404"):
            open_store(seaweedfs.fresh_url()).get(KEY)
