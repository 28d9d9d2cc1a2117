"""Finds what a test run has left on this machine. The temporary folder of a run identifies its processes."""

import os


# These overwrite their environment with a title, so they are identified by their working folder. The children of a
# browser do.
TITLED = ("postgres", "redis-server", "chromium")


def processes(folder):
    """The processes of the run, without the calling process. All of them inherit TMPDIR."""
    found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in found if pid != os.getpid() and is_running(pid) and belongs(pid, folder)]


def belongs(pid, folder):
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            variables = map(os.fsdecode, environment.read().split(b"\0"))
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            is_titled = comm.read().strip() in TITLED
        if is_titled and is_within(os.readlink(f"/proc/{pid}/cwd"), folder):
            return True
    except OSError:
        return False  # It has ended, or belongs to another user.
    temporary = [it.removeprefix("TMPDIR=") for it in variables if it.startswith("TMPDIR=")]
    return any(is_within(path, folder) for path in temporary)


def is_within(path, folder):
    return path == folder or path.startswith(folder + "/")


def stat(pid):
    """The fields of a process's stat after its name; the first is its state. Empty when the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def is_running(pid):
    fields = stat(pid)
    return bool(fields) and fields[0] not in "ZX"


# The parents of the tests' control groups (tests/support/src/cgroup.rs): version 1, and the slice of version 2.
SLICE = "/sys/fs/cgroup/headroom-tests"
GROUP_PARENTS = ("/sys/fs/cgroup/memory", SLICE)


def groups():
    """The control groups of tests: for each the path, and the id and the start of the process that made it."""
    namespace = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
    for parent in GROUP_PARENTS:
        for name in os.listdir(parent) if os.path.isdir(parent) else ():
            # headroom-test-<namespace of process ids>-<process id>-<start>-<name>
            words = name.split("-", 5)
            if words[:2] == ["headroom", "test"] and len(words) == 6 and words[2] == namespace:
                yield os.path.join(parent, name), int(words[3]), words[4]


def stale_groups():
    """The control groups whose makers have ended."""
    for path, pid, started in groups():
        # The start is field 22 of stat; these fields begin with field 3.
        if not is_running(pid) or stat(pid)[19:20] != [started]:
            yield path
