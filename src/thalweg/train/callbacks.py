"""What may listen to a run: progress on a terminal, plain lines without one, and anything a user writes."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.progress import Progress


class Callback:
    """Listener to a run; override what is of interest. It is called between stretches of steps, never inside them."""

    def begin(self, phases: Sequence[int]) -> None:
        """Before the first step; `phases` holds the most steps of each phase."""

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        """After each stretch: the phase, steps done in it, and the latest row (see `metrics.jsonl`)."""

    def decision(self, row: Mapping[str, Any]) -> None:
        """After each decision (see `decisions.jsonl`)."""

    def end(self) -> None:
        """After the last step, or when the run has failed."""


def progress_callback(stream: IO[str] | None = None) -> Callback:
    """A bar on a terminal, plain lines elsewhere.

    Args:
        stream: where to write; standard error by default.
    """
    out = sys.stderr if stream is None else stream
    can_redraw = out.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return ProgressBar(out) if can_redraw else ProgressLines(out)


class ProgressLines(Callback):
    """One plain line every few seconds: phase, step, loss, rate, time left.

    Args:
        stream: where to write.
        seconds: least time between two lines.

    >>> lines = ProgressLines(sys.stdout)
    >>> lines.begin([200, 300])
    phase 1/2  compiling the first step
    >>> lines.progress(0, 200, {"total": 0.12345})
    phase 1/2  step 200/200  loss 0.1235
    >>> lines.progress(1, 300, {"total": [0.2, 0.1, float("nan")]})
    phase 2/2  step 300/300  loss 0.1 to 0.2 (3 members, 1 not finite)
    """

    untold = ""

    def __init__(self, stream: IO[str], *, seconds: float = 5.0):
        self.stream, self.seconds = stream, seconds

    def begin(self, phases: Sequence[int]) -> None:
        self.phases, self.clock, self.loss = list(phases), _Clock(), ""
        self.told = time.monotonic()
        self.tell(f"phase 1/{len(self.phases)}  compiling the first step")

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        self.note(phase, step, row)
        self.untold = self.text(phase, step)
        if step >= self.phases[phase] or time.monotonic() - self.told >= self.seconds:
            self.catch_up()

    def decision(self, row: Mapping[str, Any]) -> None:
        self.tell(f"decision at step {row['step']:,}: {row['what']}")

    def end(self) -> None:
        self.catch_up()  # where the walk ended before its last step

    def catch_up(self) -> None:
        """Tell how far the walk is, unless that was the last thing told."""
        if self.untold:
            self.told = time.monotonic()
            self.tell(self.untold)
            self.untold = ""

    def note(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        """Keep what the next line shows."""
        self.clock.tick(phase, step)
        if row is not None:
            self.loss = _loss(row["total"])

    def tell(self, line: str) -> None:
        """Write a line."""
        self.stream.write(line + "\n")
        self.stream.flush()

    def text(self, phase: int, step: int) -> str:
        """The line: what a person wants to know at a glance."""
        parts = [f"phase {phase + 1}/{len(self.phases)}", f"step {step:,}/{self.phases[phase]:,}", self.loss]
        if rate := self.clock.rate:
            parts.append(f"{rate:,.0f} steps/s" if rate >= 10 else f"{1 / rate:,.2g} s/step")
            if step < self.phases[phase]:
                more = " in this phase" if phase + 1 < len(self.phases) else ""
                parts.append(f"{_duration((self.phases[phase] - step) / rate)} left{more}")
        return "  ".join(part for part in parts if part)


class ProgressBar(ProgressLines):
    """A bar that redraws itself on a terminal."""

    bar: "Progress | None" = None

    def begin(self, phases: Sequence[int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        text = TextColumn("{task.description}", markup=False)
        self.bar = Progress(BarColumn(20), text, console=Console(file=self.stream))
        self.task = self.bar.add_task("", total=float(sum(phases)))
        self.bar.start()
        super().begin(phases)

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        assert self.bar is not None, "begin comes first"
        self.note(phase, step, row)
        done = sum(self.phases[:phase]) + step
        self.bar.update(self.task, completed=done, description=self.text(phase, step))

    def decision(self, row: Mapping[str, Any]) -> None:
        assert self.bar is not None, "begin comes first"
        self.bar.console.print(f"decision at step {row['step']:,}: {row['what']}", highlight=False, markup=False)

    def tell(self, line: str) -> None:
        assert self.bar is not None, "begin comes first"
        self.bar.update(self.task, description=line)

    def end(self) -> None:
        if self.bar is not None:
            self.bar.stop()


class _Clock:
    """Steps a second, an exponential average that forgets the compilation before the first stretch."""

    def __init__(self):
        self.rate, self.at, self.phase = 0.0, (time.monotonic(), 0), -1

    def tick(self, phase: int, step: int) -> None:
        now, (then, before) = time.monotonic(), self.at
        if phase == self.phase and step > before and now > then:
            new = (step - before) / (now - then)
            self.rate = new if not self.rate else 0.7 * self.rate + 0.3 * new
        elif phase != self.phase:
            self.rate = 0.0
        self.phase, self.at = phase, (now, step)


def _loss(total: Any) -> str:
    """One number, or the range over the members whose cost is finite."""
    values = np.atleast_1d(np.asarray(total, float))
    finite = values[np.isfinite(values)]
    if len(values) == 1:
        return f"loss {values[0]:.4g}"
    bad = len(values) - len(finite)
    who = f"({len(values)} members" + (f", {bad} not finite)" if bad else ")")
    return f"loss {finite.min():.4g} to {finite.max():.4g} {who}" if len(finite) else f"loss not finite {who}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
