"""What a person sees while a fit goes on: a bar on a terminal, plain lines elsewhere."""

import io
import os
import pty
import re
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import Objective, Supervised
from thalweg.optim import SGD, Adam
from thalweg.train import Callback, LossBelow, Phase, callbacks, fit, fit_many, progress_callback
from thalweg.train.callbacks import ProgressBar, ProgressLines

X = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]


def objective() -> Objective:
    return Objective(data=Supervised(X, X**2, loss=squared_error))


def network(seed: int = 0) -> MLP:
    return MLP(1, 1, width=4, depth=1, key=jax.random.key(seed))


class Terminal:
    """A terminal that remembers what was drawn on it. It is read all the time: its small buffer would else fill up."""

    def __init__(self) -> None:
        self.reader, writer = pty.openpty()
        self.stream = os.fdopen(writer, "w", encoding="utf-8")
        self.found = b""
        self.thread = threading.Thread(target=self.drain, daemon=True)
        self.thread.start()

    def drain(self) -> None:
        try:
            while chunk := os.read(self.reader, 1 << 16):
                self.found += chunk
        except OSError:
            return  # the other end is closed

    def close(self) -> str:
        """All that was written."""
        self.stream.close()
        self.thread.join(timeout=5)
        os.close(self.reader)
        return self.found.decode()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    bar = progress_callback(terminal.stream)
    assert isinstance(bar, ProgressBar)
    program = [Phase(Adam(1e-2), 300, until=LossBelow(0.15, every=20)), Phase(Adam(1e-3), 200)]
    fit(network(), objective(), program, callbacks=[bar])
    said = terminal.close()
    assert "compiling the first step" in said
    frames = re.findall(r"phase \d/2  step [\d,]+/[\d,]+  loss [\d.e-]+  [\d.,]+ (?:steps/s|s/step)", said)
    assert frames
    assert "phase 2/2  step 200/200" in frames[-1]
    assert "━" in said  # the bar
    assert "decision at step" in said
    assert "LossBelow met: phase 1 ends" in said
    assert "\x1b[?25h" in said  # the cursor is back


def test_a_narrow_terminal_is_not_garbled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")  # as Rich asks the width of the standard streams only, which are none here
    terminal = Terminal()
    fit(network(), objective(), Phase(Adam(1e-2), 200), callbacks=[progress_callback(terminal.stream)])
    said = terminal.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    assert max(len(line) for line in re.split(r"[\r\n]+", plain)) <= 40  # one line, cut short, not wrapped


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    assert isinstance(progress_callback(stream), ProgressLines)
    assert not isinstance(progress_callback(stream), ProgressBar)
    program = [Phase(Adam(1e-2), 300, until=LossBelow(0.15, every=20)), Phase(Adam(1e-3), 200)]
    fit(network(), objective(), program, callbacks=[ProgressLines(stream, seconds=0)])
    lines = stream.getvalue().splitlines()
    assert lines[0] == "phase 1/2  compiling the first step"
    assert all(re.match(r"phase \d/2  step \d+/\d+|decision at step \d+: ", one) for one in lines[1:])
    assert re.match(r"phase 2/2  step 200/200  loss [\d.e-]+  [\d,]+ steps/s$", lines[-1])
    assert any(re.search(r"steps/s  0:0\d left in this phase$", line) for line in lines)
    assert any(re.search(r"phase 2/2 .* 0:0\d left$", line) for line in lines)
    assert "\x1b" not in stream.getvalue()
    # By default a line each five seconds, and one at the end of each phase.
    stream = io.StringIO()
    fit(network(), objective(), Phase(Adam(1e-2), 100), callbacks=[progress_callback(stream)])
    assert len(stream.getvalue().splitlines()) == 2


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dumb", ""):
        monkeypatch.setenv("TERM", name)
        terminal = Terminal()
        assert not isinstance(progress_callback(terminal.stream), ProgressBar)
        terminal.close()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(progress_callback(), ProgressLines)


@pytest.mark.parametrize("kind", [ProgressLines, ProgressBar])
def test_nothing_is_garbled_when_costs_are_not_finite(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    fit(network(), objective(), Phase(SGD(1e6), 50), callbacks=[kind(terminal.stream)], raise_failures=False)
    said = terminal.close()
    assert re.search(r"loss (nan|inf)", said)
    assert "decision at step" in said
    terminal = Terminal()
    listener = kind(terminal.stream)
    if kind is ProgressLines:
        listener.seconds = 0
    models = [network(i) for i in range(30)]
    models[3] = jax.tree.map(lambda leaf: leaf * jnp.nan if isinstance(leaf, jax.Array) else leaf, models[3])
    fit_many(models, objective(), Phase(Adam(1e-3), 50), callbacks=[listener], raise_failures=False)
    said = terminal.close()
    assert re.search(r"step \d+/50  loss [\d.e-]+ to [\d.e-]+ \(30 members, 1 not finite\)", said)


@pytest.mark.parametrize(
    ("total", "text"),
    [
        (0.123456, "loss 0.1235"),
        (float("nan"), "loss nan"),
        ([1e-9], "loss 1e-09"),
        ([2.0, 1.0], "loss 1 to 2 (2 members)"),
        ([float("inf")] * 3, "loss not finite (3 members, 3 not finite)"),
    ],
)
def test_losses(total: Any, text: str) -> None:
    lines = ProgressLines(io.StringIO())
    lines.begin([10])
    lines.note(0, 5, {"total": total})
    lines.note(0, 6, None)  # no row at this stretch: the last one stays
    assert text in lines.text(0, 6)


def test_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    lines = ProgressLines(io.StringIO())
    lines.begin([10_000, 50])
    for step in (10, 20, 30):  # 10 s to compile, then 2 steps a second
        now += 10.0 if step == 10 else 5.0
        lines.note(0, step, None)
    assert lines.text(0, 30) == "phase 1/2  step 30/10,000  0.5 s/step  1:23:05 left in this phase"
    lines.note(1, 1, None)  # another phase, another rate
    assert lines.text(1, 1) == "phase 2/2  step 1/50"
    now += 1.0
    lines.note(1, 26, None)
    assert lines.text(1, 26) == "phase 2/2  step 26/50  25 steps/s  0:01 left"


def test_the_terminal_is_given_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Callback):
        def progress(self, phase: int, step: int, row: Any) -> None:
            raise RuntimeError("the user's own")

    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(network(), objective(), Phase(Adam(1e-2), 50), callbacks=[progress_callback(terminal.stream), Broken()])
    assert "\x1b[?25h" in terminal.close()
    ProgressBar(io.StringIO()).end()  # before it began


def test_listeners_are_told_everything() -> None:
    said: list[Any] = []

    class Listener(Callback):
        def begin(self, phases: Any) -> None:
            said.append(("begin", list(phases)))

        def progress(self, phase: int, step: int, row: Any) -> None:
            said.append(("progress", phase, step, row))

        def decision(self, row: Any) -> None:
            said.append(("decision", row["step"]))

        def end(self) -> None:
            said.append(("end",))

    program = [Phase(Adam(1e-2), 300, until=LossBelow(0.15, every=20)), Phase(Adam(1e-3), 40)]
    fitted = fit(network(), objective(), program, callbacks=[Listener()])
    assert said[0] == ("begin", [300, 40])
    assert said[-1] == ("end",)
    assert [one[3] for one in said if one[0] == "progress" and one[3] is not None] == fitted.rows
    assert [one[1] for one in said if one[0] == "decision"] == [row["step"] for row in fitted.decisions]
