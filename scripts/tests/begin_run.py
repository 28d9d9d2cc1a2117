#!/usr/bin/env -S python3 -B
"""Begins a run of the tests: gives it a temporary folder of its own, and leaves a guard that clears up after it.

`cargo nextest` starts this before the first test (.config/nextest.toml). The runner may be killed at any moment, and
its tests live on then, each with a process group of its own. So the guard waits for the end of the runner, kills
whatever still belongs to the run, and removes its control groups and its folder. The guard is in a session of its own
and holds nobody's output open.
"""

import os
import select
import shutil
import signal
import tempfile
import time

from run_remains import SLICE, processes, stale_groups

# How long the guard goes on killing and removing, in seconds.
CLEAR_WITHIN = 10.0


def main():
    runner = os.pidfd_open(os.getppid())
    folder = tempfile.mkdtemp(prefix="hr-")
    # The tests start servers as other users, who may use it as they may use /tmp.
    os.chmod(folder, 0o1777)
    with open(os.environ["NEXTEST_ENV"], "a", encoding="utf-8") as variables:
        variables.write(f"TMPDIR={folder}\n")
    if os.fork() == 0:
        become_guard()
        ended = select.poll()
        ended.register(runner, select.POLLIN)
        ended.poll()
        clear(folder)


def become_guard():
    """Leaves the runner's session, and lets go of its output."""
    os.setsid()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.chdir("/")


def clear(folder):
    """Removes all that is left of a run, until nothing is or the time is over."""
    end = time.monotonic() + CLEAR_WITHIN
    while os.path.exists(folder) and time.monotonic() < end:
        left = processes(folder)
        for pid in left:
            kill(pid)
        # By whichever run they were made: tests of others that run keep theirs.
        groups = [path for path in stale_groups() if not removed(path)]
        if not left and not groups:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)
    try:
        os.rmdir(SLICE)
    except OSError:
        pass  # Not there, or others use it.


def removed(group):
    try:
        with open(os.path.join(group, "cgroup.procs"), encoding="utf-8") as members:
            for line in members:
                # 0 stands for a process of another namespace.
                if int(line) > 0:
                    kill(int(line))
        os.rmdir(group)
    except FileNotFoundError:
        pass  # Somebody else was faster.
    except OSError:
        return False  # The kernel may need a moment to see it empty.
    return True


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # It has ended.


if __name__ == "__main__":
    main()
