"""How many files a run with links needs to have open at once, and that it may: 1024 is what many systems begin with."""

from __future__ import annotations

import os
import resource

from testbed.links.errors import LinkError

# Of a client in any one process, at most. Here: a namespace's netlink while links are made, later an agent's two pipes
# and what waits for its end. In the process that measures: two sockets; in the proxy: one that listens, and two ends.
PER_CLIENT = 3
SPARE = 64


def reserve(clients: int) -> None:
    """Let this process, and those that it starts from now on, have as many files open as so many clients need.

    LinkError where the system does not allow it.
    """
    needed = len(os.listdir("/dev/fd")) + PER_CLIENT * clients + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LinkError(
            f"links of {clients} clients need {needed} open files, and `ulimit -Hn` is {hard}; "
            f"valid: `ulimit -n {needed}` as root before, or fewer clients"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
