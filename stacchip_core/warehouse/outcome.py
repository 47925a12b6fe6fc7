"""What a failed storage operation means, whichever library reported it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping
from enum import Enum

# S3 error codes, where they say more than the HTTP status. Source: Amazon S3 API reference, "Error responses";
# Azure: "Blob service error codes".
_EXISTS_CODES = frozenset({"PreconditionFailed", "BlobAlreadyExists"})
_TRANSIENT_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "OperationAborted",
        "SlowDown",
        "RequestTimeout",
        "InternalError",
        "ServiceUnavailable",
        "NoSuchUpload",
    }
)
_REFUSED_CODES = frozenset({"NoSuchBucket", "NotImplemented"})
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_TRANSIENT_ERRNOS = frozenset({errno.EIO, errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE, errno.EINTR})
# Failures to get any answer; their libraries are loaded wherever they can be raised.
_TRANSIENT_CLASSES = {
    "botocore.exceptions": ("HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseParserError"),
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("ServiceRequestError", "ServiceResponseError"),
}


class Outcome(Enum):
    """What the store said, or did not say."""

    EXISTS = "exists"  # an exclusive create found the key taken
    MISSING = "missing"
    TRANSIENT = "transient"  # it may have happened or not, and may work later
    REFUSED = "refused"
    IN_THE_WAY = "in the way"  # a folder stands where the object should


def outcome_of(error: BaseException) -> Outcome:
    """Read an error by its HTTP status and error code; by its Python class only where there was no HTTP answer.

    The class alone misleads: s3fs reports a lost create as FileExistsError or as OSError(EINVAL), depending on one
    field of the server's XML, and a bucket that is not there as FileNotFoundError.
    """
    for link in _chain(error):
        status, code = _http_answer(link)
        if status is not None or code:
            return _by_answer(status, code)
    return _by_class(error)


def is_past_the_end(error: BaseException) -> bool:
    """Whether a range was asked for that begins where the object has ended."""
    return any(_http_answer(link)[0] == 416 for link in _chain(error))


def explain(error: BaseException) -> str:
    """The server's status and code where there are any, then the message, on one line."""
    answers = [_http_answer(link) for link in _chain(error)]
    found = next(((status, code) for status, code in answers if status is not None or code), None)
    message = " ".join(str(error).split()) or type(error).__name__
    return message if found is None else f"{' '.join(str(part) for part in found if part)}: {message}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _http_answer(error: BaseException) -> tuple[int | None, str]:
    """(status, error code) as botocore, aiohttp, gcsfs and Azure attach them; (None, "") where there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status, str(response.get("Error", {}).get("Code", ""))
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and 100 <= status <= 599:
            return status, str(getattr(error, "error_code", None) or "")
    return None, ""


def _by_answer(status: int | None, code: str) -> Outcome:
    if status == 412 or code in _EXISTS_CODES:
        return Outcome.EXISTS
    if code in _REFUSED_CODES:
        return Outcome.REFUSED
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUSES:
        return Outcome.TRANSIENT
    return Outcome.MISSING if status == 404 or code in ("NoSuchKey", "404") else Outcome.REFUSED


def _by_class(error: BaseException) -> Outcome:
    if isinstance(error, FileExistsError):
        return Outcome.EXISTS
    if isinstance(error, FileNotFoundError):
        return Outcome.MISSING
    if isinstance(error, IsADirectoryError):
        return Outcome.IN_THE_WAY
    links = list(_chain(error))
    if any(isinstance(link, (TimeoutError, ConnectionError, *_transient_classes())) for link in links):
        return Outcome.TRANSIENT
    is_transient = any(isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNOS for link in links)
    return Outcome.TRANSIENT if is_transient else Outcome.REFUSED


def _transient_classes() -> Iterator[type[BaseException]]:
    for module, names in _TRANSIENT_CLASSES.items():
        for name in names:
            found = getattr(sys.modules.get(module), name, None)
            if isinstance(found, type) and issubclass(found, BaseException):
                yield found
