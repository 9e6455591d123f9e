"""Neural ODEs against SciPy's integrators, finite differences and closed forms; what is refused; what is flagged."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import least_squares

from thalweg import nn
from thalweg.errors import UserError
from thalweg.losses import MaskedSquaredError
from thalweg.nn import NeuralODE, Trajectory
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam, LevenbergMarquardt
from thalweg.train import Phase, Status, fit

KEY = jax.random.key(0)
IRREGULAR = np.array([0.0, 0.13, 0.5, 0.51, 1.7, 2.0, 3.3, 5.0])


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


class Linear(eqx.Module):
    """dy/dt = A y + B u."""

    matrix: jax.Array
    gain: jax.Array | None = None

    def __call__(self, t, y, u):
        slope = self.matrix @ y
        return slope if self.gain is None else slope + self.gain @ u


def network(size_in=2, size_out=2, dtype=jnp.float64):
    return nn.MLP(size_in, size_out, width=8, depth=1, key=KEY, activation=jnp.tanh, dtype=dtype)


def scipy_states(field, initial, times, u=lambda t: None):
    """SciPy's eighth-order method at near rounding."""
    slope = lambda t, y: np.asarray(field(jnp.asarray(t), jnp.asarray(y), u(t)))
    found = solve_ivp(slope, (times[0], times[-1]), initial, "DOP853", times, rtol=1e-11, atol=1e-11)
    assert found.success
    return found.y.T


# ------------------------------------------------------------------------------------------- against other integrators
@pytest.mark.parametrize("solver", [nn.Tsit5(), nn.Dopri5(), nn.Kvaerno5()])
def test_states_at_irregular_times_are_those_of_scipy(wide, solver):
    field = nn.NeuralField(network())
    expected = scipy_states(eqx.filter_jit(field), [1.0, -0.5], IRREGULAR)
    errors = []
    for tolerance in (1e-5, 1e-8):
        model = NeuralODE(field, solver=solver, rtol=tolerance, atol=tolerance)
        errors.append(np.abs(np.asarray(model(([1.0, -0.5], IRREGULAR))) - expected).max())
    # The tolerance is of one step; over five time units of a mild field its sum, and the interpolation between steps,
    # stay within a factor 100. And a thousandth of the tolerance must show.
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6
    assert errors[1] < errors[0] / 30


def test_a_hybrid_field_driven_by_an_input_is_that_of_scipy(wide):
    """Known decay, a network that sees state, input and time, and a dose that rises and falls linearly."""
    field = nn.HybridField(lambda t, y, u: -0.5 * y, nn.NeuralField(network(size_in=4), time=True))
    dose_times, dose = np.array([0.0, 1.0, 2.5]), np.array([[0.0], [2.0], [0.5]])
    drive = nn.LinearInput(dose_times, dose)
    by_numpy = lambda t: jnp.asarray([np.interp(t, dose_times, dose[:, 0])])
    expected = scipy_states(eqx.filter_jit(field), [0.3, 0.2], IRREGULAR, by_numpy)
    model = NeuralODE(field, rtol=1e-9, atol=1e-9)
    # 1e-6: both solvers lose an order or two of accuracy at the dose's two kinks
    np.testing.assert_allclose(model(Trajectory([0.3, 0.2], IRREGULAR, drive)), expected, rtol=0, atol=1e-6)


def test_steps_of_an_input_are_met_exactly(wide):
    """y' = −y + u with u = 1, then 3: by hand. Few steps suffice, since the solver knows where the input jumps."""
    model = NeuralODE(Linear(jnp.array([[-1.0]]), jnp.array([[1.0]])), rtol=1e-9, atol=1e-9)
    drive = nn.StepInput([0.0, 2.0], [[1.0], [3.0]])
    times = np.array([0.0, 1.0, 2.0, 2.0, 3.5])  # the same time may come twice
    solved = model.solve(Trajectory([0.0], times, drive))
    one = 1 - np.exp(-2.0)
    expected = [0, 1 - np.exp(-1.0), one, one, 3 + (one - 3) * np.exp(-1.5)]
    np.testing.assert_allclose(solved.states[:, 0], expected, rtol=0, atol=1e-8)  # ten steps' tolerances
    assert int(solved.rejected) <= 3


def test_an_oscillator_is_the_closed_form(wide):
    """q'' = −2ζω q' − ω²q, underdamped."""
    omega, zeta = 3.0, 0.1
    field = nn.SecondOrderField(lambda t, y, u: -2 * zeta * omega * y[1:] - omega**2 * y[:1])
    found = NeuralODE(field, rtol=1e-10, atol=1e-10)(([1.0, 0.0], IRREGULAR))
    damped = omega * np.sqrt(1 - zeta**2)
    decay, phase = np.exp(-zeta * omega * IRREGULAR), damped * IRREGULAR
    position = decay * (np.cos(phase) + zeta * omega / damped * np.sin(phase))
    velocity = -decay * omega**2 / damped * np.sin(phase)
    # 1e-7: some hundred steps at 1e-10, and the interpolation between them
    np.testing.assert_allclose(found, np.stack([position, velocity], axis=1), rtol=0, atol=1e-7)


# ----------------------------------------------------------------------------------------------------------- gradients
def cost_of(model, x):
    return jnp.sum(jnp.sin(model(x)))


def test_gradients_are_finite_differences(wide):
    """In all that a trajectory is made of: weights, a known constant, the unknown initial state, the input."""
    field = nn.HybridField(Linear(jnp.array([[-0.3, 1.0], [-1.0, -0.1]])), nn.NeuralField(network(size_in=3)))
    model = NeuralODE(field, initial=nn.InitialStates(jnp.array([[0.0, 0.0], [1.0, 0.5]])), rtol=1e-9, atol=1e-9)
    values, rebuild = ravel_pytree((eqx.filter(model, eqx.is_inexact_array), jnp.array([[0.0], [1.0], [-1.0]])))
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)

    @jax.jit
    def cost(flat):
        params, dose = rebuild(flat)
        drive = nn.StepInput(np.array([0.0, 2.0, 4.0]), dose)
        return cost_of(eqx.combine(params, static), Trajectory(1, IRREGULAR, drive))

    gradient = jax.jit(jax.grad(cost))(values)
    rng = np.random.default_rng(0)
    for _ in range(3):
        way = jnp.asarray(rng.normal(size=values.shape))
        way /= jnp.linalg.norm(way)
        h = 1e-3
        # Central differences err by h² times a third derivative, 1e-6 times some tens, and by 1e-9 / h of the solver.
        slope = (cost(values + h * way) - cost(values - h * way)) / (2 * h)
        assert float(gradient @ way) == pytest.approx(float(slope), rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_adjoints_agree(wide):
    """Direct and checkpointed differentiate the same steps; the backward equation's error falls with the tolerance."""
    x = Trajectory([1.0, -0.5], IRREGULAR[:6])

    def gradient(adjoint, tolerance, most=256):
        model = NeuralODE(nn.NeuralField(network()), rtol=tolerance, atol=tolerance, adjoint=adjoint, max_steps=most)
        found = eqx.filter_jit(eqx.filter_grad(cost_of))(model, x)
        return ravel_pytree(eqx.filter(found, eqx.is_inexact_array))[0]

    direct = gradient(nn.DirectAdjoint(), 1e-3, most=16)
    checkpointed = [gradient(adjoint, 1e-3) for adjoint in (nn.CheckpointedAdjoint(), nn.CheckpointedAdjoint(3))]
    for other in checkpointed:
        # rounding: some thousand operations on values of the gradient's size
        np.testing.assert_allclose(other, direct, rtol=0, atol=1e-12 * np.abs(direct).max())
    scale = np.abs(direct).max()
    far = np.abs(gradient(nn.BacksolveAdjoint(), 1e-3) - checkpointed[0]).max() / scale
    near = np.abs(gradient(nn.BacksolveAdjoint(), 1e-7) - gradient(nn.CheckpointedAdjoint(), 1e-7)).max() / scale
    assert 1e-7 < far < 1e-1  # it is another gradient, and its error follows the tolerance
    assert near < far / 100


@pytest.mark.slow
def test_stored_steps_of_a_trajectory_that_was_given_up(wide):
    """Behind the last state that was reached everything is that state, and so are the gradients."""
    field = nn.NeuralField(network())

    def gradient(adjoint):
        cost = lambda model: cost_of(model, Trajectory([1.0, -0.5], IRREGULAR))
        model = NeuralODE(field, rtol=1e-9, atol=1e-9, max_steps=6, adjoint=adjoint)
        assert not model.solve(Trajectory([1.0, -0.5], IRREGULAR)).reached[-1]
        return ravel_pytree(eqx.filter_jit(eqx.filter_grad(cost))(model))[0]

    expected = gradient(nn.CheckpointedAdjoint())
    np.testing.assert_allclose(gradient(nn.DiscreteAdjoint()), expected, rtol=0, atol=1e-13)  # rounding
    assert np.abs(expected).max() > 0.01


def test_stored_steps_refuse_what_they_cannot(wide):
    model = NeuralODE(nn.NeuralField(network()), adjoint=nn.DiscreteAdjoint(), max_steps=64)
    with pytest.raises(UserError, match="a gradient in the times"):
        jax.grad(lambda t: jnp.sum(model(Trajectory(jnp.ones(2), t))))(jnp.asarray(IRREGULAR))
    model = NeuralODE(model.field, solver=nn.Kvaerno5(), adjoint=nn.DiscreteAdjoint())
    with pytest.raises(UserError, match="Kvaerno5 is implicit"):
        model(([1.0, 1.0], IRREGULAR))


@pytest.mark.slow
def test_direct_goes_forward_too(wide):
    model = NeuralODE(nn.NeuralField(network()), adjoint=nn.DirectAdjoint(), max_steps=16)
    x = lambda start: Trajectory(start, IRREGULAR[:6])
    start = jnp.array([1.0, -0.5])
    forward = jax.jacfwd(lambda y: model(x(y)))(start)
    backward = jax.jacrev(lambda y: model(x(y)))(start)
    np.testing.assert_allclose(forward, backward, rtol=0, atol=1e-12)  # rounding of order-one values


@pytest.mark.parametrize("solver", [nn.Tsit5(), nn.Dopri5()])
@pytest.mark.slow
def test_sensitivities_and_stored_steps_give_the_checkpointed_gradient(wide, solver):
    """The same steps, differentiated by other means: in weights, a constant, the unknown initial state, the input."""
    field = nn.HybridField(Linear(jnp.array([[-0.3, 1.0], [-1.0, -0.1]])), nn.NeuralField(network(size_in=3)))
    start = nn.InitialStates(jnp.array([[0.0, 0.0], [1.0, 0.5]]))

    def slopes(adjoint):
        model = NeuralODE(field, initial=start, solver=solver, adjoint=adjoint)
        params, static = eqx.partition((model, jnp.array([[0.0], [1.0], [-1.0]])), eqx.is_inexact_array)
        flat, rebuild = ravel_pytree(params)

        def states(flat, number):
            model, dose = eqx.combine(rebuild(flat), static)
            return model(Trajectory(number, IRREGULAR, nn.StepInput(np.array([0.0, 2.0, 4.0]), dose)))

        return jax.jit(jax.vmap(jax.jacrev(states), in_axes=(None, 0)))(flat, jnp.arange(2))

    expected = slopes(nn.CheckpointedAdjoint())
    assert expected.shape == (2, 8, 2, 50 + 4 + 4 + 3)  # the network 3-8-2, the matrix, both starts, the input
    for adjoint in (nn.ForwardSensitivities(), nn.DiscreteAdjoint()):
        # rounding: some thousand operations on values of the Jacobian's size
        np.testing.assert_allclose(slopes(adjoint), expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# ----------------------------------------------------------------------------------------------------------------- fits
def spirals(n=6, noise=0.01, seed=0):
    """Noisy, irregular, incomplete measurements of a damped rotation, of different lengths; and its matrix."""
    matrix, rng = np.array([[-0.2, 1.5], [-1.5, -0.2]]), np.random.default_rng(seed)
    times, values, starts = [], [], rng.uniform(-2, 2, size=(n, 2))
    for start in starts:
        t = np.concatenate([[0.0], np.sort(rng.uniform(0, 4, size=rng.integers(15, 25)))])
        y = np.stack([expm(matrix * one) @ start for one in t]) + noise * rng.normal(size=(len(t), 2))
        y[rng.random(y.shape) < 0.3] = np.nan
        times.append(t), values.append(y)
    return matrix, times, values, starts


@pytest.mark.slow
def test_a_fit_recovers_a_linear_field_and_the_unknown_starts():
    matrix, times, values, starts = spirals()
    x, y = nn.stack_trajectories(times, values)
    with jax.enable_x64(True):
        guess = nn.InitialStates(jnp.asarray(np.stack([np.nan_to_num(v[0]) for v in values])))
        model = NeuralODE(Linear(jnp.array([[-1.0, 0.5], [-0.5, -1.0]])), initial=guess, rtol=1e-6, atol=1e-8)
    objective = Objective(data=Supervised(x, y, loss=MaskedSquaredError(0.01)))
    fitted = fit(model, objective, Phase(LevenbergMarquardt(), 40))
    assert fitted.verdict.status is Status.CONVERGED
    # Some 170 values with noise 0.01 on order-one signals over 4 time units: standard errors near 0.01 / √170 / 1 ≈
    # 1e-3 for a rate and 0.01 / √10 for a start; 4 of them.
    np.testing.assert_allclose(fitted.model.field.matrix, matrix, rtol=0, atol=4e-3)
    np.testing.assert_allclose(fitted.model.initial.states, starts, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("adjoint", "dense"),
    [
        (nn.ForwardSensitivities(), True),
        pytest.param(nn.CheckpointedAdjoint(), True, marks=pytest.mark.slow),
        pytest.param(nn.DirectAdjoint(), False, marks=pytest.mark.slow),
    ],
)
def test_gauss_newton_steps_are_those_of_any_adjoint(adjoint, dense):
    """Dense by reverse mode, dense by sensitivities, and matrix-free by products: all end where SciPy does."""
    matrix, times, values, starts = spirals(n=3)
    x, y = nn.stack_trajectories(times, values, initial=starts)
    with jax.enable_x64(True):
        start = Linear(jnp.asarray(0.7 * matrix))
        model = NeuralODE(start, rtol=1e-6, atol=1e-8, adjoint=adjoint, max_steps=64)
    objective = Objective(data=Supervised(x, y, loss=MaskedSquaredError(0.01)))
    fitted = fit(model, objective, Phase(LevenbergMarquardt(dense=dense), 12))

    def residuals(flat):
        states = [
            np.stack([expm(flat.reshape(2, 2) * one) @ start for one in t])
            for t, start in zip(times, starts, strict=True)
        ]
        found = [(state - v).ravel() / 0.01 for state, v in zip(states, values, strict=True)]
        return np.concatenate([one[np.isfinite(one)] for one in found])

    expected = least_squares(residuals, matrix.ravel())
    # The solver errs by some 1e-6 of order-one states; a standard error is 1e-3, and the steps end in rounding.
    np.testing.assert_allclose(fitted.model.field.matrix.ravel(), expected.x, rtol=0, atol=1e-5)
    assert fitted.rows[-1]["total"] == pytest.approx(2 * expected.cost / 3, rel=1e-3)  # the mean over 3 trajectories


@pytest.mark.slow
def test_what_is_missing_has_no_influence():
    """Whatever stands in the holes and behind the end, NaN too, cost and gradient are the same."""
    _, times, values, starts = spirals(n=3)
    x, (y, mask) = nn.stack_trajectories(times, values, initial=starts)
    model = NeuralODE(nn.NeuralField(network(dtype=jnp.float32)))
    loss = MaskedSquaredError([0.5, 2.0])
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def cost(model, target):
        return jnp.sum(jax.vmap(lambda x, y: loss(model(x), y))(x, target))

    found = [cost(model, (jnp.asarray(np.where(mask, y, hole), jnp.float32), mask)) for hole in (0.0, 7.0, np.nan)]
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (found[0], other)), strict=True))
    assert np.isfinite(found[0][0])
    # the cost by hand, from states solved one trajectory at a time
    expected = 0.0
    for i, (t, v) in enumerate(zip(times, values, strict=True)):
        states = np.asarray(model(Trajectory(starts[i].astype(np.float32), t.astype(np.float32))))
        expected += np.nansum(((states - v) / [0.5, 2.0]) ** 2)
    assert float(found[0][0]) == pytest.approx(expected, rel=1e-4)  # float32 solutions of rtol 1e-4, steps alike


# ------------------------------------------------------------------------------------------------- stiffness, failures
STIFF = Linear(jnp.array([[-1.0, 0.0], [0.0, -1e5]]))


@pytest.mark.slow
def test_a_stiff_field_ends_finite_and_flagged():
    x = Trajectory(np.ones((2, 2), np.float32), np.array([[0.0, 1e-4, 1.0], [0.0, 1e-4, 2e-4]], np.float32))
    model = NeuralODE(STIFF, max_steps=200)
    report = nn.solver_report(model, x)
    assert report.finished.tolist() == [False, True]
    assert [finding.name for finding in report.findings] == ["step-limit", "stiff-field"]
    assert "trajectory 0" in report.findings[0].evidence
    assert report.findings == model.findings(x)
    # Between 2, where the step is called bound by stability, and 3.5, where Tsit5 becomes unstable, with a margin.
    assert 2 <= report.stiffness[0] < 4
    solved = jax.vmap(model.solve)(x)
    assert solved.reached.tolist() == [[True, True, False], [True, True, True]]
    assert np.isfinite(solved.states).all()
    assert 1e-4 < float(solved.stopped[0]) < 1
    assert report.stopped[0] == pytest.approx(float(solved.stopped[0]), rel=1e-5)  # compiled in another program
    # held at the state where it stopped: exp(−t) by then
    assert float(solved.states[0, 2, 0]) == pytest.approx(float(np.exp(-solved.stopped[0])), abs=1e-4)


@pytest.mark.slow
def test_a_stiff_field_is_a_finding_of_the_verdict():
    """A fit whose solver runs out of steps ends, and says so."""
    x, y = nn.stack_trajectories([[0.0, 0.5, 1.0]], [[[1.0, 1.0], [0.6, 0.0], [0.4, 0.0]]], initial=[[1.0, 1.0]])
    model = NeuralODE(STIFF, max_steps=64)
    objective = Objective(data=Supervised(x, y, loss=MaskedSquaredError()))
    fitted = fit(model, objective, Phase(Adam(1e-3), 3), raise_failures=False)
    named = {finding.name: finding for finding in fitted.verdict.findings}
    assert {"step-limit", "stiff-field"} <= set(named)
    assert "64 steps" in named["step-limit"].evidence
    assert "Kvaerno5" in named["stiff-field"].remedy


def test_an_implicit_solver_crosses_the_same_field():
    report = nn.solver_report(NeuralODE(STIFF, max_steps=200, solver=nn.Kvaerno5()), ([1.0, 1.0], [0.0, 1e-4, 1.0]))
    assert report.finished.all()
    assert report.findings == ()
    assert report.steps[0] < 100


@pytest.mark.slow
def test_a_mild_field_gives_no_finding():
    field = nn.NeuralField(network(dtype=jnp.float32))
    for tolerance in (1e-3, 1e-6):
        assert NeuralODE(field, rtol=tolerance, atol=tolerance).findings(([1.0, -0.5], IRREGULAR)) == ()


class Cubic(eqx.Module):
    rate: jax.Array

    def __call__(self, t, y, u):
        return self.rate * y**3


@pytest.mark.slow
def test_a_field_that_explodes_ends_a_fit_as_diverged():
    """y' = y³ from 1 reaches infinity at t = ½. The state stays finite; the gradient there, and the weights, do not."""
    model = NeuralODE(Cubic(jnp.array(1.0)), max_steps=64)
    x, y = nn.stack_trajectories([[0.0, 0.3, 1.0]], [[[1.0], [1.1], [1.2]]], initial=[[1.0]])
    assert "step-limit" in [finding.name for finding in model.findings(jax.tree.map(np.float32, x))]
    assert np.isfinite(model(Trajectory([1.0], [0.0, 0.3, 1.0]))).all()
    objective = Objective(data=Supervised(x, y, loss=MaskedSquaredError()))
    fitted = fit(model, objective, Phase(Adam(1e-2), 20), raise_failures=False)
    assert fitted.verdict.status is Status.DIVERGED
    assert "'data'" in fitted.verdict.evidence


def test_a_field_of_nan_is_not_taken_for_rest():
    found = NeuralODE(Cubic(jnp.array(jnp.nan)), max_steps=64)(Trajectory([1.0], [0.0, 0.3, 1.0]))
    assert np.isnan(found[1:]).all()


# -------------------------------------------------------------------------------------------------------------- refused
OK = [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: Trajectory([1.0], [0.0, np.nan]), "a time is nan"),
        (lambda: Trajectory([1.0], [0.0, np.inf]), "a time is inf"),
        (lambda: Trajectory([1.0], [0.0, 2.0, 1.0]), "comes after 2.0 (Trajectory, time 2)"),
        (lambda: Trajectory(np.ones((2, 1)), [[0.0, 1.0], [1.0, 0.0]]), "trajectory 1, time 1"),
        (lambda: Trajectory([1.0], [0.0]), "at least two times"),
        (lambda: Trajectory([1.0], [1.0, 1.0]), "nothing moves"),
        (lambda: Trajectory([np.nan], [0.0, 1.0]), "the initial state is nan"),
        (lambda: Trajectory(np.ones((3, 1)), [[0.0, 1.0], [0.0, 1.0]]), "initial states of shape (3, 1)"),
        (lambda: Trajectory(np.ones((1, 1)), [[0.0, 1.0]], nn.StepInput([0.0], [[1.0]])), "inputs at times"),
        (lambda: nn.LinearInput([0.0, 0.0], [[1.0], [2.0]]), "comes twice"),
        (lambda: nn.LinearInput([0.0, 1.0], [1.0, 2.0]), "values of shape (2,)"),
        (lambda: nn.StepInput([0.0, 1.0], [[1.0], [np.nan]]), "a value is nan"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, 0.5]], [OK]), "(trajectory 0, time 2)"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, 1.0]], [OK]), "comes twice"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, np.inf]], [OK]), "trajectory 0, at 2"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, 2.0]], [[[1.0], [np.inf], [1.0]]]), "a value is inf"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, 2.0]], [[[np.nan]] * 3]), "nothing was measured"),
        (lambda: nn.stack_trajectories([[0.0, 1.0]], [OK]), "values of shape (3, 1)"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, 2.0]], [OK, OK]), "1 arrays of times for 2"),
        (lambda: nn.stack_trajectories([[0.0, 1.0, 2.0]], [OK], initial=[1.0]), "initial states of shape (1,)"),
        (lambda: MaskedSquaredError(0.0), "scale 0.0"),
        (lambda: MaskedSquaredError()(jnp.ones((2, 1)), (jnp.ones((2, 2)), jnp.ones((2, 2)))), "shape (2, 1)"),
        (lambda: nn.InitialStates([[np.nan]]), "initial states"),
        (lambda: nn.InitialStates([[1.0]])(0.5), "number"),
        (lambda: NeuralODE(STIFF, rtol=0.0), "rtol=0.0"),
        (lambda: NeuralODE(STIFF, max_steps=0), "0 steps"),
        (lambda: nn.CheckpointedAdjoint(0), "0 checkpoints"),
        (lambda: NeuralODE(STIFF)(([[1.0, 1.0]], [0.0, 1.0])), "jax.vmap(model)(x)"),
        (lambda: NeuralODE(STIFF)(([1, 1], [0.0, 1.0])), "type int32"),
        (lambda: NeuralODE(lambda t, y, u: y[:1])(([1.0, 1.0], [0.0, 1.0])), "is (1,)"),
        (lambda: NeuralODE(nn.SecondOrderField(lambda t, y, u: y))(([1.0], [0.0, 1.0])), "1 components"),
        (lambda: nn.HybridField(STIFF, lambda t, y, u: y[:1])(jnp.zeros(()), jnp.ones(2), None), "correction"),
    ],
)
def test_bad_input_is_refused_by_name(build, named):
    with pytest.raises(UserError) as refused:
        build()
    assert named.lower() in str(refused.value).lower()


def test_a_trajectory_that_is_not_there_is_nobody_elses():
    assert np.isnan(nn.InitialStates([[1.0]])(1)).all()


def test_inputs_of_different_lengths_are_stacked():
    drives = [nn.LinearInput([0.0, 1.0], [[0.0], [1.0]]), nn.LinearInput([0.0, 1.0, 2.0], [[0.0], [1.0], [5.0]])]
    x, _ = nn.stack_trajectories([[0.0, 2.0]] * 2, [[[1.0], [1.0]]] * 2, initial=[[1.0]] * 2, drives=drives)
    found = jax.vmap(lambda one: one.drive(jnp.array(1.5)))(x)
    assert found[:, 0].tolist() == [1.0, 3.0]  # the shorter one keeps its end value


# --------------------------------------------------------------------------------------------------------------- saving
@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        (nn.Tsit5(), nn.CheckpointedAdjoint(7)),
        (nn.Dopri5(), nn.DirectAdjoint()),
        (nn.Kvaerno5(), nn.BacksolveAdjoint()),
        (nn.Tsit5(), nn.ForwardSensitivities()),
        (nn.Tsit5(), nn.DiscreteAdjoint()),
    ],
)
def test_a_model_comes_back_from_its_file(tmp_path, solver, adjoint):
    correction = nn.NeuralField(network(size_in=3, dtype=jnp.float32), time=True)
    field = nn.HybridField(nn.SecondOrderField(nn.NeuralField(network(2, 1, jnp.float32))), correction)
    start = nn.InitialStates(jnp.array([[1.0, 0.5]]))
    model = NeuralODE(field, initial=start, solver=solver, adjoint=adjoint, rtol=1e-3, max_steps=99)
    nn.save_model(tmp_path / "model", model)
    loaded, _ = nn.load_model(tmp_path / "model")
    assert jax.tree.structure(loaded) == jax.tree.structure(model)  # classes, solvers and settings
    assert np.array_equal(loaded((0, IRREGULAR)), model((0, IRREGULAR)))
