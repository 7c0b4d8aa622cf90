"""Where work is executed and remembered: workers, progress, and the store that makes runs resumable."""

from carbide.run.current import Run, cores, current, hands, remember, spread, track, use
from carbide.run.memory import halving, rows_at_once
from carbide.run.progress import Progress
from carbide.run.store import Store, write_named, write_whole

__all__ = [
    "Progress",
    "Run",
    "Store",
    "cores",
    "current",
    "halving",
    "hands",
    "remember",
    "rows_at_once",
    "spread",
    "track",
    "use",
    "write_named",
    "write_whole",
]
