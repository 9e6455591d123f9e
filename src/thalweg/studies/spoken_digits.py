"""Spoken digits: strings that a synthesizer says, read by a network that was told which digits are said but never when.

eSpeak NG (the extra `speech`) says strings of 3 to 6 English digits in four accents, at several rates and pitches; its
voices in the test are none of those that anything was trained or chosen on. White noise is added. The classical rival
is connected-word dynamic time warping (Vintsyuk, 1971): the string of spoken templates that comes nearest, whatever
their stretches. Synthetic voices are more alike than people are: what is measured is the method, not a product.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
TRAINED, CHOSEN, TESTED = ("m1", "m2", "m3", "m5", "f1", "f2", "f4"), ("m6", "f5"), ("m4", "m7", "f3")
MOST, BANDS, HOP = 6, 24, 0.02  # digits in a string, mel bands, seconds from one frame to the next
FRAMES, STRIDE = 160, 2  # of a string, and of those from one answer of the network to the next
PENALTIES = (0.0, 10.0, 20.0, 40.0, 80.0)  # for each word of time warping; chosen on voices apart


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(6, "networks, each with its own seed", ge=6, le=100)
    strings: int = tw.setting(3_000, "training strings", quick=1_200, ge=50, le=100_000)
    tests: int = tw.setting(400, "strings by voices that no network has heard", quick=200, ge=20, le=10_000)
    steps: int = tw.setting(2_000, "steps of Adam", quick=400, ge=1)
    batch: int = tw.setting(32, "strings a step", ge=1, le=1_000)
    width: int = tw.setting(96, "units of each layer", quick=64, ge=1, le=2_048)
    noise: float = tw.setting(20.0, "power of the voice over that of the noise", unit="dB", ge=0, le=80)
    rate: float = tw.setting(3e-3, "learning rate of Adam at the start; it falls along a cosine", gt=0, le=1)


# ----------------------------------------------------------------------------------------------------------- the voices
@dataclass(frozen=True)
class Corpus:
    """Strings and how they sound.

    Attributes:
        features: log-mel frames less their mean over each string, zeros beyond its end, (n, FRAMES, BANDS) float32.
        lengths: frames of each, (n,).
        strings: the digits of each.
    """

    features: np.ndarray
    lengths: np.ndarray
    strings: list[tuple[int, ...]]


def spoken(strings: list[tuple[int, ...]], voices: tuple[str, ...], noise: float, seed: int) -> Corpus:
    """Each string by a voice, an accent, a rate and a pitch at random, with noise."""
    rng = np.random.default_rng(seed)
    said = [
        tw.data.Utterance(
            " ".join(DIGITS[digit] for digit in string),
            f"{rng.choice(ACCENTS)}+{rng.choice(voices)}",
            rate=int(rng.integers(140, 221)),
            pitch=int(rng.integers(30, 71)),
        )
        for string in strings
    ]
    sounds, rate = tw.data.synthesize(said, seed)
    features, lengths = np.zeros((len(strings), FRAMES, BANDS), np.float32), np.zeros(len(strings), np.int32)
    for i, sound in enumerate(sounds):
        level = np.sqrt(np.mean(sound**2)) * 10 ** (-noise / 20)
        noisy = sound + level * rng.normal(size=len(sound))
        frames = tw.data.log_mel(noisy, rate, bands=BANDS, hop=HOP)[:FRAMES]
        lengths[i] = len(frames)
        features[i, : lengths[i]] = frames - frames.mean(axis=0)  # what a voice or a microphone adds to all is left out
    return Corpus(features, lengths, strings)


def drawn_strings(count: int, seed: int) -> list[tuple[int, ...]]:
    """So many strings of 3 to MOST digits."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(10, size=rng.integers(3, MOST + 1)).tolist()) for _ in range(count)]


# ---------------------------------------------------------------------------------------------------------- the readers
def reader(width: int, seed: int) -> tw.nn.Sequential:
    """A network over windows of 0.4 s: frames (FRAMES, BANDS) to logits (FRAMES/STRIDE, 11) of no digit, then 0 … 9."""
    keys, relu = jax.random.split(jax.random.key(seed), 4), tw.nn.Activation(jax.nn.relu)
    conv = lambda before, after, size, key, stride=1: tw.nn.Conv1d(
        before, after, kernel_size=size, stride=stride, padding=size // 2, key=key
    )
    return tw.nn.Sequential(
        [
            conv(BANDS, width, 5, keys[0], STRIDE),
            relu,
            conv(width, width, 5, keys[1]),
            relu,
            conv(width, width, 5, keys[2]),
            relu,
            conv(width, 11, 1, keys[3]),
        ]
    )


@eqx.filter_jit
def logits_of(model: tw.nn.Sequential, features: jax.Array) -> jax.Array:
    """(n, FRAMES, BANDS) to (n, FRAMES/STRIDE, 11)."""
    return jax.vmap(model)(features)


def answers_until(lengths: np.ndarray) -> np.ndarray:
    """Answers of the network that lie within strings of so many frames."""
    return -(-lengths // STRIDE)


def read_all(model: tw.nn.Sequential, corpus: Corpus) -> list[tuple[int, ...]]:
    """What a network reads in each string, by the best path."""
    logits = np.asarray(logits_of(model, jnp.asarray(corpus.features)))
    ends = zip(logits, answers_until(corpus.lengths), strict=True)
    return [tuple(label - 1 for label in tw.losses.ctc_greedy(one[:end]).labels) for one, end in ends]


@dataclass(frozen=True)
class Templates:
    """Spoken words end to end.

    Attributes:
        frames: of all, (s, BANDS).
        first, last: each word's first and last frame, (w,).
        digits: of each word, (w,); −1 is silence.
    """

    frames: np.ndarray
    first: np.ndarray
    last: np.ndarray
    digits: np.ndarray

    @staticmethod
    def of(corpus: Corpus, scale: np.ndarray) -> "Templates":
        """Those of single digits said alone, and silence: the quietest frame in a hundred of all."""
        words = [features[:length] / scale for features, length in zip(corpus.features, corpus.lengths, strict=True)]
        frames = np.concatenate(words)
        quiet = frames[np.argsort(frames.sum(axis=1))[: max(1, len(frames) // 100)]].mean(axis=0)
        last = np.cumsum([len(word) for word in words]) - 1
        return Templates(
            np.concatenate([frames, quiet[None]]),
            np.r_[0, last + 1],
            np.r_[last, len(frames)],
            np.r_[[string[0] for string in corpus.strings], -1],
        )


def warped(frames: np.ndarray, templates: Templates, penalty: float) -> tuple[int, ...]:
    """The string of templates nearest to frames (t, BANDS), by one pass over them (Vintsyuk, 1971; Ney, 1984).

    In a template a path stays, goes on by one frame or leaps over one; from a template's end it enters any other.
    """
    states = len(templates.frames)
    far = ((frames[:, None] - templates.frames) ** 2).sum(axis=2)  # (t, states)
    score, begun = np.full(states, np.inf), np.zeros(states, int)
    inside = np.ones(states, bool)
    inside[templates.first] = False
    leaps = inside & np.r_[False, inside[:-1]]
    before, ends = (
        0.0,
        [],
    )  # the best score of a word that ended, and at each time which word that was and its beginning
    for t, distance in enumerate(far):
        one = np.where(inside, np.r_[np.inf, score[:-1]], np.inf)
        two = np.where(leaps, np.r_[np.inf, np.inf, score[:-2]], np.inf)
        since = np.stack([begun, np.r_[0, begun[:-1]], np.r_[0, 0, begun[:-2]]])
        ways = np.stack([score, one, two])
        best = ways.argmin(axis=0)
        score, begun = ways[best, np.arange(states)], since[best, np.arange(states)]
        enters = templates.first[before + penalty < score[templates.first]]
        score[enters], begun[enters] = before + penalty, t
        score = score + distance
        word = int(score[templates.last].argmin())
        before = float(score[templates.last[word]])
        ends.append((int(templates.digits[word]), int(begun[templates.last[word]])))
    found, t = [], len(frames) - 1
    while t >= 0:
        digit, start = ends[t]
        found += [digit] if digit >= 0 else []
        t = start - 1
    return tuple(reversed(found))


# ------------------------------------------------------------------------------------------------------------ the study
@tw.study("spoken-digits", systems=["S13"], question="Can a network learn to hear digits when nobody says when?")
def spoken_digits(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Let voices speak, train on some, read strings by others, and compare with dynamic time warping."""
    base = 10 * run.seed  # each corpus has its own
    heard = spoken(drawn_strings(settings.strings, base), TRAINED, settings.noise, base)
    apart = spoken(drawn_strings(60, base + 1), CHOSEN, settings.noise, base + 1)
    unheard = spoken(drawn_strings(settings.tests, base + 2), TESTED, settings.noise, base + 2)

    seeds = run.seeds(settings.seeds)
    targets = tw.losses.ctc_targets([np.add(one, 1) for one in heard.strings], answers_until(heard.lengths), width=MOST)
    fitted = tw.fit_many(
        [reader(settings.width, seed) for seed in seeds],
        tw.Objective(
            strings=tw.Supervised(
                jnp.asarray(heard.features), targets, loss=tw.losses.CTC(classes=11), batch_size=settings.batch
            )
        ),
        tw.Phase(tw.Adam(tw.Cosine(settings.rate, settings.steps, last=settings.rate / 100)), settings.steps),
        seeds=seeds,
        run=run,
        callbacks=run.callbacks,
    )
    right = exact([read_all(model, unheard) for model in fitted.models], unheard)  # (seeds, strings)

    words = spoken([(digit,) for digit in range(10)] * 12, TRAINED, settings.noise, base + 3)
    scale = np.concatenate([one[:end] for one, end in zip(words.features, words.lengths, strict=True)]).std(axis=0)
    templates = Templates.of(words, scale)
    listen = lambda corpus, penalty: [
        warped(one[:end] / scale, templates, penalty) for one, end in zip(corpus.features, corpus.lengths, strict=True)
    ]
    penalty = max(PENALTIES, key=lambda one: exact([listen(apart, one)], apart).mean())
    by_warping = exact([listen(unheard, penalty)], unheard)[0]

    figures(run, fitted.models[0], unheard, right, by_warping)
    over = f"over {len(seeds)} seeds on the same {settings.tests} strings"
    accuracy = 100 * right.mean(axis=1)
    middle, interval = tw.median_interval(accuracy.tolist())
    gap, gap_interval = tw.median_interval((accuracy - 100 * by_warping.mean()).tolist())
    return [
        tw.Claim.at_least(
            f"Told only which digits are said, the network reads 90 % of strings by unheard voices exactly, {over}",
            middle, interval, 90.0, unit="%",
        ),
        tw.Claim.at_least(
            f"It reads at least as many as connected-word time warping with {len(templates.digits) - 1} templates "
            f"({100 * by_warping.mean():.1f} %), {over}", gap, gap_interval, 0.0, unit="% points",
        ),
    ]  # fmt: skip


def exact(readings: list[list[tuple[int, ...]]], corpus: Corpus) -> np.ndarray:
    """Whether each string was read without a mistake, (readers, strings)."""
    return np.array([[mine == said for mine, said in zip(one, corpus.strings, strict=True)] for one in readings])


def figures(run: tw.Run, model: tw.nn.Sequential, corpus: Corpus, right: np.ndarray, by_warping: np.ndarray) -> None:
    """Where the digits lie in one string; and mistakes by the number of digits."""
    sizes = np.array([len(string) for string in corpus.strings])
    shown = int(np.argmax(sizes))
    end = int(answers_until(corpus.lengths)[shown])
    logits = logits_of(model, jnp.asarray(corpus.features[shown : shown + 1]))[0, :end]
    found = tw.losses.ctc_alignment(logits, np.array(corpus.strings[shown]) + 1)

    def draw(ax) -> None:
        tw.figures.alignment.alignment(
            ax, np.asarray(found.labels), [str(digit) for digit in corpus.strings[shown]], path=np.asarray(found.path),
            background=corpus.features[shown, : end * STRIDE].T[::-1], labels=("frame of 20 ms", "probability"),
        )  # fmt: skip

    caption = "The mel bands of a string by an unheard voice (dark is loud, low below), and when each digit is said."
    run.save_figure("alignment", draw, title="When it heard the digits", caption=caption)

    def by_length(ax) -> None:
        for i, (name, hits) in enumerate({"network": right, "time warping": by_warping[None]}.items()):
            share = [100 * hits[:, sizes == size].mean() for size in np.unique(sizes)]
            ax.bar(np.unique(sizes) + 0.4 * (i - 0.5), share, width=0.38, label=name)
        ax.set(xlabel="digits in a string", ylabel="strings without a mistake (%)", ylim=(0, 100))
        ax.set_xticks(np.unique(sizes))
        tw.figures.style.dress(ax)
        tw.figures.style.legend(ax)  # above the axes

    caption = f"Strings without a mistake, of {len(sizes)}: means of {len(right)} networks, and time warping."
    run.save_figure("lengths", by_length, title="The longer the string, the harder", caption=caption)
