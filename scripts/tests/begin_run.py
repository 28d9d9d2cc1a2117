#!/usr/bin/env -S python3 -B
"""Begins a test run: makes its temporary folder, and starts a process that cleans up after the run.

`cargo nextest` starts this script before the first test (.config/nextest.toml). The runner may be killed at any moment;
its tests then continue, since each has a process group of its own. The clean-up process waits for the end of the runner,
kills all processes of the run, and removes its control groups and its folder. It has a session of its own and closes the
inherited output.
"""

import os
import select
import shutil
import signal
import tempfile
import time

from run_remains import SLICE, processes, stale_groups

# Longest time of the clean-up, in seconds.
CLEAN_UP_DEADLINE = 10.0


def main():
    runner = os.pidfd_open(os.getppid())
    folder = tempfile.mkdtemp(prefix="hr-")
    # Servers of the tests run as other users, who need the same permissions as in /tmp.
    os.chmod(folder, 0o1777)
    with open(os.environ["NEXTEST_ENV"], "a", encoding="utf-8") as variables:
        variables.write(f"TMPDIR={folder}\n")
    if os.fork() == 0:
        detach()
        ended = select.poll()
        ended.register(runner, select.POLLIN)
        ended.poll()
        clean_up(folder)


def detach():
    """Leaves the runner's session and closes its output."""
    os.setsid()
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.chdir("/")


def clean_up(folder):
    """Removes everything that is left of a run, until nothing is left or the deadline passes."""
    end = time.monotonic() + CLEAN_UP_DEADLINE
    while os.path.exists(folder) and time.monotonic() < end:
        left = processes(folder)
        for pid in left:
            kill(pid)
        # Groups of any run whose maker has ended.
        groups = [path for path in stale_groups() if not remove_group(path)]
        if not left and not groups:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)
    try:
        os.rmdir(SLICE)
    except OSError:
        pass  # It does not exist, or another run uses it.


def remove_group(group):
    """Kills the processes of a control group and removes it. Whether it is gone."""
    try:
        with open(os.path.join(group, "cgroup.procs"), encoding="utf-8") as members:
            for line in members:
                # 0 stands for a process of another namespace.
                if int(line) > 0:
                    kill(int(line))
        os.rmdir(group)
    except FileNotFoundError:
        pass  # Another process has removed it.
    except OSError:
        return False  # Its processes have not ended yet.
    return True


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass  # It has ended.


if __name__ == "__main__":
    main()
