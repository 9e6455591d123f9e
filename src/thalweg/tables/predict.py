"""`thalweg predict`: a saved ensemble on new rows, with doubt, and a mark on rows unlike the training rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from thalweg.data import ClassTarget, NumberTarget, TableSchema, read_table
from thalweg.errors import DamagedError, UserError
from thalweg.nn import load_model
from thalweg.tables.mixture import Mixture
from thalweg.tables.model import CLASSES, ClassModel, Ensemble
from thalweg.tables.numbers import AbstractNumberModel
from thalweg.trust import predict_classes

if TYPE_CHECKING:
    import pandas as pd


def load_table_model(path: Path) -> tuple[Ensemble, TableSchema]:
    """A model that `thalweg fit` saved.

    Args:
        path: the run folder, or its `model` folder.
    Raises:
        UserError: there is no model, or one of another kind.
        DamagedError: its files are not what was written.
    """
    folder = path / "model" if (path / "config.toml").is_file() else path
    if path != folder and not (folder / "model.json").exists():
        raise UserError("the run has no model yet", where=str(path), remedy="Finish it first: thalweg resume.")
    with jax.enable_x64(True):
        model, metadata = load_model(folder, classes=CLASSES)
    if metadata.get("kind") != "table" or not isinstance(model, Ensemble):
        raise UserError("the model was not made by `thalweg fit`", where=str(folder))
    if "schema" not in metadata:
        raise DamagedError("the model file has no schema", where=str(folder))
    schema = TableSchema.from_json(metadata["schema"], str(folder))
    _check_members(model, schema, str(folder))
    return model, schema


def _check_members(model: Ensemble, schema: TableSchema, where: str) -> None:
    """Refuse members that cannot answer rows of this schema: a file can name known classes and hold nonsense in them.

    They are traced on shapes alone, so nothing large is computed.
    """
    kind = AbstractNumberModel if isinstance(schema.target, NumberTarget) else ClassModel
    members = model.members
    of_one_kind = isinstance(members, tuple) and bool(members) and all(type(one) is type(members[0]) for one in members)
    if not of_one_kind or not isinstance(members[0], kind):
        raise DamagedError("the model's members and its schema have different targets", where=where, remedy=_COPY)
    row = jax.ShapeDtypeStruct((len(schema.feature_names),), np.float64)
    for i, member in enumerate(members):
        try:
            with jax.enable_x64(True):
                found = jax.eval_shape(lambda x, one=member: one(x, key=None), row)
        except Exception as error:  # whatever its layers meet
            what = f"member {i} of the model cannot take {row.shape[0]} features: {error}"
            raise DamagedError(what, where=where, remedy=_COPY) from error
        size = (len(schema.target.classes),) if isinstance(schema.target, ClassTarget) else ()
        wrong = [one for one in jax.tree.leaves(found) if one.shape != size or one.dtype.kind != "f"]
        if wrong or not jax.tree.leaves(found):
            what = f"member {i} of the model answers with {[str(one) for one in wrong]}, not with the target's {size}"
            raise DamagedError(what, where=where, remedy=_COPY)


_COPY = "Take an intact copy, or fit the table again."


def predict_table(path: Path, table: Path) -> "pd.DataFrame":
    """Predictions for every row of a table.

    Args:
        path: run or model folder.
        table: the file; it may hold more columns than the model needs.
    Returns:
        one row per row of the table, in its order. For a number: `mean`, `aleatoric_std`, `epistemic_std`, `total_std`
        in the target's units, and `low_95`, `high_95`, between which the ensemble puts 95 %; for classes: `prediction`,
        a `probability_…` each, `aleatoric_std`, `epistemic_std` of the predicted class's probability.
        `outside_training_range` names the columns that are unlike the training rows, empty if none are.
    Raises:
        UserError: the model or the table cannot be used.
    """
    import pandas as pd

    model, schema = load_table_model(path)
    frame = read_table(table)
    encoded = schema.encode(frame, table.name)
    columns: dict[str, Any] = {}
    with jax.enable_x64(True):
        if isinstance(schema.target, NumberTarget):
            mixture = Mixture([one for one in model.members if isinstance(one, AbstractNumberModel)], encoded.features)
            found = mixture.prediction()
            columns = {
                "mean": found.mean,
                "aleatoric_std": found.aleatoric,
                "epistemic_std": found.epistemic,
                "total_std": found.total,
                "low_95": mixture.quantile(0.025),
                "high_95": mixture.quantile(0.975),
            }
        else:
            assert isinstance(schema.target, ClassTarget)
            found = predict_classes(model.members, encoded.features)
            chosen = found.mean.argmax(1)
            at = lambda values: np.take_along_axis(values, chosen[:, None], axis=1)[:, 0]
            columns["prediction"] = np.asarray(schema.target.classes, object)[chosen]
            columns |= {f"probability_{name}": found.mean[:, i] for i, name in enumerate(schema.target.classes)}
            columns |= {"aleatoric_std": at(found.aleatoric), "epistemic_std": at(found.epistemic)}
    names = np.asarray(encoded.columns, object)
    columns["outside_training_range"] = ["; ".join(names[row]) if row.any() else "" for row in encoded.outside]
    result = pd.DataFrame(columns)
    result.attrs["notes"] = [*frame.attrs.get("notes", ()), *encoded.notes]
    return result
