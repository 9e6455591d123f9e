"""The run folder as a study sees it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thalweg.errors import UserError
from thalweg.report.claims import FIGURES, save_figure
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
