"""SIGKILL at random moments, again and again until a command is through; then it left what it leaves without a kill."""

import shutil

import commands
import results

# After so many kills a command may finish.
MOST_KILLS = 3


def trial(campaign, command, expected, seconds):
    """One command that is killed up to `MOST_KILLS` times. Returns the number of kills."""
    kills = 0
    shutil.rmtree(command.folder, ignore_errors=True)
    arguments = command.start()
    while True:
        last = kills == MOST_KILLS
        after = None if last else campaign.random.uniform(0, seconds)
        ended = campaign.run(*arguments, kill_after=after, launcher=command.launcher)
        if ended.killed:
            kills += 1
            torn = results.torn(command.folder)
            if torn:
                campaign.count(f"kill: {command.name}", f"torn files: {torn}", ended)
                return kills
        elif ended.fault() or ended.code != 0:
            campaign.count(f"kill: {command.name}", ended.fault() or f"does not go on: {ended.error[-800:]}", ended)
            return kills
        else:
            break
        arguments = command.goes_on()
    campaign.count(f"kill: {command.name}", results.difference(expected, command.left()), ended)
    return kills


def of_command(campaign, command, times):
    shutil.rmtree(command.folder, ignore_errors=True)
    whole = campaign.must(*command.start(), launcher=command.launcher)
    expected = command.left()
    kills = sum(trial(campaign, command, expected, whole.seconds) for _ in range(times))
    campaign.kills[command.name] = campaign.kills.get(command.name, 0) + kills
    shutil.rmtree(command.folder, ignore_errors=True)


def unpacking(campaign, times):
    """The built-in model is unpacked into the cache at its first use: killed there, and by two at once."""
    home = campaign.scratch / "home"
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    elsewhere = campaign.folder("elsewhere")
    command = ["weights", "inspect", "tiny", "--summary"]
    for _ in range(times):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        campaign.run(*command, kill_after=campaign.random.uniform(0, 0.4), env=environment, cwd=elsewhere)
        ended = campaign.run(*command, env=environment, cwd=elsewhere)
        campaign.count("kill: unpacking the built-in model", ended.fault() or (ended.code and ended.error), ended)


def run(campaign):
    scratch = campaign.scratch
    more = campaign.times
    of_command(campaign, commands.train("train", scratch / "run"), more(8))
    of_command(campaign, commands.train("train, two ranks as threads", scratch / "run", device="flex, flex"), more(4))
    if campaign.mpi:
        of_command(campaign, commands.train("train, two ranks under mpirun", scratch / "run", launcher=commands.MPI), more(4))
    for stage in commands.STAGES:
        of_command(campaign, commands.pretrain(stage, scratch / "prior"), more(2))
    of_command(campaign, commands.sweep(scratch / "sweep", scratch), more(3))
    commands.twelve(campaign)
    of_command(campaign, commands.evaluate(scratch / "evaluation", scratch), more(4))
    of_command(campaign, commands.test_set(scratch / "set", scratch), more(5))
    of_command(campaign, commands.restore(scratch / "restored", scratch / "twelve/degraded"), more(5))
    of_command(campaign, commands.degrade(scratch / "degraded"), more(6))
    unpacking(campaign, more(5))
