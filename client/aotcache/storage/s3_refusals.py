"""What S3, or the way to it, said no with, in words that may be shown.

obstore's exceptions quote whole answers, and S3 quotes in some of them what was signed, a session
token among it. So none of them gets any further, not as a cause either.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, UnauthenticatedError

T = TypeVar("T")

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})")
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
    """status: of S3's answer; 0 where there was none. code: S3's word for it, or empty.

    credentials: there were none to ask S3 with.
    """

    def __init__(
        self, said: str, status: int = 0, code: str = "", *, credentials: bool = False
    ) -> None:
        super().__init__(said)
        self.status = status
        self.code = code
        self.credentials = credentials


def asked(endpoint: str, function: Callable[[], T]) -> T:
    """What it returns. Raises Refusal in place of any error of obstore."""
    try:
        return function()
    except (BaseError, FileNotFoundError) as error:
        refusal = _refusal(endpoint, error)
    except BaseException as error:
        # A panic in Rust is no Exception: of a header or an address that cannot be.
        if type(error).__name__ != "PanicException":
            raise
        refusal = Refusal(
            f"no request can be made of these settings ({str(error)[:100]}): look for stray "
            "characters in the endpoint and the credentials"
        )
    raise refusal


def _refusal(endpoint: str, error: Exception) -> Refusal:
    shown, _, debug = str(error).partition("\n\nDebug source:")
    line = _QUERY.sub("?…", shown.split("\n", 1)[0])
    if isinstance(error, UnauthenticatedError) and _PROVIDER in line:
        # The class of our own error comes first.
        return Refusal(line.split(_PROVIDER)[1].split(": ", 1)[-1], credentials=True)
    status, code, said = _answer(shown)
    url = _URL.search(line)
    if url and not url[1].lower().startswith(endpoint.rstrip("/").lower()):
        # Without a URL, as it would hold a token, it is STS.
        whence = urlsplit(url[1]).hostname or "STS"
        return Refusal(
            f"no AWS credentials: none in the environment, and {whence} gave none "
            f"({said or _reason(debug) or line})",
            credentials=True,
        )
    if status:
        return Refusal(f"S3 answered {said}", status, code)
    if "redirect without LOCATION" in line:
        return Refusal("the bucket is in another region: set AWS_REGION to its region", 301)
    if "HTTP error" in line:
        return Refusal(f"no whole answer from {endpoint}: {_reason(debug) or line}")
    return Refusal(f"{line}: {_reason(debug)}" if "builder error" in line else line)


def _answer(shown: str) -> tuple[int, str, str]:
    """Status, code and all of it that may be shown; zero and empty where there was no answer."""
    status, code, message = (found.search(shown) for found in (_STATUS, _CODE, _MESSAGE))
    if not status:
        return 0, "", ""
    words = " ".join(found[1].strip() for found in (status, code, message) if found)
    return int(status[1]), code[1] if code else "", unescape(words).rstrip(".")


def _reason(debug: str) -> str:
    """Such as `connection refused`, or `invalid certificate: unknown issuer` for what is
    `InvalidCertificate(UnknownIssuer` there; empty when there is none."""
    found = _REASON.findall(debug)
    if not found:
        return ""
    quoted, named, hyper = found[-1]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", named or hyper)
    return str(quoted or re.sub(r"\(\s*", ": ", words).lower())
