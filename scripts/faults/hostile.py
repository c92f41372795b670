"""Input that nobody meant: pictures, captions, weights, configurations, tokenizers, settings, prompts."""

import json
import os
import shutil
import tomllib

import commands
from program import ROOT, settings
from vanish import photos

ODD_NUMBERS = [0, -1, 1, 2**31, 2**63 - 1, -(2**63), 10**14, 1e30, 1e-30, -1e30, 3.5]
ODD_TOML = [*map(repr, ODD_NUMBERS), "nan", "inf", "-inf", '""', '"x"', '"\\u0000"', '"/dev/zero"', "[]", "[1]", "[-1, 1e30]", "[nan, nan]", "[5.0, 1.0]", "{}", "true", "1979-05-27"]
ODD_JSON = [*ODD_NUMBERS, None, "", "x", "\0", [], {}, [[]], [0], [-1], [10**9], True, "NaN", [1] * 1000]


def mutated(random, content):
    """The bytes with one to four changes: flipped, cut, doubled, zeroed, exchanged for a number at the limit."""
    content = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(content) + 1)
        length = random.choice([1, 2, 4, 16, 200])
        match random.randrange(6):
            case 0:
                content[at : at + length] = random.randbytes(length)
            case 1:
                del content[at:]
            case 2:
                content[at:at] = content[at : at + length]
            case 3:
                content[at : at + length] = bytes(length)
            case 4:
                content[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x01", b"9999"])
            case 5:
                del content[at : at + length]
        if not content:
            break
    return bytes(content)


def odd_json(random, text):
    """The JSON with one of its values exchanged for an odd one."""
    value = json.loads(text)
    places = []

    def collect(inner):
        pairs = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else []
        for key, below in list(pairs)[:200]:
            places.append((inner, key))
            collect(below)

    collect(value)
    if not places:
        return json.dumps(random.choice(ODD_JSON))
    inner, key = random.choice(places)
    inner[key] = random.choice(ODD_JSON)
    return json.dumps(value)


def pictures(campaign, count):
    """Damaged pictures of every format: one by one through degrade, and a folder of them through stats and restore."""
    seeds = [path.read_bytes() for path in sorted((ROOT / "tests/pictures").iterdir())]
    start = campaign.scratch / "twelve/clean"
    first = sorted(start.glob("*.png"))[0]
    for ending in ("jpg", "webp"):
        target = campaign.scratch / f"seed.{ending}"
        campaign.must("degrade", first, "--prompt", "Deblur with sigma 1.0", "-o", target)
        seeds.append(target.read_bytes())
    folder = campaign.folder("hostile-pictures")
    for n in range(count):
        (folder / f"{n}.{campaign.random.choice(['png', 'jpg', 'webp'])}").write_bytes(mutated(campaign.random, campaign.random.choice(seeds)))
    for path in sorted(folder.iterdir())[: count // 3]:
        ended = campaign.run("degrade", path, "--prompt", "Denoise with sigma 0.1", "-o", campaign.scratch / "out.png")
        campaign.count("hostile picture: degrade", ended.fault(), ended)
    out = campaign.folder("restored")
    ended = campaign.run("restore", folder, "-o", out, "--steps", "1", timeout=300)
    told = ended.error.count("hostile") + len(list(out.rglob("*.png")))
    campaign.count(f"{count} hostile pictures: restore a folder", ended.fault() or (told == 0 and "nothing told"), ended)
    for path in folder.iterdir():
        path.with_suffix(".txt").write_text("a picture")
    config = campaign.scratch / "photos.toml"
    config.write_text(f'[data.source]\nkind = "folder"\npath = "{folder}"\n')
    ended = campaign.run("data", "stats", config, timeout=300)
    campaign.count(f"{count} hostile pictures: data stats", ended.fault(), ended)


def captions(campaign):
    odd = {
        "nul": b"a\0b", "latin-1": b"\xe4\xf6\xfc", "utf-16": "panda".encode("utf-16"), "controls": b"\x1b[2J\x07\x1b]0;x\x07 panda",
        "long line": b"panda " * 20_000, "lines": b"\n" * 3000 + b"panda", "empty": b"", "spaces": b" \t\r\n", "bom": b"\xef\xbb\xbfpanda",
        "emoji": "🐼".encode() * 500, "bidirectional": "\u202epanda\u202c".encode(), "braces": b"{0}{}%s%n$(id)`id`", "markup": b"<script>alert(1)</script>",
    }
    config = campaign.scratch / "photos.toml"
    for name, text in odd.items():
        folder = photos(campaign, 4)
        for path in folder.glob("*.txt"):
            path.write_bytes(text)
        config.write_text(f'[data]\nsize = 64\n[data.source]\nkind = "folder"\npath = "{folder}"\n')
        run = campaign.scratch / "run"
        shutil.rmtree(run, ignore_errors=True)
        for command in [
            ["data", "stats", config],
            ["data", "prompts", config],
            ["restore", folder, "-o", campaign.folder("restored"), "--captions", "--steps", "1"],
        ]:
            ended = campaign.run(*command)
            raw = any(ord(character) < 32 and character not in "\n\r\t" for character in ended.output + ended.error)
            campaign.count("odd captions", ended.fault() or (raw and f"control characters printed raw ({name})"), ended)


def model_files(campaign, count):
    """A model with one file exchanged for a damaged one."""
    source = ROOT / "assets/tiny"
    files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file() and path.suffix in (".json", ".safetensors", ".txt", ".toml")]
    model = campaign.scratch / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(source, model, copy_function=os.link if os.stat(source).st_dev == os.stat(campaign.scratch).st_dev else shutil.copy)
    picture = sorted((campaign.scratch / "twelve/degraded").glob("*.png"))[0]
    for _ in range(count):
        name = campaign.random.choice(files)
        path = model / name
        content = path.read_bytes()
        if name.suffix == ".json" and campaign.random.random() < 0.7 and len(content) < 100_000:
            changed = odd_json(campaign.random, content).encode()
        elif name.suffix == ".safetensors" and campaign.random.random() < 0.8:
            length = 8 + int.from_bytes(content[:8], "little")
            changed = mutated(campaign.random, content[:length]) + content[length:]
        else:
            changed = mutated(campaign.random, content)
        # A new file: the old one is another name of the original.
        path.unlink()
        path.write_bytes(changed)
        ended = campaign.run("weights", "inspect", model, "--summary", timeout=60)
        campaign.count("hostile model: weights inspect", ended.fault() and f"{name}: {ended.fault()}", ended)
        ended = campaign.run("restore", picture, "-o", campaign.scratch / "out.png", "--base", model, "--control", model / "control", "--steps", "1", "--overwrite", timeout=60)
        campaign.count("hostile model: restore", ended.fault() and f"{name}: {ended.fault()}", ended)
        if ended.fault():
            kept = campaign.folder(f"kept-{len(campaign.findings)}")
            (kept / name.name).write_bytes(changed)
        path.unlink()
        path.write_bytes(content)
    shutil.rmtree(model)


def keys(value, before=""):
    """The dotted keys of a configuration, those of sections included."""
    for key, inner in value.items():
        yield before + key
        if isinstance(inner, dict):
            yield from keys(inner, f"{before}{key}.")
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            yield from keys(inner[0], f"{before}{key}.0.")


def toml_values(campaign, count):
    """An odd value for a key of each kind of configuration."""
    scratch = campaign.scratch
    sweep = commands.sweep(scratch / "sweep", scratch)
    evaluation = commands.evaluate(scratch / "evaluation", scratch)
    test_set = commands.test_set(scratch / "set", scratch, 4)
    fit_keys = ["steps", "batch_size", "learning_rate", "warmup_steps", "schedule", "weight_decay", "max_grad_norm", "ema_decay", "parts", "checkpoint_every", "preview_every"]
    # A value may become the name of a folder: here it lies in the scratch folder.
    place = campaign.folder("place")
    for name in ("configs", "assets"):
        (place / name).symlink_to(ROOT / name)
    small = tomllib.loads((ROOT / "configs/tiny-prior.toml").read_text())
    shared = ["out", "start", "seed", "device", "world.size", "world.count", "world.seed", "degradation.parameterized.blur_sigma"]
    stages = {
        commands.pretrain(stage, scratch / "prior"): [*shared, *(f"{stage}.fit.{key}" for key in fit_keys), *3 * [key for key in keys(small) if key.startswith(f"{stage}.") and ".fit" not in key]]
        for stage in commands.STAGES
    }
    chosen = {
        **stages,
        sweep: [*keys(tomllib.loads(sweep.start()[1].read_text())), "parallel", "devices", "runs", "grid", "set.train.batch_size"],
        evaluation: [*keys(tomllib.loads(evaluation.start()[1].read_text())), "seed", "threads", "against", "fid", "pixels.border", "bootstrap"],
        test_set: [*keys(tomllib.loads(test_set.start()[2].read_text())), "degradation.parameterized.blur_sigma", "filter"],
    }
    for command, names in chosen.items():
        for _ in range(count // 3 if command in stages else count):
            shutil.rmtree(command.folder, ignore_errors=True)
            key, value = campaign.random.choice(names), campaign.random.choice(ODD_TOML)
            ended = campaign.run(*command.start(), "--set", f"{key}={value}", timeout=40, cwd=place)
            fault = ended.fault()
            if ended.timed_out and any(sign in ended.error[-3000:] for sign in ("step ", "training; ")):
                fault = None  # Accepted, and at work: a stage prints its steps, a sweep the cell that it trains.
            campaign.count(f"odd setting: {command.name}", fault, ended)
        shutil.rmtree(command.folder, ignore_errors=True)


def toml_text(campaign, count):
    """Configurations with damaged text."""
    scratch = campaign.scratch
    files = {path: path.read_bytes() for path in [ROOT / "configs/tiny.toml", ROOT / "configs/reference.toml", ROOT / "configs/sweeps/smallest.toml", ROOT / "configs/benchmarks/tiny-parameterized.toml"]}
    for _ in range(count):
        path, content = campaign.random.choice(list(files.items()))
        changed = scratch / "changed.toml"
        changed.write_bytes(mutated(campaign.random, content))
        command = {
            "smallest.toml": ["sweep", changed, "--dry-run"],
            "tiny-parameterized.toml": ["benchmark", "make", changed, "-o", campaign.folder("set") / "new", *settings(count=2)],
        }.get(path.name, ["train", changed, "--dry-run"])
        ended = campaign.run(*command, timeout=60)
        campaign.count("damaged TOML", ended.fault(), ended)


def prompts(campaign, count):
    """Restoration prompts from parts of the grammar in any order."""
    parts = ["Deblur", "Upsample", "Denoise", "Dejpeg", "with", "sigma", "quality", "to", "x", "6.0x", "3.0", "0", "-1", "1e30", "nan", "inf", "80", ";", "; ", ",", " ", "  ", "Remove all degradation", "\u00a0", "💥", "x" * 3000, "3.0.0", "١", "\t"]
    picture = sorted((campaign.scratch / "twelve/clean").glob("*.png"))[0]
    for _ in range(count):
        text = " ".join(campaign.random.choice(parts) for _ in range(campaign.random.randint(0, 9)))
        ended = campaign.run("degrade", picture, "--prompt", text, "-o", campaign.scratch / "out.png", timeout=30)
        campaign.count("hostile prompt: degrade", ended.fault(), ended)


def run(campaign):
    commands.twelve(campaign)
    more = campaign.times
    prompts(campaign, more(60))
    pictures(campaign, more(150))
    captions(campaign)
    toml_text(campaign, more(60))
    toml_values(campaign, more(40))
    model_files(campaign, more(50))
