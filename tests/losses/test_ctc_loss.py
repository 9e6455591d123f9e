"""The CTC loss: against a sum over all paths, closed forms, and torch's recorded values and gradients."""

import importlib.util
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from thalweg import losses
from thalweg.errors import UserError
from thalweg.nn import Linear
from thalweg.objective import HostRows, Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import Phase, fit

HERE = Path(__file__).parent
# Shares of probability, of order one. float32: a logit of 100 is itself known to 4e-6. float64: some 1,000 roundings.
ATOL = {"float32": 1e-5, "float64": 1e-11}
RTOL = {"float32": 1e-6, "float64": 1e-13}


def read(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    """What a path reads as: by the definition."""
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def by_all_paths(logits: np.ndarray, blank: int) -> dict[tuple[int, ...], tuple[float, np.ndarray]]:
    """Of each sequence that is possible: -log of its probability, and the gradient with respect to the logits."""
    probability = scipy.special.softmax(logits, axis=1)
    steps, classes = logits.shape
    total: dict[tuple[int, ...], float] = {}
    shares: dict[tuple[int, ...], np.ndarray] = {}
    for path in itertools.product(range(classes), repeat=steps):
        weight = np.prod([probability[t, c] for t, c in enumerate(path)])
        key = read(path, blank)
        total[key] = total.get(key, 0.0) + weight
        shares.setdefault(key, np.zeros(logits.shape))[range(steps), list(path)] += weight
    return {key: (-np.log(p), probability - shares[key] / p) for key, p in total.items()}


def value_and_gradient(logits, labels, input_length, label_length, blank=0):
    cost = lambda x, *rest: losses.ctc(x, *rest, blank=blank)
    return jax.jit(jax.vmap(jax.value_and_grad(cost)))(logits, labels, input_length, label_length)


one_example = jax.jit(jax.value_and_grad(losses.ctc))


@pytest.mark.parametrize(("precision", "blank"), [("float32", 0), ("float64", 2)])
def test_it_is_the_sum_over_all_paths_and_impossible_just_where_none_is(precision, blank):
    """All sequences of up to 4 of 2 labels, on all lengths from 0 to 5."""
    rng = np.random.default_rng(0)
    most, names = 5, [c for c in range(3) if c != blank]
    logits = (2 * rng.normal(size=(most, 3))).astype(np.float32)
    sequences = [labels for size in range(5) for labels in itertools.product(names, repeat=size)]
    asked = [(labels, steps) for labels in sequences for steps in range(most + 1)]
    targets = losses.ctc_targets([labels for labels, _ in asked], [steps for _, steps in asked])
    # What stands in the padding does not matter, whatever it is.
    padding = np.arange(targets.labels.shape[1]) >= targets.label_length[:, None]
    labels = np.where(padding, rng.integers(-9, 9, padding.shape), targets.labels).astype(np.int32)
    padded = np.stack([np.where(np.arange(most)[:, None] < steps, logits, np.nan) for _, steps in asked])
    with jax.enable_x64(precision == "float64"):
        x = jnp.asarray(padded, precision)
        values, slopes = value_and_gradient(x, labels, targets.input_length, targets.label_length, blank)
    assert (values.dtype, slopes.dtype) == (precision, precision)
    expected = [by_all_paths(logits[:steps].astype(np.float64), blank) for steps in range(most + 1)]
    for (sequence, steps), value, slope in zip(asked, np.asarray(values), np.asarray(slopes), strict=True):
        repeats = sum(one == other for one, other in itertools.pairwise(sequence))
        possible = steps >= len(sequence) + repeats
        assert np.isfinite(value) == possible == (sequence in expected[steps])
        assert not slope[steps:].any()
        if possible:
            cost, gradient = expected[steps][sequence]
            assert value == pytest.approx(cost, rel=10 * RTOL[precision], abs=10 * RTOL[precision])
            np.testing.assert_allclose(slope[:steps], gradient, rtol=0, atol=ATOL[precision])
        else:
            assert value == np.inf
            assert not slope.any()


@pytest.fixture(scope="module")
def recorded():
    spec = importlib.util.spec_from_file_location("record_torch_ctc", HERE / "record_torch_ctc.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script, json.loads((HERE / "torch_ctc.json").read_text())


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_it_is_torchs_value_and_gradient(recorded, precision):
    """Repeats, unequal lengths, an empty sequence, one alignment only; and logits so peaked that shares span e^±60."""
    script, found = recorded
    cases = [(scale, i) for scale in script.SCALES for i in range(len(script.EXAMPLES))]
    logits = np.array([script.logits_of(i, script.STEPS, scale) for scale, i in cases], np.float32)
    picked = [script.EXAMPLES[i] for _, i in cases]
    targets = losses.ctc_targets([labels for labels, _ in picked], [steps for _, steps in picked])
    with jax.enable_x64(precision == "float64"):
        x = jnp.asarray(logits, precision)
        values, slopes = value_and_gradient(x, targets.labels, targets.input_length, targets.label_length)
    for (scale, i), value, slope in zip(cases, np.asarray(values), np.asarray(slopes), strict=True):
        theirs = found["scales"][str(scale)][i]
        # a value near 0 is the difference of numbers near 1
        assert value == pytest.approx(theirs["value"], rel=RTOL[precision], abs=10 * RTOL[precision])
        steps = script.EXAMPLES[i][1]
        # 1e-10 beside: eleven digits are recorded
        np.testing.assert_allclose(slope[:steps], theirs["gradient"], rtol=0, atol=max(ATOL[precision], 1e-10))
        assert not slope[steps:].any()


def test_five_thousand_steps_in_single_precision(recorded):
    script, found = recorded
    logits = jnp.asarray(script.logits_of(0, script.LONG_STEPS, 3), jnp.float32)[None]
    labels = np.array([script.LONG_LABELS], np.int32)
    value, slope = value_and_gradient(logits, labels, jnp.array([script.LONG_STEPS]), jnp.array([labels.size]))
    assert float(value[0]) == pytest.approx(found["long"]["value"], rel=1e-6)
    # torch's own float32 gradient is 3e-2 off on the like.
    np.testing.assert_allclose(slope[0, script.LONG_KEPT], found["long"]["gradient"], rtol=0, atol=1e-5)


def test_equal_logits_count_the_alignments():
    """S labels with r repeats have binom(T + S - r, 2S) alignments with T steps: choose where each begins and ends."""
    labels, steps = np.array([1, 1, 2, 3, 3, 3, 1], np.int32), 900
    count = scipy.special.gammaln([steps + 7 - 3 + 1, 15, steps + 7 - 3 - 14 + 1]) @ [1, -1, -1]
    found = losses.ctc(jnp.zeros((steps, 4)), labels, steps, len(labels))
    assert float(found) == pytest.approx(steps * np.log(4) - count, rel=1e-6)  # float32


def test_what_is_small_now_and_needed_later_is_not_lost():
    """A forced path through improbable classes, e^-100 a step, beside others e^100 as probable that must fail."""
    labels = np.array([1, 2, 1, 2, 1, 2, 1, 2], np.int32)
    logits = np.zeros((8, 3), np.float32)
    logits[:, 0] = 100  # blanks, of which there is no time for any
    logits[:, 1] = np.where(np.arange(8) % 2, 50, 0)
    value, slope = one_example(logits, labels, 8, 8)
    exact = scipy.special.softmax(logits.astype(float), axis=1) - np.eye(3)[labels]
    np.testing.assert_allclose(slope, exact, rtol=0, atol=1e-7)  # rounding of order one
    assert float(value) == pytest.approx(
        -np.log(scipy.special.softmax(logits.astype(float), axis=1)[range(8), labels]).sum()
    )


def test_a_probability_of_zero_is_allowed_and_may_make_it_impossible():
    logits = jnp.array([[0.0, 0.0, -jnp.inf], [0.0, -jnp.inf, 0.0]])
    value, slope = one_example(logits, jnp.array([1, 2]), 2, 2)
    assert float(value) == pytest.approx(2 * np.log(2))
    np.testing.assert_allclose(slope, [[0.5, -0.5, 0.0], [0.5, 0.0, -0.5]], atol=1e-7)
    value, slope = one_example(logits, jnp.array([2, 1]), 2, 2)
    assert value == np.inf
    assert not slope.any()
    assert np.isnan(one_example(logits.at[0].set(-jnp.inf), jnp.array([1, 2]), 2, 2)[0])
    assert np.isnan(one_example(logits.at[0, 2].set(jnp.nan), jnp.array([1, 2]), 2, 2)[0])


def test_forward_mode_is_there_and_second_derivatives_are_refused():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)), jnp.float32)
    cost = lambda x: losses.ctc(x, jnp.array([1, 3]), 6, 2)
    direction = jnp.cos(jnp.arange(24.0).reshape(6, 4))
    _, along = jax.jit(lambda x, d: jax.jvp(cost, (x,), (d,)))(logits, direction)
    _, slope = one_example(logits, jnp.array([1, 3]), 6, 2)
    assert float(along) == pytest.approx(float(jnp.sum(slope * direction)), rel=1e-5)  # float32
    for second in (jax.hessian(cost), jax.grad(lambda x: jnp.sum(jax.grad(cost)(x) ** 2))):
        with pytest.raises(UserError, match="second derivative of the CTC loss"):
            jax.eval_shape(second, logits)


def test_half_precision_is_computed_in_single():
    logits = jnp.asarray(np.random.default_rng(2).normal(size=(300, 4)), jnp.bfloat16)
    found = losses.ctc(logits, jnp.array([1, 2, 3]), 300, 3)
    single = losses.ctc(logits.astype(jnp.float32), jnp.array([1, 2, 3]), 300, 3)
    assert found.dtype == jnp.bfloat16
    assert found == single.astype(jnp.bfloat16)


def test_a_term_takes_it():
    """Its cost of a batch is the mean of the examples', and its target is cut into batches with the rest."""
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(6, 5, 4)), jnp.float32)
    targets = losses.ctc_targets([[1], [2, 2], [], [3, 1], [1, 2, 3], [1]], [5, 4, 5, 3, 5, 2])
    term = Supervised(x, targets, loss=losses.CTC(), batch_size=3)
    batch = term.source.draw(term.source.init(jax.random.key(0)), jnp.int32(1))
    costs, _ = term.batch_loss(lambda one, key: one, batch, None)
    rows = np.array([np.argmax([np.array_equal(each, one) for each in x]) for one in batch.values[0]])
    apart = jax.vmap(losses.ctc)(x[rows], *(np.asarray(part)[rows] for part in (targets.labels, *targets[:0:-1])))
    assert len(set(rows.tolist())) == 3
    assert float(costs) == pytest.approx(float(jnp.mean(apart)), rel=1e-6)  # float32, compiled twice


# ------------------------------------------------------------------------------------------------------------- mistakes
WRONG = {  # labels, label length, input length; and what is said on the host
    "a blank": ([1, 0, 2], 3, 6, "the label 0, where a label is a class 0 … 2³¹ - 1 but 0, the blank"),
    "a negative label": ([1, -1, 2], 3, 6, "the label -1"),
    "too many labels": ([1, 2, 3], 4, 6, "a label length of 4, where there is room for 3"),
    "a negative length": ([1, 2, 3], -1, 6, "a label length of -1"),
    "a negative input": ([1, 2, 3], 0, -2, "an input length of -2"),
    "a short input": ([1, 1, 2], 3, 3, "3 labels, 1 of them repeated, need 4 steps, but there are 3"),
}


@pytest.mark.parametrize("what", WRONG)
def test_such_targets_are_refused_by_their_row(what):
    labels, count, steps, words = WRONG[what]
    targets = losses.CTCTarget(np.array([[1, 2, 3], labels]), np.array([3, count]), np.array([6, steps]))
    with pytest.raises(UserError) as refusal:
        Supervised(jnp.zeros((2, 6, 4)), targets, loss=losses.CTC())
    assert words in str(refusal.value)
    assert "row 1" in str(refusal.value)
    with pytest.raises(UserError, match="ctc"):  # of one example, whose values are at hand
        losses.ctc(jnp.zeros((6, 4)), np.array(labels), steps, count)


def test_in_a_compiled_program_they_cost_nan_or_infinity():
    rows = [(labels, count, steps) for labels, count, steps, _ in WRONG.values()]
    rows += [([1, 2, 9], 3, 6), ([1, 2, 3], 3, 7), ([1, 2, 9], 2, 6)]
    labels, count, steps = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    values, slopes = value_and_gradient(jnp.zeros((len(rows), 6, 4)), labels, steps, count)
    assert np.isnan(values).tolist() == [True] * 5 + [False, True, True, False]
    assert values[5] == np.inf
    assert not np.asarray(slopes[5]).any()
    assert np.isfinite(values[8])


def test_refusals_of_shape_and_range():
    one = losses.CTCTarget(np.array([1, 2]), np.array(2), np.array(3))
    with pytest.raises(UserError, match="logits of dtype float32, shape"):
        losses.CTC()(jnp.zeros(4), one)
    with pytest.raises(UserError, match="labels of dtype float"):
        losses.ctc(jnp.zeros((3, 4)), jnp.array([1.0]), 3, 1)
    with pytest.raises(UserError, match="in place of"):
        losses.CTC()(jnp.zeros((3, 4)), np.array([1, 2]))
    with pytest.raises(UserError, match="label lengths of dtype float"):
        losses.CTC().check_targets((np.array([[1, 2]]), np.array([1.0]), np.array([3])))
    with pytest.raises(UserError, match="with lengths of the shapes"):
        losses.CTC().check_targets((np.array([1, 2]), np.array([2]), np.array([3])))
    with pytest.raises(UserError, match="the label 9, where a label is below 4"):
        losses.CTC(classes=4).check_targets(losses.ctc_targets([[1, 9]], 5))
    with pytest.raises(UserError, match="for 5 classes"):
        losses.CTC(classes=5)(jnp.zeros((3, 4)), one)
    for arguments in ((-1, None), (4, 4)):
        with pytest.raises(UserError, match="the blank"):
            losses.CTC(*arguments)
    with pytest.raises(UserError, match="the blank 7 of 4 classes"):
        losses.CTC(7)(jnp.zeros((3, 4)), one)
    with pytest.raises(UserError, match="row 1"):
        losses.ctc_targets([[1], [0.5]], 3)
    with pytest.raises(UserError, match="3 labels in a width of 2"):
        losses.ctc_targets([[1], [1, 2, 3]], 9, width=2)


def test_numbers_that_32_bits_do_not_hold_are_refused_and_never_wrap_around():
    """2³² + 1 would become 1, a label like any other."""
    logits, far = np.zeros((6, 4), np.float32), 2**32 + 1
    with pytest.raises(UserError, match=f"the label {far}"):
        losses.ctc(logits, np.array([far]), 6, 1)
    with pytest.raises(UserError, match=f"the label {far}"):
        losses.ctc_targets([[far]], 6)
    one = np.array([1])
    for labels, count, steps in (([[far]], one, 6 * one), ([[1]], one * far, 6 * one), ([[1]], one, one * far)):
        with pytest.raises(UserError, match=str(far)):
            losses.CTC().check_targets(losses.CTCTarget(np.array(labels), count, steps))
    traced = jax.jit(lambda steps: losses.ctc(logits, np.array([far]), steps, 1))
    assert np.isnan(traced(6))


@pytest.mark.parametrize(
    ("sequences", "lengths", "width", "words"),
    [
        ([[1]], 7.9, None, "input lengths of dtype float64"),
        ([[1]], -3, None, "an input length of -3"),
        ([[1], [2]], [3, 4, 5], None, "one to each of the 2"),
        ([[1], [2]], [3, np.nan], None, "input lengths of dtype float64"),
        ([[1], [2]], [3, -4], None, "row 1"),
        ([[1, [2, 3]]], 3, None, "labels within labels"),
        ([[1]], 3, 2.0, "no whole number"),
        ([], 3, -1, "a width of -1"),
        ([[1], [-2]], 3, None, "the label -2"),
    ],
)
def test_sequences_and_lengths_that_are_none_are_refused(sequences, lengths, width, words):
    with pytest.raises(UserError, match=words):
        losses.ctc_targets(sequences, lengths, width=width)


@pytest.mark.parametrize("blank", [1.5, True, "a"])
def test_the_blank_is_a_whole_number(blank):
    with pytest.raises(UserError, match="no whole number"):
        losses.CTC(blank)
    with pytest.raises(UserError, match="no whole number"):
        losses.ctc(jnp.zeros((6, 4)), np.array([2]), 6, 1, blank=blank)


def test_fit_refuses_what_the_models_output_has_no_room_for():
    """Only with the model is it known how many steps and classes there are. Compiled, it would only cost NaN."""
    x, model = np.zeros((3, 8, 5), np.float32), Linear(5, 4, key=jax.random.key(0))
    good = losses.ctc_targets([[1], [2, 3], [3]], 8)
    for targets, words in (
        (good._replace(input_length=np.array([8, 80, 8])), "an input length of 80, where there are 8 steps"),
        (good._replace(labels=np.array([[1, 0], [2, 4], [3, 0]])), "the label 4, where a label is below 4"),
    ):
        sound, wrong = (Objective(reads=Supervised(x, y, loss=losses.CTC())) for y in (good, targets))
        streamed = Objective(reads=Supervised(HostRows((x.astype(float), targets), batch_size=1), loss=losses.CTC()))
        for objective, validation in ((wrong, None), (sound, wrong), (streamed, None)):
            with pytest.raises(UserError, match=words) as refusal:
                fit(model, objective, Phase(Adam(1e-2), 3), validation=validation)
            assert "row 1" in str(refusal.value)
