"""Becomes HAProxy, which is then ended by the kernel should the process that started it die.

Run as a script: ``launcher.py <id of the parent> <program> <argument> ...``. It is a process of its own
because code between fork and exec is not safe in a parent with threads, such as one that runs Ray.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Never returns."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
