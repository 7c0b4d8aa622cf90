"""Workers end with the run that they work for, even if that is killed and can say nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from carbide.run import Run, spread, use

FOLDER = sys.argv[1]

def named(item, folder=FOLDER):
    Path(folder, str(os.getpid())).touch()
    time.sleep(120)

with use(Run(workers=2)):
    spread(named, [1, 2], label="sleep")
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")
def test_workers_end_soon_after_a_killed_parent(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    marks = tmp_path / "marks"
    marks.mkdir()
    parent = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(marks)])
    until = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    workers = [int(mark.name) for mark in marks.iterdir()]
    assert len(workers) == 2
    assert all(alive(pid) for pid in workers)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 15
    while any(alive(pid) for pid in workers) and time.monotonic() < until:
        time.sleep(0.1)
    left = [pid for pid in workers if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
