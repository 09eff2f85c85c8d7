"""Trying again what the Hub cannot do just now."""

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
    """attempts: the first one included. first_wait: seconds before the second one, doubled each time up to a minute, where
    the Hub does not name a time itself. silence: seconds without a byte after which a connection counts as dropped."""

    attempts: int = 6
    first_wait: float = 1.0
    silence: float = 300.0


def with_retries(attempt, patience):
    """The result of `attempt()`, which is called again after errors that may pass; it must bear being done twice."""
    # The client would wait for ever.
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
    """Whether another attempt may succeed: after errors of the Hub (5xx), its rate limit, and lost connections.

    412 too: somebody else's commit came between; the next attempt begins from there.
    """
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in (412, 429) or status >= 500
    # The last two are those of Xet, which uploads large files; it has only text for what the Hub answered.
    if isinstance(error, httpx2.TransportError | ConnectionError | TimeoutError):
        refused = REFUSED_BY_XET.search(str(error))
        return refused is None or int(refused[1]) in (408, 429)
    return _is_wrapper(error) and is_temporary(error.__cause__)


def _is_wrapper(error):
    """Uploads in threads and downloads hide what went wrong behind an error of their own."""
    return isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None


def _asked_for(error):
    """Seconds that the Hub asks to wait, as `Retry-After` (a number or a date) or as a rate limit; None without."""
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
    """What an error says, in one line and without a token, which the client may quote."""
    lines = str(error.__cause__ if _is_wrapper(error) else error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    token = get_token()
    return TOKEN.sub("hf_***", text.replace(token, "hf_***") if token else text)
