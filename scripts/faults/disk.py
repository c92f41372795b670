"""A disk that fills: a limit on the size of a file, a small file system, one that becomes read-only while the program runs."""

import os
import shutil
import subprocess
import threading
import time

import commands
import results


def judge(campaign, what, command, ended):
    """A command that had no room fails with a message, leaves no torn file, and goes on when there is room."""
    fault = ended.fault()
    if not fault and ended.code == 0:
        return campaign.count(what, "false success: no room, and code 0", ended)
    if not fault and results.torn(command.folder):
        fault = f"torn files: {results.torn(command.folder)}"
    if not fault and results.temporary(command.folder):
        fault = f"temporary files stay: {results.temporary(command.folder)}"
    campaign.count(what, fault, ended)


def goes_on(campaign, what, command, expected):
    ended = campaign.run(*command.goes_on())
    if ended.code:
        return campaign.count(f"{what}, then with room", ended.fault() or f"does not go on: {ended.error[-800:]}", ended)
    campaign.count(f"{what}, then with room", results.difference(expected, command.left()), ended)


def limits(campaign, command, sizes):
    """The command with each limit in `sizes` on the size of a file, and then without."""
    shutil.rmtree(command.folder, ignore_errors=True)
    campaign.must(*command.start())
    expected = command.left()
    for size in sizes:
        shutil.rmtree(command.folder, ignore_errors=True)
        ended = campaign.run(*command.start(), file_limit=size)
        what = f"file-size limit: {command.name}"
        judge(campaign, what, command, ended)
        goes_on(campaign, what, command, expected)
    shutil.rmtree(command.folder, ignore_errors=True)


def small_disk(campaign, command, mebibytes):
    """The command with its folder on a file system that is too small."""
    shutil.rmtree(command.folder, ignore_errors=True)
    place = command.folder.parent
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", place], check=True)
    try:
        judge(campaign, f"full disk: {command.name}", command, campaign.run(*command.start()))
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def becomes_read_only(campaign, command):
    """The file system becomes read-only in the middle. Files that are open go on; what is opened anew is refused."""
    place = command.folder.parent
    place.mkdir(exist_ok=True)
    seconds = campaign.must(*command.start()).seconds
    shutil.rmtree(command.folder)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", place], check=True)

    def change():
        # A file that is open for writing forbids the change: a second mount of the same folder has the flag of its own.
        subprocess.run(["mount", "--bind", place, place], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        changed.append(time.monotonic())

    changed = []
    timer = threading.Timer(campaign.random.uniform(0.2, 0.6) * seconds, change)
    try:
        started = time.monotonic()
        ended = campaign.run(*command.start(), meanwhile=lambda _: timer.start())
        timer.join()
        in_time = changed[0] < started + ended.seconds - 0.2
        campaign.count(f"read-only: {command.name}", ended.fault() or (ended.code == 0 and in_time and "false success"), ended)
    finally:
        for _ in range(2):
            subprocess.run(["umount", "-l", place], check=False)


def unwritable(campaign, command):
    """A folder without the right to write."""
    place = command.folder.parent
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    place.chmod(0o555)
    ended = campaign.run(*command.start(), unprivileged=True)
    campaign.count(f"unwritable folder: {command.name}", ended.fault() or (ended.code == 0 and "false success"), ended)
    place.chmod(0o755)


def run(campaign):
    scratch = campaign.scratch
    few = [100, 3000, 200_000]
    train = commands.train("train", scratch / "run")
    # The last one lets the first checkpoints through and stops the growing log.
    limits(campaign, train, [*few, 4_000_000])
    limits(campaign, commands.pretrain("judge", scratch / "prior"), [*few, 400])
    limits(campaign, commands.sweep(scratch / "sweep", scratch), [500, 200_000])
    commands.twelve(campaign)
    limits(campaign, commands.evaluate(scratch / "evaluation", scratch), [100, 2000, 8000])
    limits(campaign, commands.test_set(scratch / "set", scratch, 40), few[:2] + [6000])
    limits(campaign, commands.restore(scratch / "restored", scratch / "twelve/degraded"), few[:2])
    limits(campaign, commands.degrade(scratch / "degraded"), few[:2])
    if os.getuid() != 0:
        print("not root: no small file system, none that becomes read-only")
        return
    small = scratch / "small"
    for command, sizes in [
        (commands.train("train", small / "run"), [1, 8, 20]),
        (commands.pretrain("judge", small / "prior"), [1, 2]),
        (commands.test_set(small / "set", scratch, 200), [1]),
    ]:
        for mebibytes in sizes:
            small_disk(campaign, command, mebibytes)
    becomes_read_only(campaign, commands.train("train", small / "run"))
    becomes_read_only(campaign, commands.pretrain("judge", small / "prior"))
    shutil.rmtree(small, ignore_errors=True)
    closed = scratch / "closed"
    for command in [
        commands.train("train", closed / "run"), commands.test_set(closed / "set", scratch, 4),
        commands.restore(closed / "restored", scratch / "twelve/degraded"), commands.sweep(closed / "sweep", scratch),
    ]:
        unwritable(campaign, command)
    shutil.rmtree(closed, ignore_errors=True)
