"""Drives a built program through kills, full disks, vanishing files and hostile input, and counts what goes wrong.

    cargo build --release && python3 scripts/faults/campaign.py target/release/spire

Ends with code 1 if anything panicked, hung, was lost, or said that it succeeded when it did not.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import disk
import hostile
import kills
import serving
import vanish
from program import Campaign

GROUPS = {"kills": kills, "disk": disk, "vanish": vanish, "hostile": hostile, "serving": serving}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, help="the built program")
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help="which of the groups; by default all")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments of the kills and the hostile input")
    parser.add_argument("--times", type=float, default=1, help="factor for the number of trials")
    parser.add_argument("--mpi", action="store_true", help="the program was built with the feature mpi: try mpirun, too")
    parser.add_argument("--json", type=Path, help="write counts and findings to this file")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each trial")
    options = parser.parse_args()

    scratch = Path(tempfile.mkdtemp(prefix="spire-faults-"))
    # Trials as an unprivileged user have to reach their folders.
    scratch.chmod(0o755)
    campaign = Campaign(options.program.resolve(), scratch, random.Random(options.seed), options.times, options.mpi, options.verbose)
    started = time.monotonic()
    try:
        for name in options.groups or GROUPS:
            since = time.monotonic()
            GROUPS[name].run(campaign)
            print(f"{name}: {time.monotonic() - since:.0f} s", flush=True)
    finally:
        if options.json:
            options.json.write_text(json.dumps({"trials": campaign.trials, "kills": campaign.kills, "findings": campaign.findings}, indent=1))
        if not campaign.findings:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{'trial':<60} {'tried':>6} {'faults':>7}")
    for what, (tried, faulty) in campaign.trials.items():
        print(f"{what:<60} {tried:>6} {faulty:>7}")
    total = sum(tried for tried, _ in campaign.trials.values())
    print(f"{total} trials, {sum(campaign.kills.values())} kills in {time.monotonic() - started:.0f} s: {len(campaign.findings)} faults")
    if campaign.findings:
        print(f"their files: {scratch}")
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
