"""Every error aotcache raises, one tree:

    AotcacheError                  the message says what happened, to which tree, what to do
    ├── UsageError                 what was asked for cannot be done as asked
    ├── InvalidNameError           a namespace, layout, hash, part, path or key of the wrong form
    ├── FormatError                bytes that are not what docs/format.md says
    │   ├── ManifestError          a manifest that cannot be read or breaks a rule of the format
    │   ├── PackError              a frame that does not give the blob it should
    │   └── RelocationError        an absolute path that does not point inside the tree
    ├── TrustError                 a part whose manifest the trust policy does not accept
    ├── LeakError                  a secret in what was about to be published
    ├── StorageError               object storage did not do what was asked
    │   ├── ObjectMissingError     there is no such object
    │   ├── ObjectExistsError      put-if-absent found an object of that name
    │   └── StorageUnavailableError  no answer, no permission, no space: nothing is known
    ├── RemoteError                the service did not do what was asked
    │   ├── UnavailableError       no answer, or one that is not the service's
    │   ├── UnauthenticatedError   no token, or one that is unknown, revoked or expired
    │   ├── ForbiddenError         the token does not allow it: another scope, another namespace
    │   ├── RateLimitedError       more requests than this token may make
    │   ├── VersionError           client and service are too far apart: which one to upgrade
    │   ├── NotFoundError          no tree or session of that name (a miss is not an error)
    │   ├── GenerationTakenError   another publisher committed this generation: rebase
    │   ├── SessionExpiredError    the publish session is over, its packs may be gone
    │   ├── PinnedError            a tree is pinned: it is not deleted
    │   ├── BusyError              a job that runs once at a time is under way
    │   └── CondemnedError         a pack of the commit is missing or being deleted
    └── LocalError                 this machine's disk did not do what was asked
        └── NotSettledError        the tree is still being written

`code` is the machine-readable name that travels in HTTP bodies.
"""

from __future__ import annotations

from typing import ClassVar


class AotcacheError(Exception):
    code: ClassVar[str] = "error"


class UsageError(AotcacheError):
    code = "usage"


class InvalidNameError(AotcacheError, ValueError):
    """Also a ValueError: msgspec and pydantic report it as a field that failed validation."""

    code = "invalid_name"


class FormatError(AotcacheError):
    code = "bad_format"


class ManifestError(FormatError):
    code = "bad_manifest"


class PackError(FormatError):
    code = "bad_pack"


class RelocationError(FormatError):
    code = "bad_relocation"


class TrustError(AotcacheError):
    code = "untrusted"


class LeakError(AotcacheError):
    code = "leak"


class StorageError(AotcacheError):
    code = "storage"


class ObjectMissingError(StorageError):
    code = "object_missing"


class ObjectExistsError(StorageError):
    code = "object_exists"


class StorageUnavailableError(StorageError):
    code = "storage_unavailable"


class RemoteError(AotcacheError):
    code = "remote"


class UnavailableError(RemoteError):
    code = "unavailable"


class UnauthenticatedError(RemoteError):
    code = "unauthenticated"


class ForbiddenError(RemoteError):
    code = "forbidden"


class RateLimitedError(RemoteError):
    code = "rate_limited"


class VersionError(RemoteError):
    code = "version"


class NotFoundError(RemoteError):
    code = "not_found"


class GenerationTakenError(RemoteError):
    code = "generation_taken"


class SessionExpiredError(RemoteError):
    code = "session_expired"


class PinnedError(RemoteError):
    code = "pinned"


class BusyError(RemoteError):
    code = "busy"


class CondemnedError(RemoteError):
    code = "condemned"


class LocalError(AotcacheError):
    code = "local"


class NotSettledError(LocalError):
    code = "not_settled"


def error_classes() -> dict[str, type[AotcacheError]]:
    """Every class of the tree by its code: how a client turns an HTTP body back into an error."""
    found: dict[str, type[AotcacheError]] = {}
    todo: list[type[AotcacheError]] = [AotcacheError]
    while todo:
        cls = todo.pop()
        found[cls.code] = cls
        todo.extend(cls.__subclasses__())
    return found
