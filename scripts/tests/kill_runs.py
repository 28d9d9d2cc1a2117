#!/usr/bin/env -S python3 -B
"""Tests that a test run can be killed at any moment and leaves nothing behind.

Usage: kill_runs.py [ROUNDS [SEED [SUITE...]]]

Each round starts a part of a suite that makes processes, control groups, private servers or browsers; of all suites in
turn, or of those that are named. It kills the runner and its process group (SIGKILL) at a random moment, and looks for
processes, control groups, mounts, sockets and files that are left. Everything has a deadline. The TMPDIR of a round
identifies its processes, so that other runs on the same machine are not affected. .ci/run runs all tests afterwards,
which shows that the next run passes.
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

# The kernel ends the runner when this script is killed.
RUNNER = "setpriv --pdeathsig KILL cargo nextest run --workspace".split()
TESTS = ("memory", "pools", "faults", "dashboard", "cli", "prometheus")
RUNNER += [word for name in TESTS for word in ("--test", name)]

# The suites, one after another from a random one on, and the number of slices of each. A random slice is run, so that a
# kill can hit any test.
SUITES = {
    "memory": "binary(memory)",
    "pools": "binary(pools)",
    "control groups": "binary(memory) & test(/^(cgroup|hard_limit)::/)",
    "faults": "binary(faults)",
    "dashboard": "binary(dashboard)",
    "cli": "binary(cli)",
    "prometheus": "binary(prometheus)",
}
SLICES = 4

# Longest time from the start of a run to its first test, building included, in seconds.
START_DEADLINE = 1800.0

# Latest moment of a kill after the first test has begun, in seconds.
LATEST_KILL = 20.0

# Time after a kill at which nothing may be left, in seconds.
GONE_DEADLINE = 5.0


def main():
    # Exits through `Run.__exit__`, which kills the current run: the run has a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("kill_runs: terminated"))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    suites = sys.argv[3:] or list(SUITES)
    say(f"{rounds} rounds, seed {seed}")
    generator = random.Random(seed)
    first = generator.randrange(len(suites))
    failed = 0
    for number in range(rounds):
        suite = suites[(first + number) % len(suites)]
        part = ["-E", SUITES[suite], "--partition", f"slice:{generator.randint(1, SLICES)}/{SLICES}"]
        failed += not leaves_nothing(f"round {number + 1}, {suite}", part, generator.uniform(0.0, LATEST_KILL))
    if failed:
        sys.exit(f"kill_runs: {failed} of {rounds} kills left something behind (seed {seed})")


def say(text):
    print(f"kill_runs: {text}", flush=True)


def leaves_nothing(name, part, moment):
    """Whether a run leaves nothing behind when it is killed `moment` seconds after its first test began."""
    with Run(part) as run:
        run.wait_until_begun()
        end = time.monotonic() + moment
        while time.monotonic() < end and run.process.poll() is None:
            run.watch()
            time.sleep(0.02)
        run.watch()
        if run.process.poll() is None:
            before = run.describe()
            run.kill()
            left, took = run.remains_after(GONE_DEADLINE)
            outcome = f"left: {left}" if left else f"nothing left after {took:.2f} s"
            say(f"{name}: killed {moment:.1f} s after the first test began, with {before}; {outcome}")
            return not left
    say(f"{name}: ended within {moment:.1f} s, trying an earlier moment")
    return leaves_nothing(name, part, moment / 2)


class Run:
    """One run of the suites, with a temporary folder and a session of its own. Leaving the context kills it."""

    def __init__(self, part):
        # Resolved, since /proc shows real paths.
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="hr-"))
        self.temporary = os.path.join(self.folder, "t")
        os.mkdir(self.temporary)
        for folder in (self.folder, self.temporary):
            os.chmod(folder, 0o1777)
        self.makers = set()
        with open(os.path.join(self.folder, "log"), "wb") as log:
            self.process = subprocess.Popen(
                [*RUNNER, *part],
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
        end = time.monotonic() + START_DEADLINE
        # begin_run.py makes a folder for the run; the first test makes a folder in it.
        while not any(map(os.listdir, glob.glob(os.path.join(self.temporary, "hr-*")))):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"kill_runs: no test has begun:\n{self.log()}")
            time.sleep(0.02)

    def watch(self):
        """Remembers the processes of the run, since the names of control groups contain only the ids of their makers."""
        self.makers.update(run_remains.processes(self.temporary))

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def log(self):
        with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as log:
            return log.read()[-20_000:]

    def groups(self):
        return [path for path, maker, _ in run_remains.groups() if maker in self.makers]

    def describe(self):
        return f"{len(run_remains.processes(self.temporary))} processes and {len(self.groups())} control groups"

    def remains_after(self, within):
        """Waits until nothing of the run is left, at most `within` seconds. Returns what is left and the time."""
        begun = time.monotonic()
        while (left := self.remains()) and time.monotonic() < begun + within:
            time.sleep(0.02)
        return left, time.monotonic() - begun

    def remains(self):
        """A list of what is left of the run, as text; empty when nothing is left."""
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
