#!/usr/bin/env python3
"""Prints what TensorBoard reads from a run: the first and last point of every curve, steps and sizes of pictures.

    python scripts/read_events.py runs/tiny/tensorboard
"""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVERYTHING = {"scalars": 0, "images": 0}


def main(directory: str) -> None:
    events = EventAccumulator(directory, size_guidance=EVERYTHING).Reload()
    tags = events.Tags()
    for tag in tags["scalars"]:
        points = events.Scalars(tag)
        first, last = points[0], points[-1]
        print(f"{tag}: {len(points)} points, step {first.step}: {first.value:g} .. step {last.step}: {last.value:g}")
    for tag in tags["images"]:
        for picture in events.Images(tag):
            png = picture.encoded_image_string
            # A PNG's size is in its header: four bytes each for width and height after the first 16.
            size = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
            assert size == (picture.width, picture.height), f"{tag}: the PNG is {size}"
            print(f"{tag}: picture at step {picture.step}, {picture.width} x {picture.height}")
    if not tags["scalars"] and not tags["images"]:
        sys.exit(f"{directory}: no scalars or pictures")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
