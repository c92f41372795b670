"""The commands of the campaign: small, and each with what it leaves behind when it has finished."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import results
from program import ROOT, settings

STEPS = 12
TRAIN = settings(
    train__steps=STEPS, train__batch_size=2, train__accumulate=1, train__threads=1, train__checkpoint_every=2,
    train__validate_every=4, train__warmup_steps=0, evaluate__samples=2, evaluate__rows=1,
    evaluate__validation_samples=2, evaluate__sampling__steps=2,
)
STAGES = {
    "clip": dict(clip__evaluate=8, clip__fit__batch_size=8),
    "prompts": dict(prompts__evaluate=4, prompts__fit__batch_size=4, start="assets/tiny"),
    "vae": dict(vae__evaluate=4, vae__fit__batch_size=4),
    "judge": dict(judge__evaluate=8, judge__fit__batch_size=4),
    "unet": dict(unet__evaluate=2, unet__judged=2, unet__fit__batch_size=4, unet__sampling__steps=2, unet__window__chunk=16, unet__window__chunks=2),
    "embedding": dict(embedding__evaluate=2, embedding__fit__batch_size=4),
}
MPI = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2")


@dataclass(eq=False)
class Command:
    """A command that writes into `folder`."""

    name: str
    folder: Path
    start: Callable
    """The arguments that begin it."""
    goes_on: Callable
    """The arguments that go on after it was stopped, wherever that was."""
    left: Callable
    """What it leaves, in comparable form."""
    launcher: tuple = ()


def train(name, folder, device="flex", launcher=(), more=()):
    begin = ["train", "configs/tiny.toml", *settings(run__dir=folder, run__device=device), *TRAIN, *more]
    def go_on():
        return ["train", "--resume", folder] if (folder / "config.toml").exists() else begin
    return Command(name, folder, lambda: begin, go_on, lambda: results.run(folder), launcher)


def pretrain(stage, out):
    fit = {f"{stage}__fit__{key}": value for key, value in dict(steps=10, checkpoint_every=2, preview_every=4, warmup_steps=0, parts=1).items()}
    arguments = ["pretrain", "configs/tiny-prior.toml", "--stage", stage, *settings(out=out, **fit, **STAGES[stage])]
    needed = {"unet": ["vae", "text_encoder", "judge"], "embedding": ["vae"]}.get(stage, [])
    def begin():
        for part in needed:
            shutil.copytree(ROOT / "assets/tiny" / part, out / part, dirs_exist_ok=True)
        return arguments
    return Command(f"pretrain {stage}", out, begin, begin, lambda: results.stage(out, stage))


def sweep(folder, scratch):
    file = scratch / f"{folder.name}.toml"
    changes = "\n".join(word.replace("=", " = ", 1) for word in TRAIN[1::2])
    file.write_text(
        f'name = "faults"\nbase = "configs/tiny.toml"\noutput = "{folder}"\nseeds = [1, 2]\n[set]\n{changes}\n'
        '[[variants]]\nname = "Addition"\nset = { model.fusion = "add" }\n'
    )
    arguments = ["sweep", file]
    def left():
        cells = {path.parent.name: results.run(path.parent) for path in sorted(folder.rglob("summary.json"))}
        return {"cells": cells, "table": results.table(folder / "results.md", without=["images/s", "Trained by"])}
    # A cell that failed is trained again only when one asks for it.
    return Command("sweep", folder, lambda: arguments, lambda: [*arguments, "--retry"], left)


def recipe(scratch, count=12):
    file = scratch / "recipe.toml"
    file.write_text(
        f'name = "faults"\nseed = 1\ncount = {count}\nsize = 64\n[source]\nkind = "world"\nseed = 900\ncount = 400\n'
        '[degradation]\nkind = "parameterized"\n'
    )
    return file


def test_set(folder, scratch, count=200):
    file = recipe(scratch, count)
    arguments = ["benchmark", "make", file, "-o", folder]
    def left():
        return {"pictures": results.pictures(folder), "sums": (folder / "SHA256SUMS").read_text()}
    return Command("benchmark make", folder, lambda: arguments, lambda: arguments, left)


def twelve(campaign):
    """A fresh test set of twelve pictures, from which other trials take theirs."""
    folder = campaign.scratch / "twelve"
    shutil.rmtree(folder, ignore_errors=True)
    campaign.must(*test_set(folder, campaign.scratch, 12).start())


def evaluate(folder, scratch):
    file = scratch / f"{folder.name}.toml"
    file.write_text(
        f'name = "faults"\noutput = "{folder}"\nmetrics = ["psnr", "ssim", "clip_i"]\nclip = "assets/tiny"\nbatch_size = 2\n[sampling]\nsteps = 4\n'
        f'[[benchmarks]]\ntitle = "Twelve"\nfolder = "{scratch / "twelve"}"\nrecipe = "{recipe(scratch)}"\n'
        '[[methods]]\nname = "Degraded"\nkind = "input"\n'
        '[[methods]]\nname = "SPIRE"\nbase = "assets/tiny"\ncontrol = "assets/tiny/control"\n'
    )
    arguments = ["eval", file]
    def left():
        measured = json.loads((folder / "results.json").read_text())
        return {"figures": [[method["figures"] for method in benchmark["methods"]] for benchmark in measured["benchmarks"]]}
    return Command("eval", folder, lambda: arguments, lambda: arguments, left)


def restore(folder, pictures):
    arguments = ["restore", pictures, "-o", folder, *"--steps 4 --semantic panda".split()]
    return Command("restore a folder", folder, lambda: arguments, lambda: arguments, lambda: {"pictures": results.pictures(folder)})


def degrade(folder):
    arguments = ["degrade", ROOT / "docs/figures/world.png", "--prompt", "Deblur with sigma 3.0; Dejpeg with quality 40", "-o", folder / "degraded.png"]
    def begin():
        folder.mkdir(exist_ok=True)
        return arguments
    return Command("degrade", folder, begin, begin, lambda: {"pictures": results.pictures(folder)})
