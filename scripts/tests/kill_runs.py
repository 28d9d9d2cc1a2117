#!/usr/bin/env -S python3 -B
"""Proves that a run of the tests may be killed at any moment: nothing of it is left, and the next run passes.

Usage: kill_runs.py [ROUNDS [SEED]]

Each round starts a part of the suites that make processes, control groups and private servers, kills the runner and
its process group (SIGKILL) at a random moment, and looks for what is left: processes, control groups, mounts, sockets,
files. That the next run passes is shown by running the tests after this (.ci/run). Everything has a deadline. Other
runs on the same machine are neither harmed nor blamed: what belongs to a round is told by its TMPDIR.
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
RUNNER = "setpriv --pdeathsig KILL cargo nextest run --workspace --test memory --test pools --test faults".split()

# What is killed, by turns; and into how many slices each is cut, so that a kill can meet any of its tests.
SUITES = {
    "memory": "binary(memory)",
    "pools": "binary(pools)",
    "control groups": "binary(memory) & test(/^(cgroup|hard_limit)::/)",
    "faults": "binary(faults)",
}
SLICES = 4

# All in seconds. What a run may take until its first test begins, building included.
START_WITHIN = 1800.0

# A kill comes at most so long after the first test has begun.
LATEST_KILL = 20.0

# Nothing may be left so long after the kill.
GONE_WITHIN = 5.0


def main():
    # Ends through `Run.__exit__`, which kills the run under way: it has a session of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("kill_runs: told to end"))
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    say(f"{rounds} rounds, seed {seed}")
    chance = random.Random(seed)
    failed = 0
    for number in range(rounds):
        suite = list(SUITES)[number % len(SUITES)]
        part = ["-E", SUITES[suite], "--partition", f"slice:{chance.randint(1, SLICES)}/{SLICES}"]
        failed += not survives_a_kill(f"round {number + 1}, {suite}", part, chance.uniform(0.0, LATEST_KILL))
    if failed:
        sys.exit(f"kill_runs: something was left after {failed} of {rounds} kills (seed {seed})")


def say(text):
    print(f"kill_runs: {text}", flush=True)


def survives_a_kill(name, part, moment):
    """Whether nothing of a run is left when it is killed at a moment, in seconds after its first test began."""
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
            left, took = run.remains_after(GONE_WITHIN)
            outcome = f"left: {left}" if left else f"nothing left after {took:.2f} s"
            say(f"{name}: killed {moment:.1f} s after the first test began, with {before}; {outcome}")
            return not left
    say(f"{name}: has ended within {moment:.1f} s, once more")
    return survives_a_kill(name, part, moment / 2)


class Run:
    """One run of the suites, with a temporary folder and a session of its own. Killed when it is left."""

    def __init__(self, part):
        # Resolved, since processes and mounts are known by their real paths.
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
        end = time.monotonic() + START_WITHIN
        # The folder that the runner gives its tests (begin_run.py), with that of the first test in it.
        while not any(map(os.listdir, glob.glob(os.path.join(self.temporary, "hr-*")))):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"kill_runs: the suites do not begin:\n{self.log()}")
            time.sleep(0.02)

    def watch(self):
        """Learns which processes are of the run: the names of control groups say no more than who made them."""
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
        """What is left of it at last, and the time that took, in seconds."""
        begun = time.monotonic()
        while (left := self.remains()) and time.monotonic() < begun + within:
            time.sleep(0.02)
        return left, time.monotonic() - begun

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
