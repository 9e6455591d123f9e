"""The main job on real data: write a table to CSV, fit it from there, predict new rows, look at what came out.

Then a law instead of a table: the temperature of a plate from 12 sensors and the heat equation.

Run by `make demo`. Everything lands in `demo/`, which is made anew; nothing is opened.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_diabetes

FOLDER = Path("demo")
TARGET = "progression"


def thalweg(*arguments: str) -> None:
    """One command, as a user would type it."""
    sys.stdout.write(f"\n$ thalweg {' '.join(arguments)}\n")
    sys.stdout.flush()
    status = subprocess.run([sys.executable, "-m", "thalweg.cli", *arguments], check=False).returncode
    if status:
        sys.exit(status)


def main() -> None:
    """442 diabetes patients (Efron et al., 2004), of whom the last 20 play the new ones."""
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    patients = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": TARGET})
    patients = patients.sample(frac=1, random_state=0)
    patients[:-20].to_csv(FOLDER / "patients.csv", index=False)
    new = patients[-20:].drop(columns=TARGET)
    new.iloc[0, new.columns.get_loc("bmi")] = 70.0  # nobody like this was seen: the prediction must say so
    new.to_csv(FOLDER / "new_patients.csv", index=False)

    run, answers = FOLDER / "run", FOLDER / "predictions.csv"
    thalweg("fit", str(FOLDER / "patients.csv"), "--target", TARGET, "--out", str(run))
    thalweg("predict", str(run), str(FOLDER / "new_patients.csv"), "--out", str(answers))

    found = pd.read_csv(answers, keep_default_na=False)
    found.insert(0, "truth", patients[-20:][TARGET].to_numpy())
    sys.stdout.write("\n" + found.round(1).to_string(index=False) + "\n")
    inside = (found["truth"] - found["mean"]).abs() <= 1.96 * found["total_std"]
    sys.stdout.write(f"\n{inside.sum()} of {len(found)} truths lie within 95 % of what was predicted for them.\n")

    plate = FOLDER / "plate"
    thalweg("run", "heat-plate", "--preset", "quick", "--out", str(plate))
    pages = f"{run / 'report.html'} and {plate / 'report.html'}"
    sys.stdout.write(f"\nThe pages to look at: {pages} ({time.monotonic() - began:.0f} s)\n")


if __name__ == "__main__":
    main()
