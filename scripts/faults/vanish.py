"""Files that vanish, shrink or are damaged while the program runs, and between two of its runs."""

import random
import shutil
import threading
import time

import commands
import results
from program import ROOT, settings


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def cut(path):
    if path.is_file():
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size // 2)


def scribble(path):
    """Random bytes over a part of the file."""
    if path.is_file() and path.stat().st_size:
        draw = random.Random(path.name)
        content = bytearray(path.read_bytes())
        for _ in range(8):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)


def empty(path):
    if path.is_file():
        path.write_bytes(b"")


DAMAGES = {"removed": remove, "cut": cut, "scribbled on": scribble, "emptied": empty}


def while_running(campaign, what, arguments, seconds, paths, damage, must_fail=False):
    """Damages `paths()` at a random moment of the run. It may finish or fail with a message; nothing else."""

    def meanwhile(_):
        def act():
            for path in paths():
                try:
                    damage(path)
                except OSError:
                    pass
        timer = threading.Timer(campaign.random.uniform(0.1, 0.8) * seconds, act)
        timer.start()

    ended = campaign.run(*arguments, meanwhile=meanwhile)
    time.sleep(0.1)
    campaign.count(what, ended.fault() or (must_fail and ended.code == 0 and "false success"), ended)


def photos(campaign, count=24):
    folder = campaign.folder("photos")
    pictures = sorted((campaign.scratch / "twelve/clean").glob("*.png"))
    for n in range(count):
        shutil.copy(pictures[n % len(pictures)], folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"picture {n}")
    return folder


def data(campaign):
    """Training pictures and shards that change under a run."""
    run = campaign.scratch / "run"
    plain = campaign.folder("sources") / "plain.toml"
    base = ["train", plain, *settings(run__dir=run), *commands.TRAIN, "--set", "evaluate.source={kind='world', seed=5, count=100}"]
    text = (ROOT / "configs/tiny.toml").read_text()
    plain.write_text(text.replace('kind = "world"\nseed = 2\ncount = 4000\n', 'kind = "folder"\npath = "photos"\n'))
    for name, damage in DAMAGES.items():
        for share in (3, 1):
            shutil.rmtree(run, ignore_errors=True)
            folder = photos(campaign)
            paths = lambda: sorted(folder.iterdir())[::share]
            part = "all" if share == 1 else "a third of"
            while_running(campaign, f"{part} the training pictures {name}", [*base, *settings(data__source__path=folder)], 3, paths, damage)
    for file, kind in [("wds-000000.tar", "webdataset"), ("hf.parquet", "parquet")]:
        plain.write_text(text.replace('kind = "world"\nseed = 2\ncount = 4000\n', f'kind = "{kind}"\nshards = "{campaign.scratch / file}"\n'))
        for name, damage in DAMAGES.items():
            shutil.rmtree(run, ignore_errors=True)
            shutil.copy(ROOT / "tests/shards" / file, campaign.scratch / file)
            while_running(campaign, f"a shard ({kind}) {name}", base, 3, lambda: [campaign.scratch / file], damage)


def models(campaign):
    """The frozen model under a run and under a restoration."""
    for name, damage in DAMAGES.items():
        base = campaign.scratch / "model"
        for what, arguments, seconds in [
            ("train", ["train", "configs/tiny.toml", *settings(run__dir=campaign.scratch / "run", model__base=base), *commands.TRAIN], 2),
            ("restore", ["restore", campaign.scratch / "twelve/degraded", "-o", campaign.folder("restored"), "--base", base, "--control", base / "control", "--steps", "4"], 2),
        ]:
            shutil.rmtree(campaign.scratch / "run", ignore_errors=True)
            shutil.rmtree(base, ignore_errors=True)
            shutil.copytree(ROOT / "assets/tiny", base)
            while_running(campaign, f"the model of {what} {name}", arguments, seconds, lambda: list(base.rglob("*.safetensors")), damage)
        shutil.rmtree(base, ignore_errors=True)


def outputs(campaign):
    """What the program itself writes, removed while it goes on."""
    run, scratch = campaign.scratch / "run", campaign.scratch
    train = commands.train("train", run)
    for name, paths in [
        ("the run folder", lambda: [run]),
        ("the checkpoints", lambda: [run / "checkpoints"]),
        ("config.toml", lambda: [run / "config.toml"]),
        ("metrics.jsonl", lambda: [run / "metrics.jsonl"]),
        ("tensorboard and samples", lambda: [run / "tensorboard", run / "samples"]),
    ]:
        shutil.rmtree(run, ignore_errors=True)
        while_running(campaign, f"{name} removed under train", train.start(), 4, paths, remove, must_fail=name in ("the run folder", "metrics.jsonl"))
    sweep = commands.sweep(scratch / "sweep", scratch)
    shutil.rmtree(sweep.folder, ignore_errors=True)
    while_running(campaign, "a sweep's runs removed", sweep.start(), 6, lambda: [sweep.folder / "runs"], remove, must_fail=True)
    prior = commands.pretrain("judge", scratch / "prior")
    shutil.rmtree(prior.folder, ignore_errors=True)
    while_running(campaign, "the folder of pretrain removed", prior.start(), 1, lambda: [prior.folder / "training"], remove)
    evaluation = commands.evaluate(scratch / "evaluation", scratch)
    for name, damage in DAMAGES.items():
        shutil.rmtree(evaluation.folder, ignore_errors=True)
        while_running(campaign, f"pictures of a test set {name} under eval", evaluation.start(), 2, lambda: sorted((scratch / "twelve").rglob("*.png"))[::3], damage)
        commands.twelve(campaign)


def between_runs(campaign):
    """Every file that a stopped command left, damaged in every way; the command then goes on to the same results, or says why not."""
    scratch = campaign.scratch
    for command, stop in [
        (commands.train("train", scratch / "run"), 0.7),
        (commands.pretrain("judge", scratch / "prior"), 0.7),
        (commands.sweep(scratch / "sweep", scratch), 0.5),
        (commands.evaluate(scratch / "evaluation", scratch), 1.0),
    ]:
        shutil.rmtree(command.folder, ignore_errors=True)
        whole = campaign.must(*command.start())
        expected = command.left()
        stopped = campaign.folder("stopped")
        shutil.rmtree(command.folder)
        campaign.run(*command.start(), kill_after=stop * whole.seconds if stop < 1 else None)
        shutil.copytree(command.folder, stopped, dirs_exist_ok=True)
        kinds = {}
        for path in sorted(stopped.rglob("*")):
            # One of each kind: the newest checkpoint stands for all.
            if path.is_file() and path.name != "lock" and not path.name.startswith(".tmp-"):
                kinds[(path.name if path.suffix != ".png" else ".png") + str(path.parent.parent.name == "checkpoints")] = path.relative_to(stopped)
        # Nothing can tell that a digit of a text is another one; weights, checkpoints and pictures have checksums.
        checked = (".safetensors", ".burnpack", ".png")
        chosen = [
            (path, damage) for path in kinds.values() for damage in DAMAGES
            if damage != "scribbled on" or path.suffix in checked or "checkpoints" in path.parts
        ]
        campaign.random.shuffle(chosen)
        for path, damage in chosen[: campaign.times(12)]:
            shutil.rmtree(command.folder)
            shutil.copytree(stopped, command.folder)
            DAMAGES[damage](command.folder / path)
            ended = campaign.run(*command.goes_on())
            fault = ended.fault()
            # Figures of steps that are lost can't come back; that they are lost is told.
            told = path.name == "metrics.jsonl" and "metrics.jsonl has" in ended.error
            if not fault and ended.code == 0 and path.suffix != ".png" and not told:
                fault = results.difference(expected, command.left())
            campaign.count(f"a file of a stopped {command.name} damaged", fault and f"{path} {damage}: {fault}", ended)
        shutil.rmtree(command.folder)
        shutil.rmtree(stopped)


def run(campaign):
    commands.twelve(campaign)
    data(campaign)
    models(campaign)
    outputs(campaign)
    between_runs(campaign)
