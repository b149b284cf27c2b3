"""The criterion bench of hot pure pieces (benches/pieces.rs): run, and read back."""
import json
import os
import subprocess


def run(root, quick=False):
    """{piece: microseconds}, the median estimate of each."""
    argv = ["cargo", "bench", "--locked", "--bench", "pieces", "--quiet", "--"]
    if quick:
        argv += ["--warm-up-time", "0.2", "--measurement-time", "0.5"]
    subprocess.run(argv, cwd=root, check=True)
    found = {}
    top = os.path.join(root, "target", "criterion")
    for at, _, files in os.walk(top):
        if os.path.basename(at) == "new" and "estimates.json" in files:
            with open(os.path.join(at, "estimates.json")) as file:
                found[os.path.relpath(os.path.dirname(at), top)] = json.load(file)["median"]["point_estimate"] / 1000
    return found
