"""The token that callers of a sidecar must show."""

import hmac


class Token:
    """A secret, compared in constant time; None lets everybody in."""

    def __init__(self, token: str | None) -> None:
        self._wanted = None if token is None else f"Bearer {token}".encode()

    def fits(self, given: str | bytes | None) -> bool:
        """Tell whether an `authorization` shows it."""
        if self._wanted is None:
            return True
        shown = given.encode() if isinstance(given, str) else given or b""
        return hmac.compare_digest(shown, self._wanted)
