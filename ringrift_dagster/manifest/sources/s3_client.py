"""Talking to an S3 server: a client with limits, and what its failures mean.

Secrets, region and endpoint come from the environment, as boto3 reads them (`AWS_*`, `AWS_ENDPOINT_URL`); nothing here keeps any.
What is asked of a bucket is the callers' business.
"""

from __future__ import annotations

from typing import Any

from botocore import exceptions as failures
from botocore.parsers import ResponseParserError

from ringrift_dagster.manifest.inventory import NoAnswer

CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
ATTEMPTS = 2
CONNECTIONS = 16
"""Requests of one client at the same time."""

_BY_CODE = {
    "NoSuchBucket": "not_found",
    "NoSuchKey": "not_found",
    "InvalidBucketName": "not_found",
    "PermanentRedirect": "not_found",
    "ExpiredToken": "unauthorized",
    "InvalidToken": "unauthorized",
    "TokenRefreshRequired": "unauthorized",
    "AuthorizationHeaderMalformed": "unauthorized",
    "RequestTimeout": "timeout",
    "SlowDown": "server_error",
    "Throttling": "server_error",
    "TooManyRequests": "server_error",
}
_BY_STATUS = {301: "not_found", 307: "not_found", 401: "unauthorized", 403: "unauthorized", 404: "not_found", 429: "server_error"}
_BY_CLASS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((failures.ConnectTimeoutError, failures.ReadTimeoutError, TimeoutError), "timeout"),
    (
        (
            failures.NoCredentialsError,
            failures.PartialCredentialsError,
            failures.CredentialRetrievalError,
            failures.TokenRetrievalError,
            failures.SSOError,
        ),
        "unauthorized",
    ),
    ((failures.ParamValidationError,), "not_found"),
    ((ResponseParserError, failures.PaginationError), "bad_answer"),
    ((failures.SSLError, failures.ProxyConnectionError), "unreachable"),
    ((failures.ConnectionClosedError, failures.ResponseStreamingError, failures.IncompleteReadError), "server_error"),
    ((failures.EndpointConnectionError,), "unreachable"),
)

Failure = (failures.BotoCoreError, failures.ClientError, ResponseParserError)
"""What a request raises when it fails."""


def make_client(
    region: str | None = None,
    endpoint: str | None = None,
    *,
    connect_seconds: float = CONNECT_SECONDS,
    read_seconds: float = READ_SECONDS,
    attempts: int = ATTEMPTS,
    **options: Any,
) -> Any:
    """A boto3 client whose requests are bounded in time and number. `options` go to boto3 as they are.

    Checksums of boto3's own are left out unless S3 requires them: not every server knows them, and what matters here is SHA-256.
    """
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        signature_version="s3v4",  # presigned addresses too: the older form is refused by newer regions
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return Session().client("s3", region_name=region, endpoint_url=endpoint, config=config, **options)


def no_answer(location: str, error: Exception) -> NoAnswer:
    """What a failed request means for a location."""
    return NoAnswer(location, failure_code(error), f"{type(error).__name__}: {error}")


def failure_code(error: Exception) -> str:
    """One of NO_ANSWER_CODES."""
    if isinstance(error, failures.ClientError):
        status = status_of(error)
        return _BY_CODE.get(code_of(error)) or _BY_STATUS.get(status) or ("server_error" if status >= 500 else "bad_answer")
    if isinstance(error, failures.EndpointConnectionError) and "refused" in str(_cause(error)).lower():
        return "refused"
    return next((code for classes, code in _BY_CLASS if isinstance(error, classes)), "unreachable")


def status_of(error: Exception) -> int:
    """The HTTP status of a failed request; 0 if there was no answer."""
    if not isinstance(error, failures.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """The server's own word for a failure; empty if there was no answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, failures.ClientError) else ""


def _cause(error: Any) -> object:
    """What botocore wraps: whether a port is closed or a name unknown stands only there."""
    return error.kwargs.get("error") or error.__cause__ or error.__context__ or error
