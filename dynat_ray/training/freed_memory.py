"""What a training process on a CPU is started with, so that it keeps the memory that it frees."""

from __future__ import annotations

# glibc hands the memory of large tensors back at once, and every new one faults its pages in again:
# a fourteenth of a step. These environment variables, which it reads when a process starts, let it
# keep 2 GiB, of blocks up to 32 MiB (its limit).
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
