"""What may listen to a run: progress on a terminal, plain lines without one, and anything a user writes."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np


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
    return ProgressBar(out) if out.isatty() else ProgressLines(out)


class ProgressLines(Callback):
    """One plain line every few seconds: phase, step, loss, rate, time left.

    Args:
        stream: where to write.
        seconds: least time between two lines.
    """

    def __init__(self, stream: IO[str], *, seconds: float = 5.0):
        self.stream, self.seconds = stream, seconds

    def begin(self, phases: Sequence[int]) -> None:
        self.phases, self.clock = list(phases), _Clock()
        self.told = time.monotonic()

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        self.clock.tick(phase, step)
        over = step >= self.phases[phase]
        if over or time.monotonic() - self.told >= self.seconds:
            self.told = time.monotonic()
            self.stream.write(self.text(phase, step, row) + "\n")
            self.stream.flush()

    def text(self, phase: int, step: int, row: Mapping[str, Any] | None) -> str:
        """The line: what a person wants to know at a glance."""
        rate = self.clock.rate
        left = "" if not rate else f"  {_duration((self.phases[phase] - step) / rate)} left"
        loss = "" if row is None else f"  loss {float(np.mean(row['total'])):.4g}"
        speed = "" if not rate else f"  {rate:,.0f} steps/s"
        return f"phase {phase + 1}/{len(self.phases)}  step {step:,}/{self.phases[phase]:,}{loss}{speed}{left}"

    def decision(self, row: Mapping[str, Any]) -> None:
        self.stream.write(f"decision at step {row['step']:,}: {row['what']}\n")
        self.stream.flush()


class ProgressBar(ProgressLines):
    """A bar that redraws itself on a terminal."""

    def begin(self, phases: Sequence[int]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().begin(phases)
        self.bar = Progress(BarColumn(), TextColumn("{task.description}"), console=Console(file=self.stream))
        self.task = self.bar.add_task("starting: compiling the first step", total=float(sum(phases)))
        self.bar.start()

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        self.clock.tick(phase, step)
        done = sum(self.phases[:phase]) + step
        self.bar.update(self.task, completed=done, description=self.text(phase, step, row))

    def decision(self, row: Mapping[str, Any]) -> None:
        self.bar.console.print(f"decision at step {row['step']:,}: {row['what']}", highlight=False)

    def end(self) -> None:
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
