#!/usr/bin/env -S python3 -B
"""Proves that a run of the tests may be killed at any moment: nothing of it is left, and the next run passes.

Usage: kill_runs.py [ROUNDS [SEED]]

Each round starts the suites that make processes, control groups and private servers, kills the runner and its process
group (SIGKILL) at a random moment, and looks for what is left: processes, control groups, mounts, sockets, files.
After the last round the suites run to their end. Everything has a deadline. Other runs on the same machine are neither
harmed nor blamed: what belongs to a round is told by its TMPDIR.
"""

import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import run_remains

SUITES = "binary_id(headroom::memory) + binary_id(headroom::pools) + binary_id(headroom::faults)"
COMMAND = ["cargo", "nextest", "run", "--workspace", "-E", SUITES]

# All in seconds. What a run may take until its first test begins, building included, and until its end.
START_WITHIN = 1800.0
RUN_WITHIN = 1800.0

# A kill comes at most so long after the first test has begun.
LATEST_KILL = 20.0

# Nothing may be left so long after the kill.
GONE_WITHIN = 5.0


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    say(f"{rounds} rounds, seed {seed}")
    moments = random.Random(seed)
    failed = 0
    for number in range(1, rounds + 1):
        moment = moments.uniform(0.0, LATEST_KILL)
        with Run() as run:
            failed += not survives_a_kill(run, number, moment)
    if failed:
        sys.exit(f"kill_runs: something was left after {failed} of {rounds} kills (seed {seed})")
    with Run() as run:
        if run.wait(RUN_WITHIN) != 0:
            sys.exit(f"kill_runs: the run after the kills does not pass:\n{run.log()}")
    say("the run after the kills passes")


def say(text):
    print(f"kill_runs: {text}", flush=True)


def survives_a_kill(run, number, moment):
    """Whether nothing of a run is left when it is killed at a moment, in seconds after its first test began."""
    run.wait_until_begun()
    end = time.monotonic() + moment
    while time.monotonic() < end:
        run.watch()
        time.sleep(0.02)
    run.watch()
    if run.process.poll() is not None:
        sys.exit(f"kill_runs: the suites ended before they could be killed:\n{run.log()}")
    before = run.describe()
    run.kill()
    killed = time.monotonic()
    while (left := run.remains()) and time.monotonic() < killed + GONE_WITHIN:
        time.sleep(0.02)
    took = time.monotonic() - killed
    outcome = f"left: {left}" if left else f"nothing left after {took:.2f} s"
    say(f"round {number}: killed {moment:.1f} s after the first test began, with {before}; {outcome}")
    return not left


class Run:
    """One run of the suites, with a temporary folder and a session of its own. Killed when it is left."""

    def __init__(self):
        # Resolved, since processes and mounts are known by their real paths.
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="hr-"))
        self.temporary = os.path.join(self.folder, "t")
        os.mkdir(self.temporary)
        for folder in (self.folder, self.temporary):
            os.chmod(folder, 0o1777)
        self.makers = set()
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                COMMAND,
                env={**os.environ, "TMPDIR": self.temporary},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        for pid in run_remains.processes(self.temporary):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # It has ended.
        shutil.rmtree(self.folder, ignore_errors=True)

    def wait_until_begun(self):
        end = time.monotonic() + START_WITHIN
        # The folder that the runner gives its tests (begin_run.py), with that of the first test in it.
        while not glob.glob(os.path.join(self.temporary, "hr-*", "*")):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"kill_runs: the suites do not begin:\n{self.log()}")
            time.sleep(0.02)

    def watch(self):
        """Learns which processes are of the run: the names of control groups say no more than who made them."""
        self.makers.update(run_remains.processes(self.temporary))

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, within):
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def log(self):
        with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as log:
            return log.read()[-20_000:]

    def groups(self):
        return [path for path, maker, _ in run_remains.groups() if maker in self.makers]

    def describe(self):
        return f"{len(run_remains.processes(self.temporary))} processes and {len(self.groups())} control groups"

    def remains(self):
        """What is left of it, as text; nothing when it is nothing."""
        found = [f"process {pid} ({name(pid)})" for pid in run_remains.processes(self.temporary)]
        found += [f"control group {path}" for path in self.groups()]
        found += [f"mount {line}" for line in lines("/proc/self/mounts") if self.temporary in line]
        found += [f"socket {line}" for line in lines("/proc/net/unix") if self.temporary in line]
        found += [f"folder {it}" for it in os.listdir(self.temporary)]
        return ", ".join(found)


def name(pid):
    return next(iter(lines(f"/proc/{pid}/comm")), "gone")


def lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


if __name__ == "__main__":
    main()
