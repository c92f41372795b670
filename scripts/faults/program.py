"""Runs the program with a limit on its time, its memory and its files, kills it at a given moment, and judges how it ended."""

import contextlib
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
# More than any of the small commands here needs; a network that a file asked for is larger.
MOST_MEMORY = 4 << 30


@dataclass
class Ended:
    """How one run of the program ended."""

    command: str
    code: int
    seconds: float
    output: str
    error: str
    peak: int
    timed_out: bool = False
    killed: bool = False

    def fault(self):
        """What no input and no failing disk may cause; `None` where the program ended properly."""
        if self.timed_out:
            return f"hang: still running after {self.seconds:.0f} s"
        if "panicked at" in self.error or self.code == 101:
            return "panic: " + next((line for line in self.error.splitlines() if "panicked" in line), "code 101")
        if self.code < 0 and not self.killed:
            return f"crash: signal {-self.code}"
        if self.peak > MOST_MEMORY:
            return f"memory: {self.peak >> 20} MiB"
        if self.code > 0 and not (self.error + self.output).strip():
            return f"silent failure: code {self.code} without a message"
        doubled = re.search(r"(\(os error \d+\)).*\1", self.error)
        return f"message: the system's error is there twice: {doubled.string[:300]}" if doubled else None


@dataclass
class Campaign:
    """The program under test, its scratch folder, and what has been counted so far."""

    program: Path
    scratch: Path
    random: Random
    factor: float = 1
    """For the number of trials."""
    mpi: bool = False
    verbose: bool = False
    trials: dict = field(default_factory=dict)
    kills: dict = field(default_factory=dict)
    findings: list = field(default_factory=list)

    def times(self, count):
        return max(1, math.ceil(count * self.factor))

    def folder(self, name):
        """A fresh, empty folder."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def count(self, what, fault, ended=None):
        """Counts a trial of `what`, and notes its fault if it has one."""
        tried, faulty = self.trials.get(what, (0, 0))
        self.trials[what] = (tried + 1, faulty + bool(fault))
        if fault:
            command = ended.command if ended else ""
            self.findings.append({"trial": what, "fault": fault, "command": command, "error": ended.error[-2000:] if ended else ""})
            print(f"FAULT  {what}: {fault}\n       {command}", flush=True)
        elif self.verbose:
            print(f"ok     {what}", flush=True)

    def run(self, *arguments, kill_after=None, file_limit=None, timeout=120, cwd=ROOT, env=None, launcher=(), unprivileged=False, meanwhile=None):
        """Runs the program to its end.

        `kill_after`: SIGKILL after so many seconds, to the process that was started alone; under a launcher to the launcher and all
        ranks, as when a machine goes down. (Ranks that outlive their launcher end by themselves, and hold the run until then.)
        `file_limit`: the most bytes of a file. `unprivileged`: as the user nobody. `meanwhile`: called beside the process.
        """

        def prepare():
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if unprivileged and os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)

        command = [*map(str, launcher), str(self.program), *map(str, arguments)]
        started = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            # Of its own group, so that what it started ends with it where it hangs.
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, preexec_fn=prepare, start_new_session=True,
                env={**os.environ, **(env or {})},
            )
            done = threading.Event()
            timed_out = threading.Event()

            def guard():
                if not done.wait(kill_after if kill_after is not None else timeout):
                    if kill_after is None:
                        timed_out.set()
                        os.killpg(child.pid, signal.SIGKILL)
                    else:
                        for process in session(child.pid) if launcher else [child.pid]:
                            with contextlib.suppress(ProcessLookupError):
                                os.kill(process, signal.SIGKILL)

            watch = threading.Thread(target=guard)
            watch.start()
            if meanwhile:
                meanwhile(child)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = code = os.waitstatus_to_exitcode(status)
            done.set()
            watch.join()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        killed = kill_after is not None and code == -signal.SIGKILL
        return Ended(" ".join(command), code, time.monotonic() - started, *texts, usage.ru_maxrss * 1024, timed_out.is_set(), killed)

    def must(self, *arguments, **options):
        """Runs the program where nothing is wrong: anything but success ends the campaign."""
        ended = self.run(*arguments, **options)
        if ended.code != 0 or ended.fault():
            raise SystemExit(f"this should work, and does not: {ended.command}\n{ended.output}\n{ended.error}")
        return ended


def settings(**values):
    """`--set` for each value; `__` in a name is a dot."""
    words = []
    for key, value in values.items():
        words += ["--set", f"{key.replace('__', '.')}={value}"]
    return words


def session(leader):
    """The processes of a session, its leader last: Open MPI gives each rank a process group of its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may contain anything: state, parent, group, session.
            if int(stat.read_text().rsplit(")", 1)[1].split()[3]) == leader:
                found.append(int(stat.parent.name))
    return sorted(found, key=lambda process: process == leader)
