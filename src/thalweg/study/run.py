"""The run folder as a study sees it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.errors import UserError
from thalweg.report.claims import FIGURES, save_figure, save_frames
from thalweg.train import Callback, RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Run(RunDirectory):
    """A run folder with a seed, which `tw.fit(…, run=run)` takes, and into which a study saves what the report shows.

    Attributes:
        callbacks: what whoever runs the study wants told: `tw.fit(…, run=run, callbacks=run.callbacks)`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Run.create(Path(folder) / "run", {"seed": 3}, seed=3) as run:
    ...         run.seed, run.seeds(3)
    (3, [3000, 3001, 3002])
    """

    def __init__(self, path: str | Path):
        super().__init__(path)
        self.callbacks: Sequence[Callback] = ()

    @property
    def seed(self) -> int:
        """The run's one seed, from which everything random follows."""
        return int(self.config()["seed"])

    def seeds(self, count: int) -> list[int]:
        """So many different seeds that follow from the run's; those of another run differ, up to 1,000 of them.

        Raises:
            UserError: a count out of 1 … 1,000.
        """
        if not 1 <= count <= 1_000:
            raise UserError(f"the number of seeds is between 1 and 1,000, not {count}", where="run.seeds")
        return [self.seed * 1_000 + i for i in range(count)]

    def save_figure(
        self,
        name: str,
        draw: Callable[["Axes"], None],
        *,
        title: str,
        caption: str,
        size: tuple[float, float] = (5.0, 3.5),
    ) -> Path:
        """Draw a figure into `arrays/figures/<name>.svg`, which the report shows; one of that name is replaced.

        Matplotlib's cycle C0 … C5, the axes and the texts follow the page between light and dark; other colours stay.

        Args:
            name: of letters, digits, "-" and "_".
            draw: draws on the matplotlib axes that it is given.
            title: a short heading.
            caption: what the figure shows, in words also for those who cannot see it.
            size: width and height in inches.
        Raises:
            UserError: a name that is none; a raster image in the figure: draw contours instead.
        """
        return save_figure(self.path / FIGURES, name, draw, title=title, caption=caption, size=size)

    def save_frames(
        self,
        name: str,
        frames: Sequence[tuple[str, Callable[["Axes"], None]]],
        *,
        title: str,
        caption: str,
        slider: str = "time",
        size: tuple[float, float] = (5.0, 3.5),
    ) -> Path:
        """Draw one figure at several times into `arrays/figures/<name>/`; the report shows them with a slider.

        Without scripts and on paper they stand side by side. Give all of them the same limits and the same scale.

        Args:
            name: of letters, digits, "-" and "_".
            frames: for each its label, such as "t = 0.5", and what draws it on matplotlib axes; 2 to 60.
            title, caption, size: as `save_figure`, for all of them.
            slider: what it goes through.
        Raises:
            UserError: as `save_figure`; another number of frames, or a missing label.

        >>> import tempfile
        >>> import numpy as np
        >>> x = np.linspace(0, 6, 50)
        >>> frames = [(f"t = {t}", lambda ax, t=t: ax.plot(x, np.sin(x - t))) for t in range(3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Run.create(Path(folder) / "run", {"seed": 0}, seed=0) as run:
        ...         path = run.save_frames("wave", frames, title="A wave", caption="It moves to the right.")
        ...         sorted(one.name for one in path.iterdir())
        ['000.svg', '001.svg', '002.svg']
        """
        folder = self.path / FIGURES
        return save_frames(folder, name, frames, title=title, caption=caption, slider=slider, size=size)
