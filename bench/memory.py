"""Where benchmarks keep their files."""

import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 8 << 30  # bytes


def use_memory() -> None:
    """Keep temporary folders, the broker's data too, in memory if there is room: the disk is not what is measured.

    Kafka maps two index files per partition; with thousands of partitions a first write to each waits for the disk, and
    batches stand for seconds.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM:
        tempfile.tempdir = str(MEMORY)
