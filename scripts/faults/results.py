"""What a command leaves behind, for comparisons that are exact: everything that does not depend on the clock."""

import hashlib
import json
from pathlib import Path

# How fast a step was.
TIMED = ("images_per_second", "data_wait")


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def metrics(path):
    """Every line of a metrics.jsonl with all digits, without its times."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def weights(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(Path(folder).rglob("*.safetensors"))}


def run(folder):
    """A finished run: its steps, its branch, its figures, its sheets."""
    folder = Path(folder)
    return {
        "metrics": metrics(folder / "metrics.jsonl"),
        "branch": weights(folder / "control"),
        "figures": json.loads((folder / "summary.json").read_text()).get("held_out"),
        "sheets": {path.name: sha256(path) for path in sorted((folder / "samples").iterdir())},
    }


def table(path, without=()):
    """The rows of the Markdown tables in a file, without the columns of these names."""
    rows, kept = [], []
    for line in Path(path).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("| \n").split("|")]
        if not line.startswith("|"):
            kept = []
        elif not kept:
            kept = [i for i, name in enumerate(cells) if name not in without]
        else:
            rows.append([cells[i] for i in kept if i < len(cells)])
    return rows


def stage(out, stage):
    """A finished stage of pretraining: its steps, and the weights of all parts."""
    return {
        "metrics": metrics(Path(out) / "training" / stage / "metrics.jsonl"),
        "weights": {name: sum for name, sum in weights(out).items() if not name.startswith("training")},
    }


def pictures(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(Path(folder).rglob("*.png"))}


def difference(expected, found):
    """The first difference in a sentence; `None` where there is none."""
    for key in expected:
        if expected[key] == found.get(key):
            continue
        if isinstance(expected[key], list):
            pairs = [pair for pair in zip(expected[key], found[key]) if pair[0] != pair[1]]
            return f"lost: {key} has {len(found[key])} lines instead of {len(expected[key])}; first difference {pairs[:1]}"
        return f"lost: {key} differs: {expected[key]} became {found.get(key)}"[:600]
    return None


def torn(folder):
    """Files under a final name that are not whole, and temporary files."""
    found = []
    for path in Path(folder).rglob("*"):
        if not path.is_file() or any(part.startswith(".tmp-") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".png" and not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
            found.append(path.name)
        if path.suffix == ".json":
            try:
                json.loads(path.read_text())
            except ValueError:
                found.append(path.name)
    return found


def temporary(folder):
    return [str(path.relative_to(folder)) for path in Path(folder).rglob(".tmp-*")]
