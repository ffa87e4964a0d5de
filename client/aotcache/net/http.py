"""The HTTP pool behind the index and the objects: sole importer of urllib3.

The token goes into one header and nowhere else: not into a repr, an error or a log line. Nor does
the query of a URL: that of a presigned one is as good as a credential.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import urllib3

from aotcache import __version__
from aotcache.errors import (
    FormatError,
    RemoteError,
    UnavailableError,
    UsageError,
    error_classes,
)
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.v1.problem import Problem

MISS = "miss"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRIES = 3
CONNECTIONS = 32
_PIECE = 256 << 10  # bytes of a body handed to the socket at a time

# A PUT is put-if-absent: sent twice it stores once, and the second answer says `object_exists`.
_REPEATABLE = ("GET", "HEAD", "PUT")
_TOKEN = re.compile(r"[\x21-\x7e]+")
_SIGNED_QUERY = re.compile(r"\?\S*X-Amz-Signature=\S*")

Reply = TypeVar("Reply")
Missed = TypeVar("Missed")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status. url: that was asked, for messages."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def problem(self) -> Problem | None:
        """The Problem in the body of an answer that is not a 2xx; None: there is none to read."""
        if self.ok:
            return None
        try:
            return decode_json(self.data, Problem)
        except FormatError:
            return None

    def check(self) -> Answer:
        """This answer, if it is a 2xx. Raises the class of errors.py that the Problem names, and
        UnavailableError where nothing says that it was aotcache's service that answered."""
        if self.ok:
            return self
        problem = self.problem()
        if problem is None:
            raise UnavailableError(
                f"{self.method} {self.url} answered {self.status}{self._hint()}, not as an "
                "aotcache service does: check the URL and what stands in front of the service"
            )
        # A code that this version does not know comes from a newer service.
        raise error_classes().get(problem.code, RemoteError)(problem.message)

    def decode(self, kind: type[Reply]) -> Reply:
        try:
            return decode_json(self.data, kind)
        except FormatError as error:
            raise UnavailableError(
                f"{self.method} {self.url} answered {self.status} with a body that is not a "
                f"{kind.__name__}: check the URL, and that service and client fit together"
            ) from error

    def _hint(self) -> str:
        if 300 <= self.status < 400:
            return " (a redirect; aotcache follows none, give it the final URL)"
        return ""


class _Unsigned(logging.Filter):
    """urllib3 logs what it asks for: of a presigned URL without what makes it one."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SIGNED_QUERY.sub("?…", arg) if isinstance(arg, str) else arg for arg in record.args
            )
        return True


for _logger in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_logger).addFilter(_Unsigned())


class _Pieces:
    """A body that is sent a piece at a time, so that a timeout is one of a piece, not of it all;
    and from its start again when the call is repeated."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), _PIECE):
            yield bytes(self._data[start : start + _PIECE])


class HttpClient:
    """Thread-safe pool of connections to the service at `url`.

    Timeouts are seconds. GET, HEAD and PUT are tried again after connection errors and after
    502, 503 and 504; a PUT that had arrived the first time then answers `object_exists`.
    Proxies come from the environment; REQUESTS_CA_BUNDLE and SSL_CERT_FILE name trusted CAs.
    Raises UsageError for a URL or token that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        self.url = _checked_url(url)
        self._headers = {"User-Agent": f"aotcache/{__version__}", "Accept": "application/json"}
        if token:
            if not _TOKEN.fullmatch(token):
                raise UsageError("the token has characters that no token has: check AOTCACHE_TOKEN")
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout = urllib3.Timeout(connect=connect_seconds, read=read_seconds)
        self._again = urllib3.Retry(
            total=retries,
            redirect=False,
            allowed_methods=_REPEATABLE,
            status_forcelist=(502, 503, 504),
            backoff_factor=0.2,
            raise_on_status=False,
            # A start that waits as long as a server likes would be worse off than without a cache.
            respect_retry_after_header=False,
        )
        # A POST that may arrive twice: not often, as each try may take the whole read timeout.
        self._repeat = self._again.new(total=1, allowed_methods=None)
        self._once = urllib3.Retry(total=0, redirect=False, raise_on_status=False)
        # urllib3 sends a body under the connect timeout; how long a full server takes until it
        # reads on says nothing about whether it is there.
        self._upload = urllib3.Timeout(connect=read_seconds, read=read_seconds)
        self._pool = _pool(self.url)

    def __repr__(self) -> str:
        return f"HttpClient({self.url!r})"

    def request_json(
        self,
        method: str,
        path: str,
        body: object | None,
        reply: type[Reply],
        *,
        query: Mapping[str, str] | None = None,
        miss: type[Missed] | None = None,
        repeat: bool = False,
    ) -> Reply | Missed:
        """Send `body` (a dataclass, None for none) as JSON, decode the answer as `reply`.

        repeat: a POST that may arrive twice. miss: what a 404 with the code `miss` is decoded as,
        where the call knows one.
        Raises as `Answer.check` and `Answer.decode` do.
        """
        answer = self.send(
            method,
            path,
            None if body is None else msgspec.json.encode(body),
            query=query,
            headers=None if body is None else {"Content-Type": "application/json"},
            repeat=repeat,
        )
        if miss is not None and answer.status == 404:
            problem = answer.problem()
            if problem is not None and problem.code == MISS:
                return answer.decode(miss)
        return answer.check().decode(reply)

    def request_bytes(
        self,
        method: str,
        path: str,
        data: bytes | memoryview | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send and receive bytes as they are. Raises as `Answer.check` does."""
        return self.send(method, path, data, query=query, headers=headers).check()

    def send(
        self,
        method: str,
        path: str,
        data: bytes | memoryview | None = None,
        *,
        query: Mapping[str, str] | str | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = False,
    ) -> Answer:
        """One call; the answer of any status. query: as a text it is sent as it is.

        Raises UnavailableError when there is no answer.
        """
        url = self.url + path
        asked = query if isinstance(query, str) else urlencode(query or {})
        large = data is not None and len(data) > _PIECE
        sized = {"Content-Length": str(len(data))} if data is not None else {}
        retries = self._again if method in _REPEATABLE else self._once
        try:
            response = self._pool.request(
                method,
                f"{url}?{asked}" if asked else url,
                body=None if data is None else _Pieces(data),
                headers={**self._headers, **sized, **(headers or {})},
                timeout=self._upload if large else self._timeout,
                retries=self._repeat if repeat else retries,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = _reason(error)
        else:
            return Answer(method, url, response.status, response.headers, response.data)
        # Out here, as urllib3's error quotes the query, and would be told as the cause of this one.
        raise UnavailableError(
            f"no answer from {self.url} ({method} {path}: {reason}): "
            "check that it runs and can be reached from here"
        )

    def close(self) -> None:
        self._pool.clear()


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise UsageError("the service's URL cannot be read: http://host:port") from None
    if parts.username is not None or parts.password is not None:
        # Not quoted back: it holds a password.
        raise UsageError("the service's URL holds a user or password: give a token instead")
    if parts.scheme not in ("http", "https") or not usable or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is not the URL of a service: http://host:port")
    return url.rstrip("/")


def _pool(url: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": CONNECTIONS}
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    if bundle:
        options["ca_cert_dir" if os.path.isdir(bundle) else "ca_certs"] = bundle
    parts = urlsplit(url)
    assert parts.hostname
    proxy = None if proxy_bypass(parts.hostname) else getproxies().get(parts.scheme)
    if not proxy:
        return urllib3.PoolManager(**options)
    asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if asked.scheme not in ("http", "https"):
        raise UsageError(
            f"{parts.scheme}_proxy names a {asked.scheme} proxy: aotcache uses http and https "
            "proxies; exempt the service with no_proxy"
        )
    if asked.username:
        login = f"{unquote(asked.username)}:{unquote(asked.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
    address = f"{asked.scheme}://{asked.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(address, **options)


def _reason(error: Exception) -> str:
    """The innermost words on what went wrong, without urllib3's object reprs."""
    cause = getattr(error, "reason", None) or error
    text = str(cause).rpartition(">: ")[2]
    return f"{type(cause).__name__}: {text}"
