"""What libraries raise is read by what the server answered."""

from __future__ import annotations

import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from stacchip_core.warehouse.outcome import Outcome, explain, is_past_the_end, outcome_of


def answered(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def wrapped(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


class Http(Exception):
    """As gcsfs and Azure attach their answers."""

    def __init__(self, error_code: str | None = None, **status: int) -> None:
        super().__init__("no")
        self.error_code = error_code
        self.__dict__ |= status


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (wrapped(FileExistsError(), answered(412, "PreconditionFailed")), Outcome.EXISTS),
        (wrapped(OSError(errno.EINVAL, "x"), answered(412, "PreconditionFailed")), Outcome.EXISTS),
        (wrapped(OSError(errno.EINVAL, "x"), answered(412, "")), Outcome.EXISTS),
        (wrapped(OSError(errno.EINVAL, "x"), answered(400, "InvalidArgument")), Outcome.REFUSED),
        (wrapped(OSError(errno.EIO, "x"), answered(409, "ConditionalRequestConflict")), Outcome.TRANSIENT),
        (wrapped(FileNotFoundError(), answered(404, "NoSuchUpload")), Outcome.TRANSIENT),
        (wrapped(FileNotFoundError(), answered(404, "NoSuchBucket")), Outcome.REFUSED),
        (wrapped(FileNotFoundError(), answered(404, "NoSuchKey")), Outcome.MISSING),
        (wrapped(PermissionError(), answered(403, "AccessDenied")), Outcome.REFUSED),
        (wrapped(OSError(errno.EBUSY, "x"), answered(503, "SlowDown")), Outcome.TRANSIENT),
        (wrapped(OSError(errno.EIO, "x"), answered(500, "InternalError")), Outcome.TRANSIENT),
        (answered(429, "TooManyRequests"), Outcome.TRANSIENT),
        (Http(code=412), Outcome.EXISTS),
        (Http(status_code=409, error_code="BlobAlreadyExists"), Outcome.EXISTS),
        (Http(status=503), Outcome.TRANSIENT),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1"), Outcome.TRANSIENT),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1"), Outcome.TRANSIENT),
        (NoCredentialsError(), Outcome.REFUSED),
        (TimeoutError(), Outcome.TRANSIENT),
        (ConnectionResetError(), Outcome.TRANSIENT),
        (OSError(errno.EIO, "x"), Outcome.TRANSIENT),
        (OSError(errno.ENOSPC, "x"), Outcome.REFUSED),
        (PermissionError(), Outcome.REFUSED),
        (FileExistsError(), Outcome.EXISTS),
        (FileNotFoundError(), Outcome.MISSING),
        (ValueError("x"), Outcome.REFUSED),
    ],
)
def test_an_answer_counts_before_a_class(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_a_range_past_the_end_is_known_by_its_status() -> None:
    assert is_past_the_end(wrapped(OSError(errno.EINVAL, "x"), answered(416, "InvalidRange")))
    assert is_past_the_end(Http(code=416))
    assert not is_past_the_end(wrapped(OSError(errno.EINVAL, "x"), answered(412, "PreconditionFailed")))


def test_explanations_start_with_the_answer() -> None:
    error = wrapped(OSError(errno.EIO, "went\nwrong"), answered(503, "SlowDown"))
    assert explain(error) == "503 SlowDown: [Errno 5] went wrong"
    assert explain(TimeoutError()) == "TimeoutError"
