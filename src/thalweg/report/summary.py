"""What was asked, how it ended, and which model to use."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

import numpy as np

from thalweg.figures import comparison
from thalweg.report.drawing import Drawing, drawing
from thalweg.report.formats import Difference, Record, Scores
from thalweg.report.provenance import asked_of_table
from thalweg.report.words import count, date, figure, fixed, joined, shared_decimals
from thalweg.train.verdict import Status, Verdict

MEANING = {
    Status.CONVERGED: "More steps would change little.",
    Status.STILL_IMPROVING: "The objective was still falling when the steps ran out.",
    Status.STALLED: "Training no longer moves what it was to move.",
    Status.DIVERGED: "The objective grew or stopped being finite.",
    Status.LINE_SEARCH_FAILED: "The optimizer found no step that lowers the objective.",
    Status.TRIVIAL_SOLUTION: "The model gives one answer to everything.",
    Status.INFEASIBLE: "A constraint is broken, and no model nearby would break it less.",
    Status.INTERRUPTED: "A signal stopped the run before its end.",
}
TONE = {
    Status.CONVERGED: "good",
    Status.STILL_IMPROVING: "fair",
    Status.STALLED: "fair",
    Status.INTERRUPTED: "fair",
    Status.DIVERGED: "bad",
    Status.LINE_SEARCH_FAILED: "bad",
    Status.TRIVIAL_SOLUTION: "bad",
    Status.INFEASIBLE: "bad",
}
WORST_FIRST = (
    Status.DIVERGED,
    Status.LINE_SEARCH_FAILED,
    Status.TRIVIAL_SOLUTION,
    Status.INFEASIBLE,
    Status.INTERRUPTED,
    Status.STALLED,
    Status.STILL_IMPROVING,
    Status.CONVERGED,
)


@dataclass(frozen=True)
class FindingGroup:
    """One finding, and the members that have it.

    Attributes:
        name, remedies: as the verdicts say; each remedy once.
        members: "3 of 5 members", empty for a single one.
        evidence: one sentence a member, with the member's number where there are several.
    """

    name: str
    members: str
    evidence: list[str]
    remedies: list[str]


@dataclass(frozen=True)
class Heading:
    """The top of the page.

    Attributes:
        title: what was asked.
        facts: short statements about the run.
        status, tone: the badge: a word, and "good", "fair", "bad" or "none".
        meaning, evidence, remedy: what the status means, rests on, and asks for.
        members: how many members ended how, where there are several.
        each: (member, status, tone, evidence) of several members.
        findings: what else was seen.
    """

    title: str
    facts: list[str]
    status: str
    tone: str
    meaning: str
    evidence: str
    remedy: str
    members: str
    each: list[tuple[str, str, str, str]]
    findings: list[FindingGroup]


def heading(record: Record) -> Heading:
    """The heading of a run's page; of several members the worst gives the badge."""
    if not record.verdicts and record.claims is not None:
        ended = ("finished", "none", "The study came to its end; it trained nothing.", "", "", "")
        return Heading(_title(record), _facts(record), *ended, [], [])
    if not record.verdicts:
        return Heading(_title(record), _facts(record), "no verdict yet", "none", *_unfinished(record), "", [], [])
    worst = min(record.verdicts, key=lambda verdict: WORST_FIRST.index(verdict.status))
    number, several = record.verdicts.index(worst), len(record.verdicts) > 1
    statuses = Counter(verdict.status for verdict in record.verdicts)
    counts = joined([f"{statuses[status]} {status.value}" for status in WORST_FIRST if statuses[status]])
    which = (
        f"member {number}, the worst: " if several and len(statuses) > 1 else f"member {number}: " if several else ""
    )
    return Heading(
        _title(record),
        _facts(record),
        worst.status.value,
        TONE[worst.status],
        MEANING[worst.status],
        which + worst.evidence,
        worst.remedy,
        f"{len(record.verdicts)} members: {counts}" if several else "",
        [
            (f"member {i}", one.status.value, TONE[one.status], one.evidence)
            for i, one in enumerate(record.verdicts if several else [])
        ],
        [
            *(FindingGroup(one.name, "", [one.evidence], [one.remedy]) for one in record.findings),
            *_findings(record.verdicts),
        ],
    )


def _title(record: Record) -> str:
    config = record.config
    if (asked := asked_of_table(config)) is not None:
        return f"Predicting {asked[1]} from {PurePath(asked[0]).name}"
    return str(config.get("study", record.path.resolve().name))


def _facts(record: Record) -> list[str]:
    config, data = record.config, record.data
    facts = [str(config["kind"])] if "kind" in config else []
    if data is not None:
        facts.append(count(data.rows, "row"))
        facts += [count(len(data.features), "column")] if data.features else []
    if (seed := config.get("seed", record.environment.get("seed"))) is not None:
        facts.append(f"seed {seed}")
    return [*facts, f"begun {date(record.begun)}"]


def _unfinished(record: Record) -> tuple[str, str, str]:
    if record.rows:
        last = record.rows[-1]
        total = figure(float(np.median(last["total"])))
        evidence = f"the last row was logged at step {int(np.max(last['run_step'])):,}, with an objective of {total}"
    else:
        evidence = "no step has been logged"
    if record.is_written:
        return "The run is still going.", evidence, "Make this report again when it has ended."
    return "The run did not come to its end.", evidence, f"Continue it: thalweg resume {record.path}"


def _findings(verdicts: list[Verdict]) -> list[FindingGroup]:
    groups = []
    for name in dict.fromkeys(finding.name for verdict in verdicts for finding in verdict.findings):
        found = [(i, one) for i, verdict in enumerate(verdicts) for one in verdict.findings if one.name == name]
        several = len(verdicts) > 1
        groups.append(
            FindingGroup(
                name,
                f"{len({i for i, _ in found})} of {len(verdicts)} members" if several else "",
                [f"member {i}: {one.evidence}" if several else one.evidence for i, one in found],
                list(dict.fromkeys(one.remedy for _, one in found if one.remedy)),
            )
        )
    return groups


# --------------------------------------------------------------------------------------------------------- comparison
@dataclass(frozen=True)
class ScoreRow:
    """One model: its name, whether it is recommended, and (value, interval) by metric; texts."""

    name: str
    used: bool
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class Trust:
    """Held-out scores beside baselines.

    Attributes:
        sentence: which model to use.
        tone: "good" where that is thalweg, "fair" where it is another.
        difference: what the paired difference says; empty if there is none.
        metrics: column heads, the one that decides first.
        rows: models.
        note: what the figures are.
        drawing: the scores with their intervals.
    """

    sentence: str
    tone: str
    difference: str
    metrics: list[str]
    rows: list[ScoreRow]
    note: str
    drawing: Drawing


def trust(scores: Scores) -> Trust:
    """The comparison with baselines; honest also where one of them wins."""
    metrics = list(dict.fromkeys([scores.metric, *(name for model in scores.models for name in model.values)]))
    decimals = {
        metric: shared_decimals(model.values[metric][0] for model in scores.models if metric in model.values)
        for metric in metrics
    }

    def cell(values: tuple[float, float, float] | None, places: int) -> tuple[str, str]:
        if values is None:
            return fixed(float("nan"), places), ""
        value, low, high = (fixed(one, places) for one in values)
        return value, f"{low} to {high}" if np.isfinite(values[1:]).all() else ""

    chosen = scores.recommendation
    rows = [
        ScoreRow(
            model.name,
            chosen is not None and model.name == chosen.use,
            [cell(model.values.get(metric), decimals[metric]) for metric in metrics],
        )
        for model in scores.models
    ]
    better = "higher" if scores.higher_is_better else "lower"
    intervals = f" Below each value: {scores.interval}." if scores.interval else ""
    return Trust(
        chosen.sentence if chosen else "",
        "good" if chosen and chosen.use == "thalweg" else "fair",
        "" if scores.difference is None else _difference(scores, scores.difference),
        metrics,
        rows,
        f"On {count(scores.test_rows, 'row')} that no model was trained or chosen on. "
        f"Models are compared by {scores.metric}; {better} is better.{intervals}",
        _scores_drawing(scores, decimals[scores.metric]),
    )


def _difference(scores: Scores, difference: Difference) -> str:
    ends = (difference.value, difference.low, difference.high)
    scale = shared_decimals(model.values[scores.metric][0] for model in scores.models if scores.metric in model.values)
    value, low, high = (fixed(one, scale) for one in ends)
    told = f"On the same rows, thalweg minus {difference.against} in {scores.metric}: {value} ({low} to {high})."
    if not np.isfinite(ends).all():
        return told
    if difference.low <= 0 <= difference.high:
        return f"{told} The interval holds 0: these rows do not tell the two apart."
    better = (difference.value > 0) == scores.higher_is_better
    return f"{told} The interval does not hold 0: thalweg is {'better' if better else 'worse'} here."


def _scores_drawing(scores: Scores, decimals: int) -> Drawing:
    models = [model for model in scores.models if scores.metric in model.values]
    values, low, high = np.array([model.values[scores.metric] for model in models]).T
    used = scores.recommendation.use if scores.recommendation else "thalweg"
    first = next((i for i, model in enumerate(models) if model.name == used), 0)
    names = [model.name for model in models]
    better = "higher" if scores.higher_is_better else "lower"
    draw = partial(
        comparison.scores, names=names, values=values, low=low, high=high,
        metric=f"{scores.metric} ({better} is better)", first=first,
    )  # fmt: skip
    listed = "; ".join(f"{name} {fixed(value, decimals)}" for name, value in zip(names, values, strict=True))
    return drawing(
        draw,
        name="scores",
        title=f"Held-out {scores.metric}",
        alt=f"{scores.metric} of each model on the held-out rows: {listed}.",
        caption="Each bar is the interval that goes with the score.",
        size=(5.0, 1.1 + 0.4 * len(models)),
    )
