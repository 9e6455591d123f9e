"""Losses for classes, against SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

import thalweg as tw
from thalweg import losses
from thalweg.errors import UserError

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_alone_and_in_company():
    RNG.bit_generator.state = START


def test_cross_entropy_is_scipys():
    with jax.enable_x64(True):
        logits = RNG.normal(scale=5.0, size=7)
        for target in range(7):
            # 1e-12 relative: the sum of seven exponentials, and a logarithm whose value is not below 1e-3 here.
            expected = -scipy.special.log_softmax(logits)[target]
            np.testing.assert_allclose(
                losses.cross_entropy(jnp.asarray(logits), jnp.array(target)), expected, rtol=1e-12
            )
        probabilities = scipy.special.softmax(logits)
        one_hot = np.eye(7, dtype=int)[3]
        expected = -scipy.stats.multinomial.logpmf(one_hot, 1, probabilities)
        np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(logits), jnp.array(3)), expected, rtol=1e-12)


def test_probabilities_sum_to_one_and_huge_logits_stay_finite():
    with jax.enable_x64(True):
        logits = jnp.array([1e4, -1e4, 1e4 - 1, 0.0])
        costs = jax.vmap(lambda target: losses.cross_entropy(logits, target))(jnp.arange(4))
        assert np.isfinite(costs).all()
        assert float(jnp.sum(jnp.exp(-costs))) == pytest.approx(1, abs=1e-11)  # an ulp of 1e4 is 2e-12


def test_positions_are_summed():
    with jax.enable_x64(True):
        logits, target = jnp.asarray(RNG.normal(size=(5, 3))), jnp.array([0, 2, 1, 1, 0])
        apart = sum(losses.cross_entropy(row, one) for row, one in zip(logits, target, strict=True))
        np.testing.assert_allclose(losses.cross_entropy(logits, target), apart, rtol=1e-14)


def test_gradient_is_softmax_minus_one_hot():
    with jax.enable_x64(True):
        logits, target = jnp.asarray(RNG.normal(size=4)), jnp.array(1)
        gradient = jax.grad(losses.cross_entropy)(logits, target)
        np.testing.assert_allclose(gradient, scipy.special.softmax(logits) - np.eye(4)[1], atol=1e-15)
        # Central differences with step 1e-4: truncation of some 1e-9.
        check_grads(lambda x: losses.cross_entropy(x, target), (logits,), order=2, modes=["rev"], eps=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["uint8", "int32", "int64"])
def test_the_dtype_is_kept_under_jit_and_vmap(precision, kind):
    with jax.enable_x64(precision == "float64" or kind == "int64"):
        logits, target = (
            jnp.zeros((2, 300), precision),
            jnp.array([0, 255], kind),
        )  # more classes than a uint8 can count
        loss = jax.jit(jax.vmap(losses.cross_entropy))(logits, target)
        assert loss.dtype == precision
        np.testing.assert_allclose(loss, np.log(300), rtol=1e-6)


def test_a_class_out_of_range_is_not_silently_another():
    assert np.isnan(losses.cross_entropy(jnp.zeros(3), jnp.array(3)))
    assert np.isnan(losses.cross_entropy(jnp.zeros(3), jnp.array(-1)))


@pytest.mark.parametrize(
    ("logits", "target", "named"),
    [
        (jnp.zeros(3), jnp.array(1.0), "float32"),
        (jnp.zeros(3), jnp.array([1]), r"\(3,\).*\(1,\)"),
        (jnp.zeros((2, 3)), jnp.array(1), r"\(2, 3\).*\(\)"),
        (jnp.zeros(()), jnp.array(1), r"\(\)"),
    ],
)
def test_mistakes_are_refused(logits, target, named):
    with pytest.raises(UserError, match=named):
        losses.cross_entropy(logits, target)


def test_soft_targets_smoothing_and_pytorch():
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        logits, soft = RNG.normal(scale=4.0, size=(5, 6)), RNG.dirichlet(np.ones(6), size=5)
        hard = RNG.integers(0, 6, 5)
        for smoothing in (0.0, 0.1, 0.5):
            loss = losses.CrossEntropy(smoothing)
            for target, theirs in ((hard, torch.tensor(hard)), (soft, torch.tensor(soft))):
                expected = torch.nn.functional.cross_entropy(
                    torch.tensor(logits), theirs, label_smoothing=smoothing, reduction="sum"
                )
                # 1e-12: thirty products, summed.
                np.testing.assert_allclose(loss(jnp.asarray(logits), jnp.asarray(target)), expected, rtol=1e-12)
        same = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(np.eye(6)[hard]))
        np.testing.assert_allclose(same, losses.cross_entropy(jnp.asarray(logits), jnp.asarray(hard)), rtol=1e-14)


def test_soft_targets_cost_their_entropy_at_least():
    with jax.enable_x64(True):
        soft = RNG.dirichlet(np.ones(4))
        least = losses.cross_entropy(jnp.log(jnp.asarray(soft)), jnp.asarray(soft))
        np.testing.assert_allclose(least, scipy.stats.entropy(soft), rtol=1e-12)
        gradient = jax.grad(losses.cross_entropy)(jnp.log(jnp.asarray(soft)), jnp.asarray(soft))
        np.testing.assert_allclose(gradient, np.zeros(4), atol=1e-15)
        excluded = jnp.array([0.0, -jnp.inf, 0.0])  # a class ruled out costs nothing where its target is 0
        np.testing.assert_allclose(losses.cross_entropy(excluded, jnp.array([0.5, 0.0, 0.5])), np.log(2), rtol=1e-14)


def test_binary_cross_entropy_is_scipys_into_the_tails():
    with jax.enable_x64(True):
        logits = np.concatenate([-np.logspace(-3, 4, 30), [0.0], np.logspace(-3, 4, 30)])
        cost = jax.jit(jax.vmap(losses.binary_cross_entropy, (0, None)))
        for yes in (0, 1):
            expected = -scipy.special.log_expit(logits if yes else -logits)
            for kind in (bool, np.int32, float):
                # 1e-12: a logarithm and an exponential; also at e^-700, where the probability is one ulp from certain.
                np.testing.assert_allclose(cost(logits, np.array(yes, kind)), expected, rtol=1e-12)
        moderate = logits[np.abs(logits) < 5]
        expected = -scipy.stats.bernoulli.logpmf(1, scipy.special.expit(moderate))
        np.testing.assert_allclose(cost(moderate, np.array(True)), expected, rtol=1e-12)


def test_soft_and_smoothed_binary_targets_are_pytorchs():
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        logits, soft = RNG.normal(scale=4.0, size=20), RNG.uniform(size=20)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            torch.tensor(logits), torch.tensor(soft), reduction="sum"
        )
        np.testing.assert_allclose(
            losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(soft)), expected, rtol=1e-12
        )
        smoothed = losses.BinaryCrossEntropy(0.2)(jnp.asarray(logits), jnp.asarray(soft))
        same = losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(0.8 * soft + 0.1))
        np.testing.assert_allclose(smoothed, same, rtol=1e-14)
        # the two classes of a softmax
        pairs = jnp.stack([jnp.zeros(20), jnp.asarray(logits)], axis=-1)
        hard = RNG.integers(0, 2, 20)
        np.testing.assert_allclose(
            losses.cross_entropy(pairs, jnp.asarray(hard)),
            losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(hard)),
            rtol=1e-13,
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_the_papers_formula(gamma):
    """Lin et al. (2017), equation 5, with probabilities in place of logarithms."""
    with jax.enable_x64(True):
        logits, hard, alpha = RNG.normal(scale=2.0, size=(9, 4)), RNG.integers(0, 4, 9), (0.1, 0.5, 1.0, 2.0)
        p = scipy.special.softmax(logits, axis=-1)[np.arange(9), hard]
        expected = -((1 - p) ** gamma) * np.log(p)
        found = losses.Focal(gamma)(jnp.asarray(logits), jnp.asarray(hard))
        # 1e-11: 1 - p of a p near 1 has lost up to four digits.
        np.testing.assert_allclose(found, expected.sum(), rtol=1e-11)
        weighted = losses.Focal(gamma, alpha)(jnp.asarray(logits), jnp.asarray(hard))
        np.testing.assert_allclose(weighted, (np.asarray(alpha)[hard] * expected).sum(), rtol=1e-11)

        logit, yes = logits.ravel(), RNG.integers(0, 2, 36)
        p = np.where(yes == 1, scipy.special.expit(logit), scipy.special.expit(-logit))
        expected = -((1 - p) ** gamma) * np.log(p)
        found = losses.BinaryFocal(gamma)(jnp.asarray(logit), jnp.asarray(yes))
        np.testing.assert_allclose(found, expected.sum(), rtol=1e-11)
        weighted = losses.BinaryFocal(gamma, 0.25)(jnp.asarray(logit), jnp.asarray(yes))
        np.testing.assert_allclose(weighted, (np.where(yes == 1, 0.25, 0.75) * expected).sum(), rtol=1e-11)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_gradients_of_certain_answers_are_finite(precision):
    """(1 - p)^γ has an infinite slope at p = 1 for γ < 1, if written so."""
    with jax.enable_x64(precision == "float64"):
        logits = jnp.asarray([-1e30, -200.0, -1.0, 0.0, 1.0, 200.0, 1e30], precision)
        for loss in (losses.BinaryFocal(0.5), losses.BinaryFocal(2.0, 0.25), losses.binary_cross_entropy):
            for yes in (True, False):
                cost = lambda x, loss=loss, yes=yes: loss(x, jnp.array(yes))
                value, slope = jax.jit(jax.vmap(jax.value_and_grad(cost)))(logits)
                assert value.dtype == precision
                assert np.isfinite(value).all()
                assert np.isfinite(slope).all()
        pair = lambda x: losses.Focal(0.5)(jnp.stack([x, -x, jnp.zeros_like(x)]), jnp.array(0))
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(pair)))(logits)
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()


def test_more_gradients_by_differences():
    with jax.enable_x64(True):
        logits, soft = jnp.asarray(RNG.normal(size=4)), jnp.asarray(RNG.dirichlet(np.ones(4)))
        # Central differences with step 1e-4: truncation of some 1e-8.
        settings = {"order": 1, "modes": ["rev"], "eps": 1e-4, "atol": 1e-6, "rtol": 1e-6}
        check_grads(lambda x: losses.CrossEntropy(0.1)(x, soft), (logits,), **settings)
        check_grads(lambda x: losses.Focal(1.5)(x, jnp.array(2)), (logits,), **settings)
        check_grads(lambda x: losses.BinaryFocal(1.5, 0.3)(x, jnp.array([0, 1, 1, 0])), (logits,), **settings)
        check_grads(lambda x: losses.BinaryCrossEntropy(0.1)(x, soft), (logits,), **settings)


@pytest.mark.parametrize(
    ("loss", "good", "wrong", "named"),
    [
        (losses.cross_entropy, [0, 4, 2], [0, -1, 2], r"class.* is -1 \(row 1\)"),
        (
            losses.cross_entropy,
            [[0.5, 0.5]],
            [[0.5, 0.5], [1.5, -0.5]],
            r"is 1.5 \(row 1, component \(0,\)\)",
        ),
        (losses.cross_entropy, [[1.0, 0.0]], [[0.5, 0.4], [1.0, 0.0]], r"sum .* is 0.9 \(row 0\)"),
        (losses.Focal(), [0, 1], [0, -3], r"is -3 \(row 1\)"),
        (losses.binary_cross_entropy, [0.0, 0.3, 1.0], [0.2, np.nan], r"probability.* is nan \(row 1\)"),
        (losses.binary_cross_entropy, [True, False], [0, 1, 2], r"is 2 \(row 2\)"),
        (losses.BinaryFocal(), [0, 1], [0.0, 0.5], r"0 or 1.* is 0.5 \(row 1\)"),
    ],
)
def test_targets_are_looked_through(loss, good, wrong, named):
    loss.check_targets(np.asarray(good))
    loss.check_targets(jnp.asarray(good))
    with pytest.raises(UserError, match=named):
        loss.check_targets(np.asarray(wrong))


@pytest.mark.parametrize("loss", [losses.binary_cross_entropy, losses.BinaryFocal()])
def test_a_target_that_is_no_probability_costs_nan(loss):
    assert np.isnan(loss(jnp.zeros(()), jnp.float32(1.5)))
    assert np.isnan(losses.cross_entropy(jnp.zeros(2), jnp.array([1.5, -0.5])))


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: losses.CrossEntropy(1.0), "smoothing 1"),
        (lambda: losses.BinaryCrossEntropy(-0.1), "smoothing -0.1"),
        (lambda: losses.Focal(-1.0), "gamma -1"),
        (lambda: losses.Focal(2.0, (1.0, -1.0)), "alpha"),
        (lambda: losses.BinaryFocal(2.0, 1.5), "alpha 1.5"),
        (lambda: losses.Focal(2.0, (1.0, 1.0))(jnp.zeros(3), jnp.array(1)), "3 logits and 2 weights"),
        (lambda: losses.Focal()(jnp.zeros(1), jnp.array(0)), "1 logits"),
        (lambda: losses.Focal()(jnp.zeros(2), jnp.array(0.0)), "float32"),
        (lambda: losses.cross_entropy(jnp.zeros(3), jnp.zeros(2)), r"\(2,\).*\(3,\)"),
        (lambda: losses.cross_entropy(jnp.zeros(3), jnp.array([True, False, True])), "bool"),
        (lambda: losses.binary_cross_entropy(jnp.zeros((3, 1)), jnp.zeros(3)), r"\(3, 1\).*\(3,\)"),
    ],
)
def test_more_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.Focal(2.0)])
def test_a_class_without_a_logit_is_named_before_anything_is_compiled(loss):
    """Compiled it can only cost NaN: the run would end diverged after its compiling, and name no row."""
    model = tw.nn.Linear(2, 3, key=jax.random.key(0))
    for wrong, row in (([0, 2, 3, 9], "row 2"), (np.array([7, 0, 1, 2], np.uint8), "row 0")):
        objective = tw.Objective(kind=tw.Supervised(np.ones((4, 2), np.float32), np.asarray(wrong), loss=loss))
        with pytest.raises(UserError, match=r"a class 0 … 2 for 3 logits") as refused:
            tw.fit(model, objective, tw.Phase(tw.Adam(1e-3), 1))
        assert row in str(refused.value)
    loss.check_outputs(jax.ShapeDtypeStruct((3,), np.float32), np.array([0, 2]))
    loss.check_outputs(jax.ShapeDtypeStruct((4, 3), np.float32), np.array([[0, 2, 1, 0]]))


def test_a_model_that_needs_a_key_and_a_loss_along_another_axis_are_left_alone():
    class Noisy(eqx.Module):
        linear: tw.nn.Linear

        def __call__(self, x: jax.Array, *, key: jax.Array) -> jax.Array:
            return self.linear(x + jax.random.normal(key, x.shape))

    class ClassesFirst(losses.CrossEntropy):
        def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
            return super().__call__(jnp.moveaxis(output, 0, -1), target)

    kinds = tw.Supervised(np.ones((4, 2), np.float32), np.array([0, 1, 2, 0]), loss=losses.cross_entropy)
    kinds.check_model(Noisy(tw.nn.Linear(2, 3, key=jax.random.key(0))))
    ClassesFirst().check_outputs(jax.ShapeDtypeStruct((5, 2), np.float32), np.array([[4, 3]]))


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.Focal(2.0), losses.squared_error, losses.Huber(1.0)])
def test_what_is_not_one_array_is_refused_with_words(loss):
    output, target = jnp.zeros(3), jnp.array(1)
    for wrong, named in (
        (((output, output), target), "the output is a tuple"),
        ((None, target), "the output is a NoneType"),
        ((output, {"kind": target}), "the target is a dict"),
    ):
        with pytest.raises(UserError, match=named):
            loss(*wrong)
