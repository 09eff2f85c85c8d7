"""Retries of requests that the Hub cannot serve at the moment."""

import logging
import re
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx2
from huggingface_hub import get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import parse_ratelimit_headers

logger = logging.getLogger(__name__)

LONGEST_WAIT = 60.0
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
REFUSED_BY_XET = re.compile(r"HTTP status client error \((4\d\d)")


class Patience(NamedTuple):
    """How long to retry.

    attempts: number of attempts, including the first. first_wait: seconds before the second attempt, doubled each time
    up to a minute, unless the Hub names a time. silence: seconds without data until a connection is dropped.
    """

    attempts: int = 6
    first_wait: float = 1.0
    silence: float = 300.0


def with_retries(attempt, patience):
    """The result of `attempt()`, which is repeated after temporary errors and must be safe to repeat."""
    # Without a limit, the client would wait for ever.
    get_session().timeout = httpx2.Timeout(patience.silence)
    for number in range(1, patience.attempts + 1):
        try:
            return attempt()
        except Exception as error:
            if number == patience.attempts or not is_temporary(error):
                raise
            seconds = _asked_for(error)
            seconds = min(patience.first_wait * 2 ** (number - 1), LONGEST_WAIT) if seconds is None else seconds
            logger.warning(
                "The Hub cannot do it just now (%s); trying again in %g s, attempt %d of %d.",
                first_line(error),
                seconds,
                number + 1,
                patience.attempts,
            )
            time.sleep(seconds)


def is_temporary(error):
    """Whether another attempt may succeed: after server errors (5xx), rate limits, and lost connections.

    Status 412 means that another commit came in between; the next attempt starts from that commit.
    """
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in (412, 429) or status >= 500
    # The last two come from Xet, which uploads large files and reports the Hub's answer only as text.
    if isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError):
        refused = REFUSED_BY_XET.search(str(error))
        return refused is None or int(refused[1]) in (408, 429)
    return _is_wrapper(error) and is_temporary(error.__cause__)


def _is_wrapper(error):
    """Whether an error hides its cause, as errors of threaded uploads and of downloads do."""
    return isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None


def _asked_for(error):
    """Seconds to wait, from the Hub's `Retry-After` (a number or a date) or rate limit; None if not given."""
    if not isinstance(error, HfHubHTTPError):
        return None
    headers = error.response.headers
    value = headers.get("Retry-After")
    if value is None:
        limit = parse_ratelimit_headers(headers) if error.response.status_code == 429 else None
        return None if limit is None else float(limit.reset_in_seconds)
    if value.isdigit():
        return float(value)
    return max(0.0, (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds())


def first_line(error):
    """The first line of an error's message, without a token that the client may quote."""
    lines = str(error.__cause__ if _is_wrapper(error) else error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    token = get_token()
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)
