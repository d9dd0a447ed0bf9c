"""The second signal leaves a terminal as it should be; what the first one does is in `tests/faults/test_signals.py`."""

from __future__ import annotations

import os
import pty
import subprocess
import sys


def test_leaving_at_once_shows_the_cursor_that_the_bar_has_hidden() -> None:
    program = "from pochitrain.engine.signals import leave_at_once; leave_at_once(130)"
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    try:
        assert subprocess.run([sys.executable, "-c", program], stdout=theirs, check=False).returncode == 130
        assert os.read(ours, 100) == b"\x1b[?25h\r\n"
    finally:
        os.close(ours)
        os.close(theirs)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (130, b"")
