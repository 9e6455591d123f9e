"""Lines of handwritten digits, read by a network that was told which digits are there but never where.

The glyphs are scikit-learn's 1,797 digits of 8 × 8 pixels (Alpaydin and Kaynak, 1998), the lines are made here: 3 to 8
glyphs, each 6 to 11 columns wide, slanted a little, with gaps of 0 to 3 columns. Glyphs of the test lines are in no
training line; glyphs are split at random, so that a writer's hand may be on both sides. Connectionist temporal
classification (Graves and others, 2006) sums over all places where the digits may stand. The classical rival cuts lines
at empty columns; its support vectors learn from glyphs slanted, moved and resized as those of the lines are.

The networks' settings were tried out on lines of seed 0, test lines among them: take figures from another seed.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import thalweg as tw

COLUMNS, STRIDE = 96, 2  # of a line, and of those from one answer of the network to the next
MOST, WIDEST = 8, 11  # glyphs in a line, columns of a glyph
FRAMES = COLUMNS // STRIDE


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(6, "networks, each with its own seed", ge=6, le=100)
    lines: int = tw.setting(16_000, "training lines", quick=6_000, ge=100, le=200_000)
    tests: int = tw.setting(500, "lines of glyphs that no network has seen", ge=50, le=10_000)
    steps: int = tw.setting(3_500, "steps of Adam", quick=600, ge=1)
    batch: int = tw.setting(32, "lines a step", ge=1, le=1_000)
    width: int = tw.setting(256, "units of the widest layer", quick=128, ge=1, le=4_096)
    dropout: float = tw.setting(0.3, "share of the units of the widest layer that is dropped in training", ge=0, lt=1)
    spread: float = tw.setting(
        1.5, "how much more than in the test lines the glyphs of training lines are slanted and moved", ge=0, le=4
    )
    rate: float = tw.setting(3e-3, "learning rate of Adam at the start; it falls along a cosine", gt=0, le=1)


# ------------------------------------------------------------------------------------------------------------ the lines
def drawn(glyphs: np.ndarray, width: int, rng: np.random.Generator, spread: float) -> np.ndarray:
    """Glyphs (n, 8, 8), each resampled to some columns, slanted and moved up or down: (n, 8, width).

    A spread of 1 slants by up to 0.2 columns a row and moves by up to half a pixel; others in proportion.
    """
    count = len(glyphs)
    slant, rise = spread * rng.uniform(-0.2, 0.2, (count, 1, 1)), spread * rng.uniform(-0.5, 0.5, (count, 1, 1))
    row, column = np.mgrid[:8, :width].astype(float)
    at = (column + 0.5) * 8 / width - 0.5 + slant * (row - 3.5)
    which = np.broadcast_to(np.arange(count)[:, None, None], at.shape)
    return map_coordinates(glyphs, [which, np.broadcast_to(row + rise, at.shape), at], order=1, cval=0.0)


def made_lines(
    glyphs: np.ndarray, digits: np.ndarray, count: int, rng: np.random.Generator, spread: float = 1.0
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Images (count, 8, COLUMNS) within 0 … 1, the digits of each, and which digit has its middle in a column.

    The last is (count, COLUMNS), 0 where none has and digit + 1 else; the middle is a glyph's middle half.
    """
    sizes = rng.integers(3, MOST + 1, count)
    picked = rng.integers(len(digits), size=(count, MOST))
    widths, gaps = rng.integers(6, WIDEST + 1, (count, MOST)), rng.integers(0, 4, (count, MOST))
    shapes = np.zeros((count, MOST, 8, WIDEST))
    for width in range(6, WIDEST + 1):
        shapes[widths == width, :, :width] = drawn(glyphs[picked[widths == width]], width, rng, spread)
    images, middles = np.zeros((count, 8, COLUMNS), np.float32), np.zeros((count, COLUMNS), np.int32)
    for i, size in enumerate(sizes):
        room = COLUMNS - widths[i, :size].sum()  # 8 at the widest leave 8 columns for gaps
        begin = 0
        for k in range(size):
            begin += min(gaps[i, k], room)
            room -= min(gaps[i, k], room)
            width = widths[i, k]
            images[i, :, begin : begin + width] = shapes[i, k, :, :width]
            middles[i, begin + width // 4 : begin + width - width // 4] = digits[picked[i, k]] + 1
            begin += width
    return images, [digits[row[:size]] for row, size in zip(picked, sizes, strict=True)], middles


# ---------------------------------------------------------------------------------------------------------- the readers
def reader(settings: Settings, seed: int) -> tw.nn.Sequential:
    """A network over windows of 15 columns: a line (COLUMNS, 8) to logits (FRAMES, 11) of no digit, then 0 … 9."""
    keys, relu = jax.random.split(jax.random.key(seed), 4), tw.nn.Activation(jax.nn.relu)
    strokes = [
        tw.nn.Conv1d(8, 64, kernel_size=7, stride=STRIDE, padding=3, key=keys[0]),
        relu,
        tw.nn.Conv1d(64, 64, kernel_size=1, key=keys[1]),
        relu,
    ]
    shapes = [tw.nn.Conv1d(64, settings.width, kernel_size=5, padding=2, key=keys[2]), relu]
    answer = [tw.nn.Dropout(settings.dropout), tw.nn.Conv1d(settings.width, 11, kernel_size=1, key=keys[3])]
    return tw.nn.Sequential([*strokes, *shapes, *answer])


def cut_lines(images: np.ndarray, machine: SVC) -> list[tuple[int, ...]]:
    """The classical way: cut at empty columns, scale each piece to 8 × 8, ask the support vector machine."""
    pieces, found = [], []
    for i, image in enumerate(images):
        ink = np.flatnonzero(image.max(axis=0) > 0.2)
        for piece in np.split(ink, np.flatnonzero(np.diff(ink) > 1) + 1):
            if len(piece) > 1:  # a single column is no digit
                pieces.append(fitted(image[:, piece[0] : piece[-1] + 1]))
                found.append(i)
    answers = machine.predict(np.array(pieces))
    return [tuple(answers[np.array(found) == i].tolist()) for i in range(len(images))]


def fitted(piece: np.ndarray) -> np.ndarray:
    """A piece (8, w) as 64 pixels: its columns scaled to 8."""
    at = (np.arange(8) + 0.5) * piece.shape[1] / 8 - 0.5
    return map_coordinates(piece, np.meshgrid(np.arange(8.0), at, indexing="ij"), order=1, mode="nearest").ravel()


def cropped(glyphs: np.ndarray) -> np.ndarray:
    """Glyphs (n, 8, 8) as the pieces will be: without empty columns at the sides, (n, 64)."""
    inked = [np.flatnonzero(glyph.max(axis=0) > 0.2) for glyph in glyphs]
    return np.array([fitted(g[:, ink[0] : ink[-1] + 1]) for g, ink in zip(glyphs, inked, strict=True)])


def distorted(glyphs: np.ndarray, digits: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Glyphs (n, 8, 8) and their digits as pieces of lines: each at each width, slanted and moved as there."""
    shapes = [cropped(drawn(glyphs, width, rng, spread=1.0)) for width in range(6, WIDEST + 1)]
    return np.concatenate(shapes), np.tile(digits, len(shapes))


def columns_of(images: np.ndarray) -> jax.Array:
    """Images (n, 8, COLUMNS) as sequences (n, COLUMNS, 8)."""
    return jnp.asarray(images.transpose(0, 2, 1))


@eqx.filter_jit
def logits_of(model: tw.nn.Sequential, images: jax.Array) -> jax.Array:
    """(n, COLUMNS, 8) to (n, FRAMES, 11)."""
    return jax.vmap(model)(images)


def read_all(model: tw.nn.Sequential, images: np.ndarray) -> list[tuple[int, ...]]:
    """What a network reads in each line, by the best path."""
    logits = np.asarray(logits_of(model, columns_of(images)))
    return [tuple(label - 1 for label in tw.losses.ctc_greedy(one).labels) for one in logits]


@tw.study(
    "unaligned", systems=["S13"], question="Can a network learn to read lines when nobody says where digits stand?"
)
def unaligned(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Make lines, train with and without the places, read lines of unseen glyphs, and compare with cutting."""
    pixels, digits = map(np.asarray, load_digits(return_X_y=True))
    glyphs = pixels.reshape(-1, 8, 8) / 16  # within 0 … 1
    train, more, test = tw.data.random_split(len(digits), seed=run.seed, stratify=digits)  # 70, 15 and 15 %
    train = np.concatenate([train, more])  # a run chooses nothing, so no glyphs are kept back for choosing
    rng = np.random.default_rng([run.seed, 13])
    x, texts, middles = made_lines(glyphs[train], digits[train], settings.lines, rng, settings.spread)
    unseen, truth, _ = made_lines(glyphs[test], digits[test], settings.tests, rng)
    answers = [tuple(text.tolist()) for text in truth]

    seeds = run.seeds(settings.seeds)
    only_which = tw.losses.ctc_targets([text + 1 for text in texts], FRAMES, width=MOST)
    which_and_where = middles[:, ::STRIDE]
    cases = {
        "unaligned": (only_which, tw.losses.CTC()),
        "told": (which_and_where, tw.losses.CrossEntropy()),
    }
    models, readings = {}, {}
    for name, (target, loss) in cases.items():
        fits = tw.fit_many(
            [reader(settings, seed) for seed in seeds],
            tw.Objective(lines=tw.Supervised(columns_of(x), target, loss=loss, batch_size=settings.batch)),
            tw.Phase(tw.Adam(tw.Cosine(settings.rate, settings.steps, last=settings.rate / 100)), settings.steps),
            seeds=seeds,
            run=run,
            callbacks=run.callbacks,
            name=name,
        )
        models[name] = fits.models
        readings[name] = [read_all(model, unseen) for model in fits.models]
    right = {name: exact(found, answers) for name, found in readings.items()}  # (seeds, lines)

    machine = SVC(C=10).fit(*distorted(glyphs[train], digits[train], rng))
    by_cutting = exact([cut_lines(unseen, machine)], answers)[0]
    glyphs_right = machine.score(*distorted(glyphs[test], digits[test], rng))

    figures(run, models["unaligned"][0], unseen, answers, right, by_cutting)
    accuracy = 100 * right["unaligned"].mean(axis=1)
    over = f"over {len(seeds)} seeds on the same {settings.tests} lines"
    median, interval = tw.median_interval(accuracy.tolist())
    cutting = f"cutting at empty columns (whose support vectors read {100 * glyphs_right:.1f} % of single pieces)"
    return [
        tw.Claim.at_least(
            f"Told only which digits are there, the network reads 90 % of unseen lines without a mistake, {over}",
            median, interval, 90.0, unit="%",
        ),
        compared(
            f"It reads at least as many lines as {cutting}, {over}", right["unaligned"], by_cutting[None], run.seed
        ),
        compared(
            f"It reads at least as many as the same network told where each digit stands, {over}",
            right["unaligned"], right["told"], run.seed,
        ),
    ]  # fmt: skip


def exact(readings: list[list[tuple[int, ...]]], answers: list[tuple[int, ...]]) -> np.ndarray:
    """Whether each line was read without a mistake, (readers, lines)."""
    return np.array([[mine == answer for mine, answer in zip(found, answers, strict=True)] for found in readings])


def compared(statement: str, right: np.ndarray, other: np.ndarray, seed: int) -> tw.Claim:
    """The claim that one kind of reader has no fewer lines right; the interval also allows for the few test lines.

    Args:
        statement: of the claim.
        right, other: whether a line is right, shapes (readers, lines); readers of the same seed are a pair.
        seed: of the bootstrap over readers and lines (Owen, 2007), 95 %.
    """
    rng, (readers, lines) = np.random.default_rng(seed), right.shape
    gap = right.astype(float) - other  # (readers, lines)
    picks = ((rng.integers(readers, size=readers), rng.integers(lines, size=lines)) for _ in range(2_000))
    low, high = np.quantile([100 * gap[np.ix_(i, j)].mean() for i, j in picks], [0.025, 0.975])
    return tw.Claim.at_least(statement, 100 * gap.mean(), (low, high), 0.0, unit="% points")


def figures(run: tw.Run, model: tw.nn.Sequential, images, answers, right, by_cutting) -> None:
    """Where the digits stand in the longest line with a repeat; and mistakes by the number of digits."""
    sizes = np.array([len(answer) for answer in answers])
    repeats = np.array([any(a == b for a, b in itertools.pairwise(answer)) for answer in answers])
    shown = int(np.argmax(sizes + 0.5 * repeats))
    labels = np.array(answers[shown]) + 1
    found = tw.losses.ctc_alignment(logits_of(model, columns_of(images[shown : shown + 1]))[0], labels)

    def draw(ax) -> None:
        tw.figures.alignment.alignment(
            ax, np.asarray(found.labels), [str(digit) for digit in answers[shown]], path=np.asarray(found.path),
            background=images[shown], labels=("column", "probability"),
        )  # fmt: skip

    caption = "A line of unseen glyphs above the posterior of each of its digits; bars: the most probable alignment."
    run.save_figure("alignment", draw, title="Where it found the digits, which nobody had told it", caption=caption)

    def by_length(ax) -> None:
        rows = {"told which": right["unaligned"], "told which and where": right["told"], "cut": by_cutting[None]}
        for i, (name, hits) in enumerate(rows.items()):
            share = [100 * hits[:, sizes == size].mean() for size in np.unique(sizes)]
            ax.bar(np.unique(sizes) + 0.27 * (i - 1), share, width=0.25, label=name)
        ax.set(xlabel="digits in a line", ylabel="lines without a mistake (%)", ylim=(0, 100))
        tw.figures.style.dress(ax)
        tw.figures.style.legend(ax)  # above the axes

    caption = f"Lines read without a mistake, of {len(answers)}: means of {len(right['told'])} networks, and cutting."
    run.save_figure("lengths", by_length, title="The longer the line, the harder", caption=caption)
