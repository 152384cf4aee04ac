"""Records that consumers pass over as they can't be read, told once per batch: a stranger may write a million."""

from gate.log import get_logger

log = get_logger("gate.connect")


class Faults:
    """Records of a batch that are passed over: told once, however many they are."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._first: tuple[int, str] | None = None
        self._count = 0

    def add(self, offset: int, why: str) -> None:
        """Take in that a record is passed over."""
        self._first = self._first or (offset, why)
        self._count += 1

    def tell(self) -> None:
        """Log the first one, and how many there are."""
        if self._first is not None:
            offset, why = self._first
            log.warning(
                "a record that can't be read is passed over", partition=self._place, offset=offset,
                records=self._count, why=why,
            )  # fmt: skip
