"""`POST /v1/presign`: URLs by which a node reads and writes packs straight in object storage.

Each is for one pack and one method, and for a short time. Manifests are not asked for: the service
checks them on their way. A pack's checksum is in its name, so that a URL to write one takes those
bytes and no others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aotcache.errors import UsageError
from aotcache.protocol.names import MAX_OBJECT, parse_pack_key

MAX_URLS = 1000  # in one call


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPack:
    """A pack that is about to be put, under a publish id whose session is open. size: in bytes."""

    key: str
    size: int

    def __post_init__(self) -> None:
        parse_pack_key(self.key)
        if not 0 < self.size <= MAX_OBJECT:
            raise UsageError(f"{self.key}: a pack has 1 to {MAX_OBJECT} bytes, not {self.size}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Presign:
    """read: object keys of packs; whether they exist is not looked at."""

    read: tuple[str, ...] = ()
    write: tuple[NewPack, ...] = ()

    def __post_init__(self) -> None:
        for key in self.read:
            parse_pack_key(key)
        if len(self.read) + len(self.write) > MAX_URLS:
            raise UsageError(f"at most {MAX_URLS} URLs are signed at a time: ask in parts")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedUrl:
    """headers: signed as well, to be sent as they are. Whoever has the URL can use it, so it is in
    no repr."""

    url: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Presigned:
    """In the order of what was asked for. seconds: they are good for, from now; 0: this service's
    storage is reached through the service only, and nothing is signed."""

    read: tuple[SignedUrl, ...] = ()
    write: tuple[SignedUrl, ...] = ()
    seconds: int = 0
