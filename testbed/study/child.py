"""One run of a study as a process: the command `splitcom`, which ends when its standard input closes.

So a run ends with its study however that ends, also by a signal that cannot be caught.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from broker.program import INTERRUPTED
from testbed.__main__ import main

PATIENCE_S = 10.0


def _watch() -> None:
    """Interrupt this process when its parent is gone, and insist when that takes too long."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE_S)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    threading.Thread(target=_watch, daemon=True).start()
    main(prog_name="splitcom")
