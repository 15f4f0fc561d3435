"""A command that passes for a trainer: standard library alone, takes the arguments of RingRift's.

Prints an epoch, waits at `--gate` (a FIFO) if there is one, prints another and writes a copy of `--weights` to `--save-path`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("data-path", "save-path", "board-type", "num-players", "weights", "gate", "child", "starts", "note"):
    parser.add_argument(f"--{name}")
parser.add_argument("--status", type=int, default=0)
parser.add_argument("--stubborn", action="store_true")
given = parser.parse_args()
if given.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if given.child:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])
    Path(given.child).write_text(str(child.pid))
if given.starts:
    with Path(given.starts).open("a") as file:
        file.write(f"{os.getpid()}\n")
print("note:", given.note, flush=True)
print(json.dumps({"epoch": 1, "val_loss": 0.5}), flush=True)
if given.gate:
    Path(given.gate).read_bytes()
print(json.dumps({"epoch": 2, "val_loss": 0.25, "path": given.data_path}), flush=True)
if given.status:
    print("CUDA out of memory", file=sys.stderr, flush=True)
    sys.exit(given.status)
if given.weights:
    shutil.copyfile(given.weights, given.save_path)
