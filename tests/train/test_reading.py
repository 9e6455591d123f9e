"""Reading a run back: all that it said, its model to the last bit, and nothing written or executed."""

import json
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.errors import DamagedError, UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP, save_model
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import Fit, LossBelow, Phase, RunDirectory, fit, load, load_run
from thalweg.tree import tree_hash

X = np.linspace(-1, 1, 32)[:, None]


@pytest.fixture
def fitted(tmp_path: Path) -> tuple[Path, Fit]:
    """A run in float64 whose model is saved."""
    objective = Objective(data=Supervised(X, X**2, loss=squared_error))
    model = MLP(1, 1, width=4, depth=1, key=jax.random.key(0))
    program = Phase(Adam(1e-2), 100, until=LossBelow(0.1, every=10))
    with RunDirectory.create(tmp_path / "run", {"rate": 1e-2}, seed=5) as run:
        found = fit(model, objective, program, run=run, precision=np.float64, name="square")
        run.model.rmdir()
        save_model(run.model, found.model)
    return tmp_path / "run", found


def test_everything_comes_back(fitted: tuple[Path, Fit]) -> None:
    path, fit_ = fitted
    before = {one: one.stat().st_mtime_ns for one in path.rglob("*")}
    for name in (path, str(path)):
        record = tw.load_run(name)
        assert record.path == path
        assert record.config == {"rate": 1e-2}
        assert record.environment["seed"] == 5
        assert record.rows == fit_.rows
        assert record.decisions == fit_.decisions != []
        assert record.verdicts == {"square": [fit_.verdict]}
    models = [record.model(), tw.load(path), load(path / "model"), load(path, like=fit_.model)]
    for model in models:
        assert tree_hash(model) == tree_hash(fit_.model)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array))} == {"float64"}
    assert {one: one.stat().st_mtime_ns for one in path.rglob("*")} == before


def test_a_run_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run", {}) as run:
        run.metrics.append({"step": 1})
        assert load_run(run.path).rows == [{"step": 1}]
        with open(run.path / "metrics.jsonl", "ab") as file:
            file.write(b'{"step": 2')  # a row on its way
        record = load_run(run.path)
        assert (record.rows, record.verdicts) == ([{"step": 1}], {})
        with pytest.raises(UserError, match="the run has saved no model"):
            record.model()


def test_verdicts_that_the_table_product_wrote(fitted: tuple[Path, Fit]) -> None:
    path, fit_ = fitted
    (path / "verdict.json").write_text(json.dumps({"members": [fit_.verdict.to_json()] * 2}))
    assert load_run(path).verdicts == {"fit": [fit_.verdict] * 2}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("verdict.json", "{", "no JSON"),
        ("verdict.json", "[]", "holds no verdicts"),
        ("verdict.json", '{"fits": {"fit": [{"status": "excellent"}]}}', "holds no verdicts"),
        ("environment.json", "{", "no JSON"),
        ("config.toml", "= no TOML", "cannot be read"),
        ("metrics.jsonl", "[]\n", "line 1"),
        ("model/model.json", "{}", "damaged"),
    ],
)
def test_damage_is_named(fitted: tuple[Path, Fit], name: str, content: str, message: str) -> None:
    path = fitted[0]
    (path / name).write_text(content)
    with pytest.raises(DamagedError, match=message) as caught:
        load_run(path).model()
    assert name in str(caught.value)


def test_what_is_no_run_and_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for call in (load_run, load):
        for name in ("missing", "empty"):
            with pytest.raises(UserError) as caught:
                call(tmp_path / name)
            assert name in str(caught.value)
    assert os.listdir(tmp_path) == ["empty"]


class Mine(eqx.Module):
    weight: jax.Array

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        return self.weight * x


def test_a_model_of_the_users_own_class(tmp_path: Path) -> None:
    save_model(tmp_path / "model", Mine(jnp.arange(3.0)))
    with pytest.raises(UserError, match="like="):
        load(tmp_path / "model")
    assert tree_hash(load(tmp_path / "model", like=Mine(jnp.zeros(3)))) == tree_hash(Mine(jnp.arange(3.0)))
