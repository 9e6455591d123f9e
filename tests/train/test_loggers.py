"""Rows for TensorBoard, read back from its event files; and the example for MLflow against a recorder."""

import importlib.util
import struct
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import GradientNorms, LossBelow, Phase, TensorBoardLogger, fit, fit_many
from thalweg.train.loggers import scalars

X = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]


def network(seed: int = 0) -> MLP:
    return MLP(1, 1, width=4, depth=1, key=jax.random.key(seed))


def objective() -> Objective:
    return Objective(data=Supervised(X, X**2, loss=squared_error))


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Scalars by name and step, as TensorBoard's own format says (length, checksum, Event message, checksum)."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_has_every_figure_of_every_row(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path / "board")
    found = fit(
        network(), objective(), Phase(Adam(1e-2), 60, until=LossBelow(1e-9, every=20)),
        log_every=20, callbacks=[logger], instruments=[GradientNorms()],
    )  # fmt: skip
    seen = events(tmp_path / "board" / "fit")
    assert {"total", "parts/data", "figures/rate", "instruments/GradientNorms/gradient/layers/0"} <= set(seen)
    for row in found.rows:
        for name, value in scalars(row).items():
            assert seen[name][row["run_step"]] == np.float32(value), name  # the format holds 32 bits


def test_members_have_a_line_each(tmp_path: Path) -> None:
    found = fit_many(
        [network(0), network(1)], objective(), Phase(Adam(1e-2), 10), callbacks=[TensorBoardLogger(tmp_path)]
    )
    seen = events(tmp_path / "fit")
    assert seen["total/1"][10] == np.float32(found.rows[-1]["total"][1])


def test_decisions_are_told_at_their_step_and_two_fits_apart(tmp_path: Path) -> None:
    logger, written = TensorBoardLogger(tmp_path), []
    program = [
        Phase(Adam(1e-2), 60, until=LossBelow(1e9, every=20)),
        Phase(Adam(1e-3), 60, until=LossBelow(1e9, every=20)),
    ]
    for name in ("first", "second"):
        logger._make = recording(logger._make, written, name)  # pyright: ignore[reportPrivateUsage]
        fit(network(), objective(), program, log_every=20, callbacks=[logger], name=name)
    assert [(name, step) for name, step in written] == [("first", 20), ("first", 40), ("second", 20), ("second", 40)]
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}
    assert set(events(tmp_path / "first")["total"]) == set(events(tmp_path / "second")["total"]) == {20, 40}


def recording(make: Any, written: list[tuple[str, int]], name: str) -> Any:
    """Makes writers that also note at which step they are told a text."""
    original = getattr(make, "original", make)

    def opened(*args: Any, **kwargs: Any) -> Any:
        writer = original(*args, **kwargs)
        writer.add_text = lambda tag, text, step: written.append((name, step))
        return writer

    opened.original = original  # pyright: ignore[reportFunctionMemberAccess]
    return opened


def test_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="folder cannot be made"):
        TensorBoardLogger(tmp_path / "file" / "board")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"needs the package tensorboardX.*thalweg\[tensorboard\]"):
        TensorBoardLogger(tmp_path)


def test_the_mlflow_example_hands_over_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow itself is 100 packages; what the example asks of it are these four functions (MLflow 3's signatures)
    told: list[tuple[str, Any]] = []

    class Recorder:
        start_run = staticmethod(lambda run_name=None: told.append(("start", run_name)))
        log_metrics = staticmethod(lambda metrics, step=None: told.append(("metrics", (metrics, step))))
        set_tag = staticmethod(lambda key, value: told.append(("tag", (key, value))))
        end_run = staticmethod(lambda status="FINISHED": told.append(("end", status)))

    monkeypatch.setitem(sys.modules, "mlflow", Recorder)
    path = Path(__file__).parents[2] / "examples" / "mlflow_logger.py"
    spec = importlib.util.spec_from_file_location("mlflow_logger", path)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = fit(network(), objective(), Phase(Adam(1e-2), 40), log_every=20, callbacks=[example.MLflowLogger("bowl")])
    assert told[0] == ("start", "bowl")
    assert told[-1] == ("end", "FINISHED")
    assert [what[1] for kind, what in told if kind == "metrics"] == [20, 40]
    assert next(what[0] for kind, what in told if kind == "metrics") == scalars(found.rows[0])
