"""Copies a parameterised test set and mirrors every number of its restoration prompts in its range: a branch that reads numbers restores worse
with them. The pictures stay the same. Needs Python alone.

    python scripts/bench/mirror_numbers.py benchmarks/tiny-parameterized benchmarks/tiny-parameterized-mirrored
"""

import hashlib
import json
import pathlib
import re
import shutil
import sys

# What a number follows, its range in configs/benchmarks/tiny-*.toml, and its decimals.
RANGES = {
    "Deblur with sigma ": (0.2, 3.0, 1),
    "Upsample to ": (1.0, 4.0, 1),
    "Denoise with sigma ": (0.01, 0.25, 2),
    "Dejpeg with quality ": (20, 95, 0),
}


def mirrored(prompt):
    for words, (low, high, decimals) in RANGES.items():
        mirror = lambda match: words + f"{min(max(low + high - float(match[1]), low), high):.{decimals}f}"
        prompt = re.sub(re.escape(words) + r"(\d+(?:\.\d+)?)", mirror, prompt)
    return prompt


source, target = map(pathlib.Path, sys.argv[1:3])
shutil.copytree(source, target)
entries = [json.loads(line) for line in (source / "prompts.jsonl").read_text().splitlines()]
for entry in entries:
    entry["restoration"] = mirrored(entry["restoration"])
lines = [json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n" for entry in entries]
(target / "prompts.jsonl").write_text("".join(lines))
names = [line.split("  ", 1)[1] for line in (source / "SHA256SUMS").read_text().splitlines()]
sums = [f"{hashlib.sha256((target / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
(target / "SHA256SUMS").write_text("".join(sums))
