"""Timestamped webhook signatures, `t=<seconds>,v1=<hex>[,v1=…]`, as Stripe made them common."""

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta

from services.payments.providers.base import ForgedWebhook

TOLERANCE = timedelta(seconds=300)
LONGEST_STAMP = len("9999999999")


def verify_signature(header: str, body: bytes, *, secrets: Sequence[str], now: datetime) -> None:
    """Check the HMAC-SHA-256 over `t.body` by any of the secrets. Raises `ForgedWebhook`.

    Several secrets hold while one is being replaced. A timestamp from the future is refused as
    one from the past is.
    """
    parts = [part.strip().partition("=")[::2] for part in header.split(",")]
    stamp = next((value for name, value in parts if name == "t"), "")
    if not (stamp.isascii() and stamp.isdigit()) or len(stamp) > LONGEST_STAMP:
        raise ForgedWebhook("The webhook carries no usable signature.")
    if abs(now.timestamp() - int(stamp)) > TOLERANCE.total_seconds():
        raise ForgedWebhook("The webhook's signature is too old.")
    signed = f"{stamp}.".encode() + body
    given = [value.encode() for name, value in parts if name == "v1"]
    for secret in secrets:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        if any(hmac.compare_digest(expected, value) for value in given):
            return
    raise ForgedWebhook("The webhook's signature does not fit its body.")
