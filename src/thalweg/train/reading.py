"""Reading what a run left: nothing is executed, nothing is written, and the run may still be going on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import DamagedError, UserError
from thalweg.nn import load_model
from thalweg.train.files import read_json
from thalweg.train.record import RunDirectory
from thalweg.train.verdict import Verdict
from thalweg.types import PyTree


@dataclass(frozen=True)
class RunRecord:
    """The record of a run as it stands on the disk.

    Attributes:
        path: the run's folder.
        config: the resolved settings.
        environment: versions, devices, precision and seed at the beginning.
        rows: logged steps of all its fits, in the order written; `row["fit"]` names the fit.
        decisions: what the loop decided, likewise.
        verdicts: fit -> the verdicts on its members; a fit that has not ended has none.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    verdicts: dict[str, list[Verdict]]

    def model(self, like: PyTree | None = None) -> PyTree:
        """The trained model, if the run has saved one; see `load`."""
        return load(self.path, like)


def load_run(path: str | Path) -> RunRecord:
    """Read the record of a run.

    Args:
        path: the run's folder.
    Raises:
        UserError: the folder does not exist, or is no run's.
        DamagedError: a file of the record is not what thalweg wrote; it is named.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunDirectory.create(Path(folder) / "run", {"steps": 200}, seed=7) as run:
    ...         run.metrics.append({"step": 100, "loss": 0.5})
    ...     record = load_run(Path(folder) / "run")
    >>> record.config, record.environment["seed"], record.rows, record.verdicts
    ({'steps': 200}, 7, [{'step': 100, 'loss': 0.5}], {})
    """
    run = RunDirectory.open(path)
    return RunRecord(
        run.path,
        run.config(),
        run.environment(),
        run.metrics.read(),
        run.decisions.read(),
        read_verdicts(run),
    )


def load(path: str | Path, like: PyTree | None = None) -> PyTree:
    """Read a trained model, bit for bit; 64-bit arrays stay so whatever JAX's 64-bit setting. No code is run.

    Args:
        path: a model's folder, or that of a run which has saved its model.
        like: a model of the same structure, whose values do not matter; needed for models of other classes than
            thalweg's own.
    Raises:
        UserError: there is no model, or `like` is missing or different.
        DamagedError: a file is not what was written.

    >>> import tempfile, jax
    >>> from thalweg.nn import MLP, save_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(Path(folder) / "model", MLP(2, 1, width=8, depth=1, key=jax.random.key(0)))
    ...     load(Path(folder) / "model")(jax.numpy.ones(2)).shape
    (1,)
    """
    folder = Path(path)
    if (folder / "config.toml").is_file():
        folder = folder / "model"
        if not (folder / "model.json").is_file():
            remedy = "Let it end first, or save the model of its `Fit` by thalweg.nn.save_model."
            raise UserError("the run has saved no model", where=str(folder), remedy=remedy)
    return load_model(folder, like)[0]


def read_verdicts(run: RunDirectory) -> dict[str, list[Verdict]]:
    """The verdicts on the members of each fit that has ended, by its name.

    Raises:
        DamagedError: the file holds something else.
    """
    path = run.path / "verdict.json"
    if not path.exists():
        return {}
    content = read_json(path)
    try:
        fits = content["fits"] if "fits" in content else {"fit": content["members"]}
        return {name: [_checked(Verdict.from_json(one)) for one in verdicts] for name, verdicts in fits.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"the file holds no verdicts: {error!r}"
        remedy = "Move the file away and resume the run: it writes them anew."
        raise DamagedError(what, where=str(path), remedy=remedy) from error


def _checked(verdict: Verdict) -> Verdict:
    texts = [verdict.evidence, verdict.remedy]
    texts += [text for one in verdict.findings for text in (one.name, one.evidence, one.remedy)]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a verdict of other things than texts")
    return verdict
