"""What the AWS environment says: endpoint, region, trusted CAs, credentials.

obstore reads static keys, web identity, container and instance metadata itself. Profiles are
botocore's, which is imported where one may be needed and no earlier.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from aotcache.errors import StorageUnavailableError, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Credential

_CREDENTIALS = ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
_CONFIG = ("AWS_CONFIG_FILE", "~/.aws/config")
# Where obstore finds credentials without looking at files.
_ELSEWHERE = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# botocore renews what is about to expire, so that what it gives lasts longer than this.
_ASK_AGAIN = timedelta(minutes=10)
_NONE_FOUND = (
    "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
)


class Environment(msgspec.Struct, frozen=True):
    """How the standard AWS environment leads to a bucket.

    in_host: the endpoint's host names the bucket. certificates: PEM to trust beside the system's.
    credentials: to ask instead of obstore's own ways. unread: what to say of files that hold
    perhaps the credentials, and need botocore to be read; else empty.
    """

    endpoint: str
    region: str
    in_host: bool
    certificates: bytes | None
    credentials: Callable[[], S3Credential] | None
    unread: str


def aws_environment(bucket: str) -> Environment:
    """Raises UsageError for files that cannot be read, and for a profile without botocore."""
    profile = _profile()
    region = _variable("AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region") or "us-east-1"
    endpoint = _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or profile.get("endpoint_url")
    # TLS certificates of AWS are good for one name below the region's.
    in_host = not endpoint and "." not in bucket
    if not endpoint:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = f"https://{f'{bucket}.' if in_host else ''}s3.{region}.{domain}"
    credentials, unread = _credentials(region)
    return Environment(
        endpoint=endpoint,
        region=region,
        in_host=in_host,
        certificates=_certificates(_variable("AWS_CA_BUNDLE") or profile.get("ca_bundle", "")),
        credentials=credentials,
        unread=unread,
    )


def _variable(*names: str) -> str:
    """The first of them that says anything."""
    return next((value for name in names if (value := os.environ.get(name))), "")


def _path(place: tuple[str, str]) -> str:
    variable, usual = place
    return os.path.expanduser(os.environ.get(variable) or usual)


def _profile() -> Mapping[str, str]:
    """The settings of the profile in use; empty without a file."""
    path = _path(_CONFIG)
    if not os.path.exists(path):
        return {}
    name = _variable("AWS_PROFILE", "AWS_DEFAULT_PROFILE") or "default"
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {type(error).__name__}") from None
    for section in (f"profile {name}", name):
        if parser.has_section(section):
            return dict(parser[section])
    return {}


def _certificates(path: str) -> bytes | None:
    if not path:
        return None
    try:
        with open(os.path.expanduser(path), "rb") as file:
            found = file.read()
    except OSError as error:
        raise UsageError(
            f"AWS_CA_BUNDLE: {path} cannot be read ({error.strerror}): name a PEM file"
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in found:
        raise UsageError(f"AWS_CA_BUNDLE: {path} holds no certificate: name a PEM file")
    return found


def _credentials(region: str) -> tuple[Callable[[], S3Credential] | None, str]:
    """Whom obstore asks in place of its own ways, and what to say where none of them helps."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return None, ""
    named = _variable("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
    files = [path for place in (_CREDENTIALS, _CONFIG) if os.path.exists(path := _path(place))]
    if (named or files) and find_spec("botocore"):
        return ProfileCredentials(region), ""
    if named:
        raise UsageError(f"the AWS profile {named!r} needs botocore to be read: {_INSTALL}")
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" and not _variable(
        *_ELSEWHERE
    ):
        return _no_credentials, _unread(files)
    return None, _unread(files)


_INSTALL = "pip install botocore"


def _unread(files: list[str]) -> str:
    return f"; {' and '.join(files)} need botocore to be read: {_INSTALL}" if files else ""


def _no_credentials() -> S3Credential:
    raise StorageUnavailableError(_NONE_FOUND)


class ProfileCredentials:
    """Whatever botocore finds, as the other tools of AWS do: keys of a profile, an assumed role,
    SSO, a process, and what obstore would look for itself. Nothing is asked before the first call.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._lock = Lock()
        self._found: Any = None

    def __call__(self) -> S3Credential:
        from botocore.exceptions import (  # type: ignore[import-untyped]
            BotoCoreError,
            ClientError,
        )

        try:
            with self._lock:
                if self._found is None:
                    self._found = self._find()
                keys = self._found.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise StorageUnavailableError(f"no AWS credentials: {error}") from error
        return {
            "access_key_id": keys.access_key,
            "secret_access_key": keys.secret_key,
            "token": keys.token,
            "expires_at": datetime.now(timezone.utc) + _ASK_AGAIN,
        }

    def _find(self) -> Any:
        import botocore.session  # type: ignore[import-untyped]

        session = botocore.session.Session()
        # botocore itself reads only AWS_DEFAULT_REGION, every other AWS tool AWS_REGION too.
        session.set_config_variable("region", self._region)
        found = session.get_credentials()
        if found is None:
            raise StorageUnavailableError(_NONE_FOUND)
        return found
