"""Real runs, trained small and written as `thalweg fit` writes them; made once for all tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score
from sklearn.preprocessing import StandardScaler

from thalweg.analysis import filter_normalized, plane_slice, walked_direction
from thalweg.data import random_split
from thalweg.losses import cross_entropy, gaussian_nll, squared_error
from thalweg.nn import MLP
from thalweg.objective import Objective, Residual, Supervised, trainable
from thalweg.optim import LBFGS, Adam
from thalweg.train import (
    GradientNorms,
    NoiseRatio,
    PartGradients,
    Phase,
    RunDirectory,
    Sharpness,
    fit,
    fit_many,
)
from thalweg.train.files import write_json_atomic


class MeanAndScale(eqx.Module):
    """(mean, log standard deviation) from the two outputs of a network."""

    network: MLP

    def __call__(self, x: jax.Array, *, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        out = self.network(x, key=key)
        return out[0], jnp.clip(out[1], -4.0, 4.0)


class Motion(eqx.Module):
    """u'' + u at one time, shape (1,)."""

    def __call__(self, model: MLP, t: jax.Array) -> jax.Array:
        u = lambda s: model(s[None])[0]
        return jax.grad(jax.grad(u))(t[0]) + u(t[0])


def interval(score: Callable[[np.ndarray, np.ndarray], float], truth: np.ndarray, answer: np.ndarray) -> list[float]:
    """Value, and its 95 % bootstrap interval over the rows."""
    rng, n = np.random.default_rng(0), len(truth)
    chosen = [rng.integers(n, size=n) for _ in range(200)]
    low, high = np.quantile([score(truth[rows], answer[rows]) for rows in chosen], [0.025, 0.975])
    return [float(score(truth, answer)), float(low), float(high)]


def compared(
    score: Callable[[np.ndarray, np.ndarray], float], truth: np.ndarray, answers: dict[str, np.ndarray], higher: bool
) -> dict[str, Any]:
    """The model to use, and thalweg minus the best baseline with its paired 95 % bootstrap interval."""
    values = {name: score(truth, answer) * (1 if higher else -1) for name, answer in answers.items()}
    rival = max((name for name in values if name != "thalweg"), key=values.__getitem__)
    rng, n = np.random.default_rng(0), len(truth)
    gap = lambda rows: score(truth[rows], answers["thalweg"][rows]) - score(truth[rows], answers[rival][rows])
    low, high = np.quantile([gap(rng.integers(n, size=n)) for _ in range(200)], [0.025, 0.975])
    use = "thalweg" if values["thalweg"] >= values[rival] else rival
    return {
        "recommendation": {"use": use, "sentence": f"Use {use}: no other model scores better on the held-out rows."},
        "difference": {"against": rival, "value": float(gap(np.arange(n))), "low": low, "high": high},
    }


def described(names: list[str], x: np.ndarray, target: dict[str, Any], sizes: tuple[int, ...]) -> dict[str, Any]:
    features = [
        {"kind": "numeric", "name": name, "fill": float(np.median(column)), "low": float(column.min()),
         "high": float(column.max()), "missing": False}
        for name, column in zip(names, x.T, strict=True)
    ]  # fmt: skip
    split = {"kind": "random", "train": sizes[0], "validation": sizes[1], "test": sizes[2]}
    return {"source": "table.csv", "rows": len(x), "split": split, "features": features, "target": target}


def number_run(folder: Path) -> Path:
    """An ensemble of three with doubt, on scikit-learn's diabetes table."""
    bunch: Any = load_diabetes()
    x, y = bunch.data, bunch.target
    split = random_split(len(x), seed=0)
    scaler = StandardScaler().fit(x[split.train])
    inputs = np.asarray(scaler.transform(x), np.float32)
    centre, scale = y[split.train].mean(), y[split.train].std()
    targets = ((y - centre) / scale).astype(np.float32)
    term = lambda rows: Supervised(jnp.array(inputs[rows]), jnp.array(targets[rows]), loss=gaussian_nll)
    models = [MeanAndScale(MLP(10, 2, width=16, depth=2, key=jax.random.key(i))) for i in range(3)]
    config = {
        "kind": "fit", "table": "data/diabetes.csv", "target": "progression", "seed": 0,
        "settings": {"members": 3, "steps": 800, "width": 16, "depth": 2, "learning_rate": 3e-3},
    }  # fmt: skip
    with RunDirectory.create(folder, config, seed=0) as run:
        fitted = fit_many(
            models, Objective(data=term(split.train)), Phase(Adam(3e-3), 800),
            validation=Objective(data=term(split.validation)), run=run, raise_failures=False,
        )  # fmt: skip
        write_json_atomic(run.path / "verdict.json", {"members": [one.to_json() for one in fitted.verdicts]})
        outputs = [jax.vmap(model)(jnp.array(inputs[split.test])) for model in fitted.models]
        means = np.array([mean for mean, _ in outputs], float) * scale + centre
        noise = np.exp(np.array([log_scale for _, log_scale in outputs], float)) * scale
        truth, mean = y[split.test], means.mean(0)
        lowest, highest = x[split.train].min(0), x[split.train].max(0)
        np.savez(
            run.arrays / "test.npz",
            truth=truth,
            mean=mean,
            aleatoric=np.sqrt((noise**2).mean(0)),
            epistemic=means.std(0),
            outside=((x[split.test] < lowest) | (x[split.test] > highest)).any(1),
        )
        rmse = lambda truth, answer: float(np.sqrt(np.mean((truth - answer) ** 2)))
        measures = {"R²": r2_score, "RMSE": rmse, "MAE": mean_absolute_error}
        answers = {"thalweg": mean}
        for name, model in (
            ("ridge", Ridge()),
            ("gradient boosting", HistGradientBoostingRegressor(random_state=0)),
            ("mean", DummyRegressor()),
        ):
            answers[name] = model.fit(inputs[split.train], y[split.train]).predict(inputs[split.test])
        scores = {
            "task": "number", "metric": "R²", "higher_is_better": True, "test_rows": len(truth),
            "interval": "95 % interval, bootstrap over the test rows",
            "models": [
                {"name": name, "values": {label: interval(f, truth, answer) for label, f in measures.items()}}
                for name, answer in answers.items()
            ],
            **compared(r2_score, truth, answers, higher=True),
        }  # fmt: skip
        write_json_atomic(run.path / "scores.json", scores)
        names = ["age", "sex", "bmi", "blood pressure", "s1", "s2", "s3", "s4", "s5", "s6"]
        target = {"kind": "number", "name": "progression", "low": float(y.min()), "high": float(y.max())}
        data = described(names, x, target, tuple(len(part) for part in split))
        data["notes"] = ["the target 'progression' is taken for a number: 214 different values"]
        data["dropped"] = ["hospital"]
        write_json_atomic(run.path / "data.json", data)
    return folder


def sliced(start: MLP, end: MLP, term: Supervised) -> dict[str, Any]:
    """A slice of a score, as `thalweg fit` leaves it in `arrays/slice.json`."""
    (first, _), (last, rest) = (eqx.partition(model, trainable(model)) for model in (start, end))
    objective = Objective(data=term)
    state = objective.init(jax.random.key(0))
    batch = objective.draw(state, jnp.zeros((), jnp.int32))
    cost = lambda params: objective.bind(rest, batch, state, None).evaluate(params)[0]
    aside = filter_normalized(jax.random.key(1), last)
    found = plane_slice(cost, last, walked_direction(first, last), aside, extent=1.25, resolution=11)
    assert found is not None
    return {
        "slice": {
            "what": "validation score on 27 rows", "offsets": found.offsets.tolist(), "costs": found.costs.tolist(),
            "axes": ["from the start to the weights kept", "a random direction"], "start": -1.0,
        }
    }  # fmt: skip


def class_run(folder: Path) -> Path:
    """One classifier on scikit-learn's wine table."""
    bunch: Any = load_wine()
    x, y = bunch.data, bunch.target
    split = random_split(len(x), seed=0, stratify=y)
    inputs = np.asarray(StandardScaler().fit(x[split.train]).transform(x), np.float32)
    labels = y.astype(np.int32)
    term = lambda rows: Supervised(jnp.array(inputs[rows]), jnp.array(labels[rows]), loss=cross_entropy)
    config = {
        "kind": "fit", "table": "data/wine.csv", "target": "cultivar", "seed": 1,
        "settings": {"members": 1, "steps": 300},
    }  # fmt: skip
    with RunDirectory.create(folder, config, seed=1) as run:
        start = MLP(13, 3, width=16, depth=1, key=jax.random.key(0))
        fitted = fit(
            start, Objective(data=term(split.train)), Phase(Adam(1e-2), 300),
            validation=Objective(data=term(split.validation)), run=run, raise_failures=False,
        )  # fmt: skip
        write_json_atomic(run.path / "verdict.json", {"members": [fitted.verdict.to_json()]})
        write_json_atomic(run.arrays / "slice.json", sliced(start, fitted.model, term(split.validation)))
        truth = y[split.test]
        probability = np.asarray(jax.nn.softmax(jax.vmap(fitted.model)(jnp.array(inputs[split.test]))), float)
        np.savez(run.arrays / "test.npz", truth=truth, probability=probability, epistemic=np.zeros(len(truth)))
        loss = lambda truth, answer: log_loss(truth, np.clip(answer, 1e-9, 1), labels=[0, 1, 2])
        accuracy = lambda truth, answer: float(accuracy_score(truth, answer.argmax(1)))
        answers = {"thalweg": probability / probability.sum(1, keepdims=True)}
        for name, model in (
            ("logistic regression", LogisticRegression(max_iter=500)),
            ("gradient boosting", HistGradientBoostingClassifier(random_state=0, max_iter=30)),
            ("most frequent class", DummyClassifier(strategy="prior")),
        ):
            answers[name] = model.fit(inputs[split.train], y[split.train]).predict_proba(inputs[split.test])
        scores = {
            "task": "classes", "metric": "log loss", "higher_is_better": False, "test_rows": len(truth),
            "classes": [str(name) for name in bunch.target_names],
            "models": [
                {"name": name, "values": {"log loss": interval(loss, truth, answer),
                                          "accuracy": interval(accuracy, truth, answer)}}
                for name, answer in answers.items()
            ],
            **compared(loss, truth, answers, higher=False),
        }  # fmt: skip
        write_json_atomic(run.path / "scores.json", scores)
        target = {"kind": "classes", "name": "cultivar", "classes": scores["classes"]}
        data = described(list(bunch.feature_names), x, target, tuple(len(part) for part in split))
        data["features"].append({"kind": "categorical", "name": "soil", "categories": ["chalk", "clay", "(missing)"]})
        write_json_atomic(run.path / "data.json", data)
    return folder


def program_run(folder: Path) -> Path:
    """Two terms and two phases: an oscillator with three noisy measurements; no table, so no scores."""
    times = jnp.linspace(0.0, 6.0, 60)[:, None]
    seen = jnp.array([[0.0], [2.0], [5.0]])
    objective = Objective(
        motion=Residual(Motion(), times),
        sensors=Supervised(seen, jnp.cos(seen), loss=squared_error, weight=10.0),
    )
    with RunDirectory.create(folder, {"kind": "study", "study": "oscillator", "seed": 3}, seed=3) as run:
        fitted = fit(
            MLP(1, 1, width=16, depth=2, key=jax.random.key(3), activation=jnp.tanh), objective,
            [Phase(Adam(optax.cosine_decay_schedule(5e-3, 600)), 600), Phase(LBFGS(), 300)], run=run,
            raise_failures=False, instruments=[GradientNorms(), PartGradients(), NoiseRatio(), Sharpness(4)],
        )  # fmt: skip
        write_json_atomic(run.path / "verdict.json", {"members": [fitted.verdict.to_json()]})
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the three runs; copy one before changing it."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"number": number_run, "classes": class_run, "program": program_run}
    return {name: make(folder / name) for name, make in made.items()}
