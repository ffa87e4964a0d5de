"""The HTTP client behind the index and the objects.

The token goes into one header and nowhere else: not into a repr, an error or a log line. Nor does
the query of a URL: that of a presigned one is as good as a credential.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from aotcache import __version__
from aotcache.errors import (
    FormatError,
    RemoteError,
    UnavailableError,
    UsageError,
    VersionError,
    error_classes,
)
from aotcache.net.connections import Origin, Pool, origin
from aotcache.net.tracing import trace_headers
from aotcache.protocol.decoding import decode_json
from aotcache.protocol.names import REQUEST_ID
from aotcache.protocol.text import printable

if TYPE_CHECKING:
    from aotcache.protocol.v1.problem import Problem

logger = logging.getLogger(__name__)

MISS = "miss"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
RETRIES = 3
_PAUSE = 0.2  # seconds, doubled for each try; the second one comes at once

# A PUT is put-if-absent: sent twice it stores once, and the second answer says `object_exists`.
_REPEATABLE = ("GET", "HEAD", "PUT")
_BUSY = (502, 503, 504)
_TOO_MANY = 429  # what is answered so was not done
# Never as long as a server likes: a start that waits is worse off than a compile.
_LONGEST = 2.0
_MAX_TOKEN = 4096
_MAX_MESSAGE = 4096  # characters
_TOKEN = re.compile(r"[\x21-\x7e]+")
# What may stand in the path and query of a request as it is, beside letters and digits (RFC 3986).
_PLAIN = "%/:?@!$&'()*+,;=[]"

Reply = TypeVar("Reply")
Missed = TypeVar("Missed")


class Answer(msgspec.Struct, frozen=True):
    """What came back, whatever its status. url: that was asked, for messages. headers: by name in
    lower case."""

    method: str
    url: str
    status: int
    headers: Mapping[str, str]
    data: bytes
    request: str

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def problem(self) -> Problem | None:
        """The Problem in the body of an answer that is not a 2xx; None: there is none to read."""
        if self.ok:
            return None
        from aotcache.protocol.v1.problem import Problem

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
        said = printable(problem.message[:_MAX_MESSAGE])
        if self.status == 404 and problem.code == RemoteError.code:
            # Services of before the code `version` said no more of a path that they did not know.
            raise VersionError(
                f"{said} If it is, the service is older than this client, aotcache "
                f"{__version__}: upgrade the service"
            )
        # A code that this version does not know comes from a newer service.
        found = error_classes().get(problem.code, RemoteError)
        if self.status >= 500:
            raise found(f"{said} (request {self.request})")
        raise found(said)

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


class HttpClient:
    """Thread-safe pool of connections to the service at `url`.

    Timeouts are seconds. GET, HEAD and PUT are tried again after connection errors and after
    502, 503 and 504; a PUT that had arrived the first time then answers `object_exists`. All are
    after 429.
    Proxies come from the environment; REQUESTS_CA_BUNDLE and SSL_CERT_FILE name trusted CAs.
    token_file: where the token is read with each call, as those of Kubernetes are replaced while
    a process runs. Raises UsageError for a URL or token that cannot be used.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        token_file: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        read_seconds: float = READ_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        to, self._path = _parsed(url)
        self.url = url.rstrip("/")
        self._headers = {
            "User-Agent": f"aotcache/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        self._token = _checked(token, "AOTCACHE_TOKEN") if token else ""
        self._token_file = token_file
        self._retries = retries
        # In each of its requests: whoever reads both logs finds what belongs together.
        self._id, self._number = os.urandom(6).hex(), itertools.count(1)
        self._process = os.getpid()
        self._pool = Pool(to, connect_seconds, read_seconds)

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
        asked = query if isinstance(query, str) else urlencode(query or {})
        target = quote(f"{self._path}{path}?{asked}" if asked else self._path + path, _PLAIN)
        sized = {"Content-Length": str(len(data))} if data is not None else {}
        repeatable = repeat or method in _REPEATABLE
        # A POST that may arrive twice: not often, as each try may take the whole read timeout; once
        # more after an answer, as a balancer may need a moment to see that a replica is gone.
        again = self._retries if method in _REPEATABLE else int(repeat)
        busy = max(again, min(self._retries, 2 * repeat))
        # A process that was forked counts on from where it was: its numbers are its own.
        forked = f"{os.getpid()}-" if os.getpid() != self._process else ""
        request = f"{self._id}-{forked}{next(self._number)}"
        sized |= {REQUEST_ID: request, **trace_headers()}
        failure: OSError | None = None
        reason, asked_to_wait = "", 0.0
        for number in range(1 + self._retries):
            if number:
                usual = _PAUSE * 2 ** (number - 1) if number > 1 else 0.0
                time.sleep(max(usual, asked_to_wait))
                logger.debug("%s %s%s again (%s): %s", method, self.url, path, request, reason)
            asked_to_wait = 0.0
            try:
                received = self._pool.exchange(
                    method,
                    target,
                    {**self._headers, **self._authorization(), **sized, **(headers or {})},
                    data or b"",
                    repeatable=repeatable,
                )
            except OSError as error:
                failure, reason = error, f"{type(error).__name__}: {error}"
                if number < again:
                    continue
                break
            tries = busy if received.status in _BUSY else self._retries
            if received.status in (*_BUSY, _TOO_MANY) and number < tries:
                reason = f"answered {received.status}"
                asked_to_wait = _asked_to_wait(received.headers)
                continue
            url = self.url + path
            return Answer(method, url, received.status, received.headers, received.data, request)
        raise UnavailableError(
            f"no answer from {self.url} ({method} {path}: {reason}): "
            "check that it runs and can be reached from here"
        ) from failure

    def _authorization(self) -> dict[str, str]:
        token = self._token
        if self._token_file:
            try:
                with open(self._token_file, encoding="latin-1") as file:
                    token = _checked(file.read(_MAX_TOKEN).strip(), self._token_file)
            except OSError as error:
                raise UsageError(
                    f"cannot read the token file {self._token_file}: {error.strerror}"
                ) from error
        return {"Authorization": f"Bearer {token}"} if token else {}

    def prepare(self) -> None:
        """Begin to connect: a request is about to come. Waits for the name alone."""
        self._pool.prepare()

    def close(self) -> None:
        self._pool.close()


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds until another try, drawn: those who were refused together do not come back so."""
    asked = headers.get("retry-after", "")
    if not asked.isdecimal():
        return 0.0
    return min(float(asked[:9]), _LONGEST) * (0.5 + os.urandom(1)[0] / 512)


def _checked(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"the token has characters that no token has, or none: check {where}")
    return token


def _parsed(url: str) -> tuple[Origin, str]:
    """Whom to ask, and the path that all paths follow."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        usable = host and host.isprintable() and " " not in host and parts.port != 0
        known = parts.scheme in ("http", "https")
        to = origin(parts.scheme, host, parts.port) if known and usable else None
    except ValueError:
        raise UsageError("the service's URL cannot be read: http://host:port") from None
    if parts.username is not None or parts.password is not None:
        # Not quoted back: it holds a password.
        raise UsageError("the service's URL holds a user or password: give a token instead")
    if to is None or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is not the URL of a service: http://host:port")
    return to, parts.path.rstrip("/")
