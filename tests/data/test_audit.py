"""The leakage audit: every leak that was planted is found, and no table without one is accused."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from thalweg.data import LeakKind, Split, Task, audit, group_split, random_split, time_split
from thalweg.errors import UserError


@dataclass
class Case:
    """A table, its split, and the leak that is in it."""

    name: str
    frame: pd.DataFrame
    split: Split
    leak: LeakKind | None = None
    column: str | None = None
    group: str | None = None
    time: str | None = None
    task: Task | None = None


def real(seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Four real tables, shuffled, of each at most 500 rows; the target is y."""
    rng = np.random.default_rng(seed)
    for load in (load_diabetes, load_breast_cancer, load_wine, load_digits):
        bunch = load()
        frame = pd.DataFrame(bunch["data"], columns=[f"x{i}" for i in range(bunch["data"].shape[1])])
        frame["y"] = bunch["target"]
        yield load.__name__, frame.iloc[rng.permutation(len(frame))[:500]].reset_index(drop=True)


def made(seed: int, n: int = 400, d: int = 6, noise: float = 0.5) -> pd.DataFrame:
    """A synthetic table: correlated, skewed and rounded columns, one of names, and a target with an interaction."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)) / d**0.5)
    frame = pd.DataFrame({f"x{i}": z[:, i] for i in range(d)})
    frame["x1"] = np.exp(frame["x1"])  # a long tail
    frame["x2"] = frame["x2"].round(1)  # ties
    frame["kind"] = rng.choice(["a", "b", "c"], n, p=[0.6, 0.3, 0.1])
    law = z[:, 0] + z[:, 3] * z[:, 4] + (frame["kind"] == "b")
    frame["y"] = law + noise * law.std() * rng.normal(size=n)
    return frame


def labelled(frame: pd.DataFrame, classes: int = 3) -> pd.DataFrame:
    """The same with classes: the target cut at its quantiles."""
    return frame.assign(y=pd.qcut(frame["y"], classes, labels=list("abcdefgh"[:classes])).astype(str))


def at_random(frame: pd.DataFrame, seed: int) -> Split:
    return random_split(len(frame), seed)


# ---------------------------------------------------------------------------------------------------- leaks
def with_copies(frame: pd.DataFrame, seed: int, share: float) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    again = frame.iloc[rng.choice(len(frame), round(share * len(frame)), replace=False)]
    return pd.concat([frame, again]).iloc[rng.permutation(len(frame) + len(again))].reset_index(drop=True)


def with_near_copies(frame: pd.DataFrame, seed: int, jitter: float, share: float = 0.2) -> pd.DataFrame:
    """Some rows measured again: each number with a little noise, whatever is text the same."""
    rng = np.random.default_rng(seed)
    again = frame.iloc[rng.choice(len(frame), round(share * len(frame)), replace=False)].copy()
    for name in again.columns.drop("y"):
        if again[name].dtype.kind == "f":
            again[name] += jitter * frame[name].std() * rng.normal(size=len(again))
    return pd.concat([frame, again]).iloc[rng.permutation(len(frame) + len(again))].reset_index(drop=True)


def visits(seed: int, text: bool, patients: int = 80) -> pd.DataFrame:
    """Patients who come several times; each has a level of their own."""
    rng = np.random.default_rng(seed)
    who = rng.integers(patients, size=400)
    codes = rng.permutation(10 * patients)[:patients] + 1_000
    frame = pd.DataFrame({f"x{i}": rng.normal(size=400) for i in range(4)})
    frame["patient"] = [f"P{code}" for code in codes[who]] if text else codes[who]
    frame["y"] = frame["x0"] + 1.5 * rng.normal(size=patients)[who] + 0.5 * rng.normal(size=400)
    return frame


def series(seed: int) -> pd.DataFrame:
    """A target that drifts, row by row, beside features that know nothing of it."""
    rng = np.random.default_rng(seed)
    drift = np.zeros(400)
    for i in range(1, 400):
        drift[i] = 0.9 * drift[i - 1] + rng.normal()
    frame = pd.DataFrame({f"x{i}": rng.normal(size=400) for i in range(4)})
    return frame.assign(day=np.arange(400) * 1.5, y=drift + frame["x0"])


DRESSES: dict[str, Callable[[pd.Series, np.random.Generator], pd.Series]] = {
    "equal": lambda y, rng: y,
    "in other units": lambda y, rng: 32 + 1.8 * y,
    "rounded units": lambda y, rng: (y / 2.54).round(9),
    "upside down": lambda y, rng: -y,
    "its logarithm": lambda y, rng: np.log(y - y.min() + 1),
    "its cube": lambda y, rng: (y - y.mean()) ** 3,
    "with gaps": lambda y, rng: y.mask(rng.random(len(y)) < 0.2),
    "a little noise": lambda y, rng: y + 0.01 * y.std() * rng.normal(size=len(y)),
    "less noise": lambda y, rng: y + 1e-3 * y.std() * rng.normal(size=len(y)),
}


def planted(base: int = 0) -> list[Case]:
    """Fifty tables with a leak in each."""
    found: list[Case] = []
    add = lambda name, frame, leak, **more: found.append(
        Case(
            f"{len(found)} {name}", frame, more.pop("split", None) or at_random(frame, base + len(found)), leak, **more
        )
    )
    for seed, share in ((0, 0.1), (1, 0.03)):
        for name, frame in real(base + seed):
            add(f"copies in {name}", with_copies(frame, base + seed, share), LeakKind.DUPLICATE_ROWS)
    for seed in range(3):
        frame = made(base + seed) if seed else labelled(made(base + seed))
        add("copies in a made table", with_copies(frame, base + seed, 0.05), LeakKind.DUPLICATE_ROWS)
    for seed, jitter in ((2, 0.01), (3, 0.05)):
        for name, frame in real(base + seed):
            add(f"near copies in {name}", with_near_copies(frame, base + seed, jitter), LeakKind.NEAR_DUPLICATES)
    for seed in range(4):
        add("near copies, made", with_near_copies(made(base + seed, d=8), base + seed, 0.01), LeakKind.NEAR_DUPLICATES)
    add("measured again", made(base + 9).pipe(again), LeakKind.NEAR_DUPLICATES)
    for seed in range(6):
        frame = visits(base + seed, text=seed % 2 == 0)
        if seed < 2:
            add("a declared group", frame, LeakKind.SHARED_GROUPS, column="patient", group="patient")
        else:
            frame = labelled(frame, 2) if seed == 5 else frame
            add("an undeclared group", frame, LeakKind.UNDECLARED_GROUPS, column="patient")
    dressed = [made(base + 20), next(iter(real(base + 4)))[1]]
    for seed, (name, dress) in enumerate(DRESSES.items()):
        frame = dressed[seed % 2]
        frame = frame.assign(copy=dress(frame["y"].astype(float), np.random.default_rng(base + seed)))
        add(name, frame, LeakKind.TARGET_COPIED, column="copy")
    classes = labelled(made(base + 21))
    for name, words in (("codes", {"a": 7, "b": 3, "c": 5}), ("words", {"a": "low", "b": "mid", "c": "high"})):
        add(f"recoded as {name}", classes.assign(copy=classes["y"].map(words)), LeakKind.TARGET_COPIED, column="copy")
    grade = classes["y"].map({"a": 0, "b": 10, "c": 20}) + np.random.default_rng(base + 0).integers(
        10, size=len(classes)
    )
    add("many codes a class", classes.assign(copy=grade), LeakKind.TARGET_COPIED, column="copy")
    missing = labelled(made(base + 22), 2)
    missing["copy"] = np.where(missing["y"] == "a", None, "x")
    add("missing in one class", missing, LeakKind.TARGET_COPIED, column="copy")
    for seed in range(4):
        frame = series(base + seed)
        if seed < 2:
            add("a random split of days", frame, LeakKind.TIME_ORDER, time="day", column="day")
        else:
            add("an undeclared series", frame.drop(columns="day"), LeakKind.ROW_ORDER)
    for seed in range(3):
        frame = made(base + 30 + seed).assign(
            # in whole numbers: what goes up by 2.5 a row may as well be a measurement at even distances
            number=np.arange(400) * 25 if seed else np.random.default_rng(base + 0).permutation(400)
        )
        add("a row counter", frame, LeakKind.INDEX_COLUMN, column="number")
    return found


def again(frame: pd.DataFrame) -> pd.DataFrame:
    """Every fifth row once more, with another reading of the target."""
    rng = np.random.default_rng(0)
    twice = frame[::5].assign(y=lambda one: one["y"] + 0.1 * rng.normal(size=len(one)))
    return pd.concat([frame, twice]).iloc[rng.permutation(len(frame) + len(twice))].reset_index(drop=True)


# ---------------------------------------------------------------------------------------------------- clean
def survey(seed: int, questions: int, levels: int, n: int = 500, latent: float = 0.0) -> pd.DataFrame:
    """Answers on a short scale: many rows are equal by chance, more so if one opinion is behind all answers."""
    rng = np.random.default_rng(seed)
    opinion = latent * rng.normal(size=(n, 1)) + rng.normal(size=(n, questions))
    answers = np.clip(np.floor(opinion + levels / 2), 0, levels - 1).astype(int)
    frame = pd.DataFrame(answers, columns=[f"q{i}" for i in range(questions)])
    return frame.assign(y=np.where(answers[:, 0] + rng.normal(size=n) > levels / 2, "yes", "no"))


def clean(base: int = 0) -> list[Case]:
    """Fifty tables without a leak, many of which look as if they had one."""
    found: list[Case] = []
    add = lambda name, frame, **more: found.append(
        Case(f"{len(found)} {name}", frame, more.pop("split", None) or at_random(frame, base + len(found)), **more)
    )
    for seed in range(3):
        for name, frame in real(base + 10 + seed):
            add(name, frame)
    for seed in range(2):
        add("made", made(base + 40 + seed) if seed % 2 else labelled(made(base + 40 + seed)))
    for seed, (questions, levels, latent) in enumerate(
        [
            (3, 2, 0),
            (4, 5, 0),
            (6, 3, 0),
            (12, 2, 0),
            (5, 7, 1.0),
            (8, 5, 1.5),
            (20, 3, 1.0),
            (25, 5, 2.0),
            (40, 2, 1.0),
        ]
    ):
        add(f"a survey {questions} × {levels}", survey(base + seed, questions, levels, latent=latent))
    for seed in range(3):  # a strong feature, R² 0.98, and one of 0.99
        rng = np.random.default_rng(base + seed)
        frame = made(base + 50 + seed)
        frame["strong"] = frame["y"] + (0.14 if seed else 0.1) * frame["y"].std() * rng.normal(size=len(frame))
        add("a strong feature", frame)
    strong = labelled(made(base + 53), 2)  # a test that is right 98 times in a hundred
    flipped = np.random.default_rng(base + 0).random(len(strong)) < 0.02
    add("a good test", strong.assign(test=np.where(flipped, strong["y"].map({"a": "b", "b": "a"}), strong["y"])))
    for seed in range(3):
        rng = np.random.default_rng(base + seed)
        whole = pd.DataFrame(rng.poisson(20, size=(400, 5)), columns=list("abcde"))
        add("whole numbers", whole.assign(y=whole["a"] + 2 * whole["b"] + rng.normal(scale=3, size=400)))
    for seed in range(2):  # an age: many rows share it, and near ages are alike
        rng = np.random.default_rng(base + seed)
        age = rng.integers(20, 90, size=600)
        frame = pd.DataFrame({"age": age, "x": rng.normal(size=600)})
        add("an age", frame.assign(y=0.1 * age + 2 * np.sin(age / 10) + rng.normal(size=600)))
    add("constant columns", made(base + 60).assign(one=1.0, other="same", nothing=np.nan))
    add("a column with gaps", made(base + 61).assign(x0=lambda f: f["x0"].mask(np.arange(len(f)) % 3 == 0)))
    for seed in range(2):  # twice in the training rows, and nowhere else
        frame = made(base + 62 + seed)
        split = at_random(frame, seed)
        twice = pd.concat([frame, frame.iloc[split.train[:60]]]).reset_index(drop=True)
        train = np.concatenate([split.train, np.arange(len(frame), len(twice))])
        add("copies within training", twice, split=Split(train, split.validation, split.test))
    add("sorted by the target", made(base + 64).sort_values("y").reset_index(drop=True))
    add("sorted by a feature", made(base + 65).sort_values("x0").reset_index(drop=True))
    add("classes in blocks", labelled(made(base + 66)).sort_values("y").reset_index(drop=True))
    for seed in range(2):
        frame = visits(base + seed, text=bool(seed))
        split = group_split(frame["patient"].to_numpy(), seed)
        add("a group kept together", frame, split=split, group="patient")
    for seed in range(2):
        frame = series(base + seed)
        add("days in order", frame, split=time_split(frame["day"].to_numpy()), time="day")
    rare = made(base + 67).assign(y=np.where(np.random.default_rng(base + 0).random(400) < 0.03, "ill", "well"))
    add("a rare class", rare)
    add("a class few features tell", labelled(made(base + 68, noise=0.02), 2))
    add("one feature", made(base + 69)[["x0", "y"]])
    rng = np.random.default_rng(base + 70)
    add("heavy tails", pd.DataFrame(rng.standard_cauchy((400, 5)), columns=list("abcdy")))
    curve = rng.uniform(0, 6, 400)  # five columns of one degree of freedom: neighbours are near
    bent = {f"x{i}": np.sin((i + 1) * curve / 3) for i in range(5)}
    add("a curve", pd.DataFrame(bent).assign(y=curve**2 + rng.normal(size=400)))
    clumps = np.repeat(rng.normal(scale=10, size=(8, 6)), 50, axis=0) + rng.normal(size=(400, 6))
    add("eight clumps", pd.DataFrame(clumps[rng.permutation(400)], columns=list("abcdey")))
    sparse = rng.poisson(0.15, size=(500, 30)) * rng.integers(1, 4, size=(500, 30))
    words = pd.DataFrame(sparse, columns=[f"w{i}" for i in range(30)])
    add("counts of words", words.assign(y=np.where(sparse[:, 0] + rng.normal(size=500) > 0.5, "spam", "ham")))
    return found


def audited(case: Case) -> set[tuple[LeakKind, str | None]]:
    found = audit(case.frame, "y", case.split, task=case.task, group=case.group, time=case.time).findings
    assert all(one.evidence and one.remedy for one in found)
    return {(one.kind, one.columns[0] if one.columns else None) for one in found}


def test_every_planted_leak_is_found():
    cases = planted()
    missed = [case.name for case in cases if (case.leak, case.column) not in audited(case)]
    assert len(cases) == 50
    assert missed == []


def test_nothing_is_found_where_nothing_is():
    cases = clean()
    accused = {case.name: found for case in cases if (found := audited(case))}
    assert len(cases) == 50
    assert accused == {}


@pytest.mark.slow
def test_the_checks_were_not_fitted_to_those_tables():
    """Other draws of everything: measured when written, 200 of 200 found and 1 of 200 accused, in four of them."""
    found = accused = 0
    for base in (1_000, 2_000):
        found += sum((case.leak, case.column) in audited(case) for case in planted(base))
        accused += sum(bool(audited(case)) for case in clean(base))
    # each check errs by chance in less than one table in a hundred, and there are eight
    assert found >= 97
    assert accused <= 3


def test_the_evidence_names_the_rows_and_the_figures():
    frame = made(0)
    twice = pd.concat([frame, frame[:40]]).reset_index(drop=True)  # row i equals row 400 + i
    split = at_random(twice, 0)
    (found,) = [one for one in audit(twice, "y", split).findings if one.kind is LeakKind.DUPLICATE_ROWS]
    assert found.sure
    part = np.empty(len(twice), int)
    for number, rows in enumerate(split):
        part[rows] = number
    across = {(i, 400 + i) for i in range(40) if part[i] != part[400 + i]}
    assert {tuple(sorted(pair)) for pair in found.rows} == across
    assert found.figures["copies"] == len(across)


def test_groups_on_both_sides_are_counted():
    frame = visits(0, text=True)
    split = at_random(frame, 0)
    (found,) = [one for one in audit(frame, "y", split, group="patient").findings if one.sure]
    who = frame["patient"].to_numpy()
    seen = set(who[np.concatenate([split.train, split.validation])])
    shared = [one for one in who[split.test] if one in seen]
    assert found.figures["groups"] == len(set(shared))
    assert f"{len(shared)} of {len(split.test)} test rows" in found.evidence
    assert all(who[row] == who[twin] for row, twin in found.rows)


def test_what_cannot_be_audited_is_refused():
    frame = made(0)
    split = at_random(frame, 0)
    rows = np.arange(400)
    for words, call in (
        ("'price' is not in the table", lambda: audit(frame, "price", split)),
        ("'owner' is not in the table", lambda: audit(frame, "y", split, group="owner")),
        ("group column 'x0' has no value in 1 of 400", lambda: audit(
            frame.assign(x0=frame["x0"].mask(rows == 3)), "y", split, group="x0")),
        ("time column 'kind' holds", lambda: audit(frame, "y", split, time="kind")),
        ("no value of the target", lambda: audit(frame.assign(y=frame["y"].mask(rows == 3)), "y", split)),
        ("is constant", lambda: audit(frame.assign(y=1.0), "y", split)),
        ("infinite", lambda: audit(frame.assign(y=frame["y"].mask(rows == 3, np.inf)), "y", split)),
        ("0 rows", lambda: audit(frame[:0], "y", split)),
        ("beyond the 50", lambda: audit(frame[:50], "y", split)),
        ("in two parts", lambda: audit(frame, "y", Split(split.train, split.train, split.test))),
        ("no test rows", lambda: audit(frame, "y", Split(split.train, split.test, rows[:0]))),
        ("no column is left", lambda: audit(frame[["x0", "y"]], "y", split, ignore=["x0"])),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            call()


def test_odd_tables_are_handled():
    """Huge and infinite values, lists, dates, nothing but constants, four rows: an answer, and no false one."""
    frame = made(1)
    frame["huge"] = 1e300 * np.random.default_rng(0).normal(size=400)
    frame["tiny"] = 1e-300 * np.random.default_rng(1).normal(size=400)
    frame["endless"] = frame["x0"].mask(frame["x0"] > 2, np.inf)
    frame["day"] = pd.Timestamp("2024-02-29") + pd.to_timedelta(np.random.default_rng(2).integers(900, size=400), "D")
    frame["lists"] = [[1]] * 400
    found = audit(frame, "y", at_random(frame, 0))
    assert found.findings == ()
    assert any("'lists'" in note for note in found.notes)
    constant = pd.DataFrame({"a": 1.0, "b": "x", "y": np.random.default_rng(0).normal(size=40)})
    assert audit(constant, "y", at_random(constant, 0)).findings == ()
    few = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "y": [1.5, 0.5, 3.0, 2.0]})
    assert audit(few, "y", at_random(few, 0)).findings == ()
    sure = audit(frame.drop(columns="lists").assign(big=lambda f: 1e300 * f["y"]), "y", at_random(frame, 0)).findings
    assert [one.columns for one in sure] == [("big",)]


def _species(rng: np.random.Generator) -> tuple[pd.DataFrame, dict]:
    """Rows sorted by a name that explains the target."""
    level = rng.normal(0, 3, 6)
    kind = np.repeat(np.arange(6), 60)
    frame = pd.DataFrame({"species": [f"s{i}" for i in kind], "x": rng.normal(size=360)})
    return frame.assign(y=level[kind] + rng.normal(size=360)), {}


def _bent(rng: np.random.Generator) -> tuple[pd.DataFrame, dict]:
    """Rows sorted by a number whose law is bent."""
    x = np.sort(rng.uniform(0, 10, 300))
    return pd.DataFrame({"x": x, "z": rng.normal(size=300), "y": np.sin(x) + 0.3 * rng.normal(size=300)}), {}


def _patients(rng: np.random.Generator) -> tuple[pd.DataFrame, dict]:
    """Five visits a patient, declared; the age is the patient's."""
    patient = np.repeat(np.arange(60), 5)
    frame = pd.DataFrame({"patient": patient, "age": rng.integers(20, 80, 60)[patient], "dose": rng.normal(size=300)})
    return frame.assign(y=rng.normal(size=60)[patient] + 0.5 * frame["dose"] + 0.3 * rng.normal(size=300)), {
        "group": "patient"
    }


def _dummies(rng: np.random.Generator) -> tuple[pd.DataFrame, dict]:
    """A month as twelve columns, and a rare outcome."""
    month = rng.integers(0, 12, 300)
    frame = pd.DataFrame({f"month {i}": (month == i).astype(int) for i in range(12)})
    return frame.assign(y=np.where(rng.random(300) < 0.03, "yes", "no")), {}


def _even(rng: np.random.Generator) -> tuple[pd.DataFrame, dict]:
    """Evenly spaced measurements and days."""
    days = pd.date_range("2020-01-01", periods=200).astype(str)
    frame = pd.DataFrame({"x": np.linspace(0, 10, 200), "day": days, "z": rng.normal(size=200)})
    return frame.assign(y=frame["z"] + rng.normal(size=200)), {}


def _wide(rng: np.random.Generator) -> tuple[pd.DataFrame, dict]:
    """So many columns of zeros and ones beside few rows that one is the target by chance."""
    frame = pd.DataFrame(rng.integers(0, 2, (16, 2_000)), columns=[f"c{i}" for i in range(2_000)])
    frame["c7"] = np.tile([0, 1], 8)
    return frame.assign(y=np.tile(["a", "b"], 8)), {}


@pytest.mark.parametrize("make", [_species, _bent, _patients, _dummies, _even, _wide])
def test_honest_tables_of_laboratories_are_not_accused(make):
    for seed in range(2):
        frame, options = make(np.random.default_rng(seed))
        split = group_split(frame["patient"].to_numpy(), seed) if options else random_split(len(frame), seed)
        assert audit(frame, "y", split, **options).findings == (), make.__doc__


def test_a_split_of_other_than_rows_is_refused():
    frame = pd.DataFrame({"x": np.arange(30.0) ** 2 % 7, "y": np.arange(30.0) ** 3 % 11})
    train, rest = np.arange(20), np.arange(20, 30)
    assert audit(frame, "y", Split(train, np.array([]), rest)).findings == ()
    with pytest.raises(UserError, match="whole numbers"):
        audit(frame, "y", Split(train, rest[:5] + 0.5, rest[5:]))
    with pytest.raises(UserError, match="'y' is also a group"):
        audit(frame, "y", Split(train, rest[:5], rest[5:]), ignore="y")
