"""What a cloud, or the way to it, said no with, in words that may be shown.

obstore's exceptions quote whole answers, and S3 and Azure quote in some of them what was signed, on
S3 a session token among it. So none of them gets any further, not as a cause either.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, UnauthenticatedError

from aotcache.storage.cloud import Cloud

T = TypeVar("T")

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
# XML is storage's, JSON that of whoever gives out tokens.
_MESSAGE = re.compile(
    r'<Message>([^<\n]{1,300})|"(?:message|error_description)":\s*"([^"\\]{1,300})'
)
# One of several that Azure deletes in a request; it has no other answer of its own.
_IN_BULK = re.compile(r"Bulk delete request failed for key \S+: (.{1,300}) \(code: (\d{3})\)")
_URL = re.compile(r"Error performing [A-Z]+ (\S+)")
_QUERY = re.compile(r"\?[^\s\"'<>]*")
_PROVIDER = "External AWS credential provider: "
# The innermost of the errors in each other that the debug form shows, which comes last.
_REASON = re.compile(
    r'(?<!store: )"([^"\n]+)"'
    r"|(?:source|error): ([A-Z]\w+(?:\(\s*\w+)?)"
    r"|hyper::Error\(\s*(\w+)"
)


class Refusal(Exception):
    """status: of the answer; 0 where there was none. code: the cloud's word for it, or empty.

    credentials: there were none to ask with.
    """

    def __init__(
        self, said: str, status: int = 0, code: str = "", *, credentials: bool = False
    ) -> None:
        super().__init__(said)
        self.status = status
        self.code = code
        self.credentials = credentials


def asked(cloud: Cloud, function: Callable[[], T]) -> T:
    """What it returns. Raises Refusal in place of any error of obstore."""
    try:
        return function()
    except (BaseError, FileNotFoundError) as error:
        refusal = _refusal(cloud, error)
    except BaseException as error:
        # A panic in Rust is no Exception: of a header or an address that cannot be.
        if type(error).__name__ != "PanicException":
            raise
        refusal = Refusal(
            f"no request can be made of these settings ({str(error)[:100]}): look for stray "
            "characters in the endpoint and the credentials"
        )
    raise refusal


def _refusal(cloud: Cloud, error: Exception) -> Refusal:
    shown, _, debug = str(error).partition("\n\nDebug source:")
    line = _QUERY.sub("?…", shown.split("\n", 1)[0])
    if isinstance(error, UnauthenticatedError) and _PROVIDER in line:
        # The class of our own error comes first.
        return Refusal(line.split(_PROVIDER)[1].split(": ", 1)[-1], credentials=True)
    status, code, said = _answer(shown)
    url = _URL.search(line)
    if url and _asks_for_credentials(cloud, line, url[1]):
        # Without a URL, as it would hold a token, it is STS.
        whence = urlsplit(url[1]).hostname or "STS"
        return Refusal(
            f"no {cloud.vendor} credentials: none in the environment, and {whence} gave none "
            f"({said or _reason(debug) or line})",
            credentials=True,
        )
    if status:
        return Refusal(f"{cloud.name} answered {said}", status, code)
    if "redirect without LOCATION" in line:
        return Refusal("the bucket is in another region: set AWS_REGION to its region", 301)
    if "HTTP error" in line:
        return Refusal(f"no whole answer from {cloud.endpoint}: {_reason(debug) or line}")
    return Refusal(f"{line}: {_reason(debug)}" if "builder error" in line else line)


def _asks_for_credentials(cloud: Cloud, line: str, url: str) -> bool:
    if cloud.names_token_requests:
        return "token request" in line
    return not url.lower().startswith(cloud.endpoint.rstrip("/").lower())


def _answer(shown: str) -> tuple[int, str, str]:
    """Status, code and all of it that may be shown; zero and empty where there was no answer."""
    if bulk := _IN_BULK.search(shown):
        return int(bulk[2]), "", f"{bulk[2]} {bulk[1]}"
    status, code, message = (found.search(shown) for found in (_STATUS, _CODE, _MESSAGE))
    if not status:
        return 0, "", ""
    words = " ".join(
        found[found.lastindex or 0].strip() for found in (status, code, message) if found
    )
    return int(status[1]), code[1] if code else "", unescape(words).rstrip(".")


def _reason(debug: str) -> str:
    """Such as `connection refused`, or `invalid certificate: unknown issuer` for what is
    `InvalidCertificate(UnknownIssuer` there; empty when there is none."""
    found = _REASON.findall(debug)
    if not found:
        return ""
    quoted, named, hyper = found[-1]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", named or hyper)
    return _QUERY.sub("?…", quoted) or re.sub(r"\(\s*", ": ", words).lower()
