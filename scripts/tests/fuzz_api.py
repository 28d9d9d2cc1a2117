#!/usr/bin/env -S python3 -B
"""Tests the server against its OpenAPI document with Schemathesis: generated requests, valid and invalid, and chains of
requests along the document's links.

Usage: fuzz_api.py HEADROOM SECONDS [SCHEMATHESIS OPTION...]

HEADROOM is the server's program. It runs with the sample model, private servers, and a temporary folder, which a process
removes after this script has ended, however it ends. The kernel ends the server and Schemathesis with this script.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import begin_run

CACHE = os.environ["HEADROOM_CACHE"]
# Schemathesis writes its cache into its working folder, so it runs in the temporary one.
DOCUMENT = os.path.abspath("docs/openapi.json")
CONFIG = os.path.abspath("scripts/tests/schemathesis.toml")
HOOKS = os.path.abspath("scripts/tests/schemathesis_hooks.py")

# Longest time from the start of the server to its first answer, in seconds.
START_DEADLINE = 20.0

# Time that Schemathesis has to end after its time budget, in seconds.
GRACE = 120.0

# All phases: examples, boundary values, random values, chains along the links. All checks but one: a job that was deleted
# is still shown, since DELETE cancels it. The admin listener has another address.
OPTIONS = """
  --checks all --exclude-checks use_after_free --phases examples,coverage,fuzzing,stateful --mode all --continue-on-failure
  --request-timeout 20 --exclude-tag admin --no-color --output-truncate false
""".split()

SETTINGS = """\
server.listen = "127.0.0.1:0"
server.admin_listen = "127.0.0.1:0"
server.request_deadline = "10s"
data.dir = "{folder}/data"
models.dir = "{folder}/models"
memory.limit = "2GiB"
log.format = "text"
"""


def main():
    program, seconds, *options = sys.argv[1:]
    program = os.path.abspath(program)
    # SystemExit ends the children on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("fuzz_api: terminated"))
    folder = temporary_folder()
    shutil.copytree(os.path.join(CACHE, "models"), os.path.join(folder, "models"))
    with open(os.path.join(folder, "settings.toml"), "w", encoding="utf-8") as file:
        file.write(SETTINGS.format(folder=folder))
    log = os.path.join(folder, "log")
    with open(log, "wb") as output:
        ready = os.path.join(folder, "ready.json")
        server = [program, "serve", "--config", os.path.join(folder, "settings.toml"), "--ready-file", ready]
        with Process(server, folder, output) as server:
            failed = fuzz(folder, address(server, ready), float(seconds), options)
            if server.poll() is not None:
                failed = f"the server ended with {server.poll()}"
    if failed:
        print_end(log)
        sys.exit(f"fuzz_api: {failed}")


def temporary_folder():
    """Makes the folder of this run. A process removes it, and what still runs in it, when this script has ended."""
    folder = tempfile.mkdtemp(prefix="hr-fuzz-")
    # Private servers run as other users, who must pass through the folder.
    os.chmod(folder, 0o755)
    os.environ["TMPDIR"] = folder
    os.environ["SCHEMATHESIS_HOOKS"] = HOOKS
    script = os.pidfd_open(os.getpid())
    if os.fork() == 0:
        begin_run.detach()
        ended = select.poll()
        ended.register(script, select.POLLIN)
        ended.poll()
        begin_run.clean_up(folder)
        os._exit(0)
    return folder


class Process:
    """A child process that the kernel kills when this script ends, and that is killed on exit."""

    def __init__(self, command, folder, output=None):
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)


def address(server, ready):
    end = time.monotonic() + START_DEADLINE
    while time.monotonic() < end and server.poll() is None:
        if os.path.exists(ready):
            with open(ready, encoding="utf-8") as file:
                return json.load(file)["listen"]
        time.sleep(0.02)
    sys.exit("fuzz_api: the server did not start")


def fuzz(folder, listen, seconds, options):
    """Runs Schemathesis for `seconds`. Why it failed, if it did."""
    command = [os.path.join(CACHE, "schemathesis/bin/python"), "-m", "schemathesis.cli"]
    command += ["--config-file", CONFIG, "run", DOCUMENT]
    command += ["--url", f"http://{listen}", "--max-time", str(int(seconds)), *OPTIONS, *options]
    with Process(command, folder) as process:
        try:
            code = process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            return f"Schemathesis did not end {GRACE:.0f} s after its time"
    return f"Schemathesis ended with {code}" if code else None


def print_end(log):
    with open(log, encoding="utf-8", errors="replace") as file:
        print("the end of the server's log:", *file.readlines()[-40:], sep="\n  ")


if __name__ == "__main__":
    main()
