"""Text that came over the wire, made safe and short for a terminal."""

from datetime import UTC, datetime


def printable(text: str, limit: int | None = None) -> str:
    """Escape what would move the cursor, change colours or break the line; cut what is longer than `limit`."""
    shown = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def timestamp(time: datetime) -> str:
    """Spell a time in UTC, with milliseconds: 2025-11-24T22:58:43.456Z."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(unix_ms: int) -> str:
    """Spell unix ms like `timestamp`; what is beyond the year 9999, which no calendar here knows, as "UNIX_MS ms"."""
    try:
        return timestamp(datetime.fromtimestamp(unix_ms / 1000, UTC))
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"
