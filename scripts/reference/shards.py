"""Writes a small dataset with WebDataset and Hugging Face's libraries, and what a reader should find in it.

    shards.py tests/shards

Writes `wds-*.tar` (webdataset), `pax.tar` (Python's tarfile, with names longer than a header holds), `hf.parquet`
(datasets, with its image type), `list.parquet` (pyarrow: lists of captions, small row groups and pages, gzip),
`metadata.jsonl` with `pictures/` (datasets' imagefolder), and `expected.json`: for each sample its captions and the sum of
each colour over all pixels.
"""

import argparse
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import webdataset
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

SAMPLES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    random = numpy.random.default_rng(args.seed)
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)

    pictures, captions = [], []
    for i in range(SAMPLES):
        height, width = random.integers(5, 30, 2)
        pictures.append(random.integers(0, 256, (height, width, 3), dtype=numpy.uint8))
        captions.append([f"picture {i}, Ärger — 熊", f"the same picture {i}"][: 1 + i % 2])
    expected = [
        {"captions": texts, "sums": pixels.sum((0, 1)).tolist(), "size": list(pixels.shape[1::-1])}
        for pixels, texts in zip(pictures, captions)
    ]
    (args.out / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1))
    files = [png(pixels) for pixels in pictures]
    write_webdataset(args.out, files, captions)
    write_pax(args.out / "pax.tar", files, captions)
    write_datasets(args.out / "hf.parquet", files, captions)
    write_list(args.out / "list.parquet", files, captions)
    write_folder(args.out, files, captions)


def png(pixels: numpy.ndarray) -> bytes:
    file = io.BytesIO()
    Pictures.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_webdataset(out: Path, files: list[bytes], captions: list[list[str]]) -> None:
    with webdataset.ShardWriter(str(out / "wds-%06d.tar"), maxcount=4, verbose=0) as writer:
        for i, (file, texts) in enumerate(zip(files, captions)):
            text = {"txt": texts[0]} if len(texts) == 1 else {"json": {"caption": texts, "width": 1}}
            writer.write({"__key__": f"{i:09d}", "png": file, "cls": i, **text})


def write_pax(path: Path, files: list[bytes], captions: list[list[str]]) -> None:
    with tarfile.open(path, "w") as tar:
        for i, (file, texts) in enumerate(zip(files, captions)):
            key = f"{'ordner-mit-ümlaut/' * 8}{i}"
            for extension, data in (("json", json.dumps({"text": texts}).encode()), ("PNG", file)):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_datasets(path: Path, files: list[bytes], captions: list[list[str]]) -> None:
    columns = {
        "label": list(range(len(files))),
        "image": [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)],
        "text": [texts[0] for texts in captions],
    }
    features = Features({"label": Value("int64"), "image": Image(), "text": Value("string")})
    Dataset.from_dict(columns, features=features).to_parquet(path)


def write_list(path: Path, files: list[bytes], captions: list[list[str]]) -> None:
    table = pyarrow.table({"jpg": files, "captions": captions, "score": [0.5] * len(files)})
    options = {"row_group_size": 3, "data_page_size": 500, "compression": "gzip", "data_page_version": "2.0"}
    pyarrow.parquet.write_table(table, path, **options)


def write_folder(out: Path, files: list[bytes], captions: list[list[str]]) -> None:
    (out / "pictures").mkdir()
    lines = []
    for i, (file, texts) in enumerate(zip(files, captions)):
        (out / "pictures" / f"{i}.png").write_bytes(file)
        lines.append(json.dumps({"file_name": f"pictures/{i}.png", "text": texts[0] if len(texts) == 1 else texts}))
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
