"""The path of a continuation."""

from typing import TYPE_CHECKING

from thalweg.figures.style import MUTED, SERIES, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.optim.path import FollowedPath


def path(ax: "Axes", found: "FollowedPath", *, total: str = "objective", norm: str = "‖θ‖") -> None:
    """Loss, norm of the params and corrector steps over λ, one above the other; saddles that stood are marked.

    Args:
        ax: where to draw; it is divided into three.
        found: of `thalweg.followed_path`.
        total, norm: what the first two panels are called.

    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> from thalweg.optim.path import FollowedPath
    >>> ax = Figure().add_subplot()
    >>> at = np.linspace(0, 1, 5)
    >>> path(ax, FollowedPath(at, 1 + at, 2 - at, 3 + 0 * at, at - 0.6, 0))
    >>> [panel.get_ylabel() for panel in ax.child_axes]
    ['objective', '‖θ‖', 'corrector\\nsteps']
    """
    ax.set_axis_off()
    panels = [ax.inset_axes((0.0, low, 1.0, 0.27)) for low in (0.73, 0.365, 0.0)]
    at = found.progress
    for panel, values, label in zip(panels[:2], (found.total, found.norm), (total, norm), strict=True):
        dress(panel)
        panel.plot(at, values, "o-", color=SERIES[0], markersize=3.5, linewidth=1.2)
        bent = found.curvature < 0
        panel.plot(at[bent], values[bent], "o", color=SERIES[1], markersize=6, fillstyle="none")
        panel.set_ylabel(label, fontsize="small")
        panel.set_xticklabels([])
    dress(panels[2])
    panels[2].vlines(at, 0, found.corrections, color=MUTED, linewidth=2)
    panels[2].set_ylim(bottom=0)
    panels[2].set_ylabel("corrector\nsteps", fontsize="small")
    panels[2].set_xlabel("λ")
    for panel in panels:
        panel.set_xlim(-0.02, 1.02)
        panel.locator_params(axis="y", nbins=4)
        panel.ticklabel_format(axis="y", useOffset=False)  # a norm that stays the same would have labels like 1e-11
