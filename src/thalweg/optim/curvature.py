"""What a quasi-Newton method remembers of the curvature: the last pairs, or a whole inverse Hessian."""

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.types import Scalar


class AbstractCurvature(eqx.Module):
    """An estimate of the inverse Hessian, made of pairs (s, y): differences of params and of gradients.

    Attributes:
        count: pairs taken so far, int32; 0 stands for the identity.
    """

    count: eqx.AbstractVar[jax.Array]

    def take(self, s: jax.Array, y: jax.Array, bent: Scalar) -> "AbstractCurvature":
        """The estimate with one more pair, whose curvature s·y is positive.

        Args:
            s, y: differences of params and of gradients, (n,).
            bent: s·B·s, the curvature along s that the present estimate B⁻¹ had promised, shape ().
        """
        raise NotImplementedError

    def product(self, g: jax.Array) -> jax.Array:
        """The estimate times a vector, (n,) -> (n,)."""
        raise NotImplementedError

    def forgotten(self) -> "AbstractCurvature":
        """The estimate as it was before the first pair."""
        return eqx.tree_at(lambda c: c.count, self, jnp.zeros_like(self.count))


def is_positive(s: jax.Array, y: jax.Array) -> Scalar:
    """Whether the curvature of a pair is clearly positive."""
    return jnp.vdot(s, y) > jnp.finfo(s.dtype).eps * jnp.vdot(y, y)


class RecentPairs(AbstractCurvature):
    """The last m pairs, in a ring (limited memory).

    Args:
        s: differences of params, (m, n).
        y: differences of gradients, (m, n).
        count: pairs taken so far, int32.
    """

    s: jax.Array
    y: jax.Array
    count: jax.Array

    def take(self, s: jax.Array, y: jax.Array, bent: Scalar) -> "RecentPairs":
        at = self.count % self.s.shape[0]
        return RecentPairs(self.s.at[at].set(s), self.y.at[at].set(y), self.count + 1)

    def product(self, g: jax.Array) -> jax.Array:
        """Algorithm 7.4 of Nocedal and Wright (2006), two loops.

        Pairs that are not there yet are passed over instead of left out: were the number of turns to differ between
        members on several devices, the devices would have to ask each other after every turn.
        """
        memory = self.s.shape[0]
        kept = jnp.minimum(self.count, memory)
        sy = jnp.einsum("mn,mn->m", self.s, self.y)
        inverse = jnp.where(sy > 0, 1 / jnp.where(sy > 0, sy, jnp.ones_like(sy)), jnp.zeros_like(sy))

        def back(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            q, alphas = carry
            at = (self.count - 1 - i) % memory
            alpha = jnp.where(i < kept, inverse[at] * jnp.vdot(self.s[at], q), 0)
            return q - alpha * self.y[at], alphas.at[at].set(alpha)

        def forth(i: jax.Array, r: jax.Array, alphas: jax.Array) -> jax.Array:
            at = (self.count + i) % memory  # the oldest first, once the ring is full
            beta = inverse[at] * jnp.vdot(self.y[at], r)
            return r + jnp.where(i >= memory - kept, alphas[at] - beta, 0) * self.s[at]

        q, alphas = jax.lax.fori_loop(0, memory, back, (g, jnp.zeros(memory, g.dtype)))
        last = (self.count - 1) % memory
        scale = _first_scale(sy[last], jnp.vdot(self.y[last], self.y[last]))
        return jax.lax.fori_loop(0, memory, lambda i, r: forth(i, r, alphas), scale * q)


class AbstractWhole(AbstractCurvature):
    """An estimate that is one matrix.

    Attributes:
        matrix: (n, n), symmetric.
    """

    matrix: eqx.AbstractVar[jax.Array]

    def product(self, g: jax.Array) -> jax.Array:
        return jnp.where(self.count == 0, g, self.matrix @ g)


class InverseHessian(AbstractWhole):
    """The whole matrix, changed by rank two with each pair.

    Args:
        matrix: the estimate, (n, n), symmetric.
        count: pairs taken so far, int32.
    """

    matrix: jax.Array
    count: jax.Array

    def take(self, s: jax.Array, y: jax.Array, bent: Scalar) -> "InverseHessian":
        """Nocedal and Wright (2006), equation 6.17; the first matrix is scaled by the first pair (6.20)."""
        sy = jnp.vdot(s, y)
        rho = jnp.where(sy > 0, 1 / jnp.where(sy > 0, sy, jnp.ones_like(sy)), jnp.zeros_like(sy))
        first = _first_scale(sy, jnp.vdot(y, y)) * jnp.eye(s.size, dtype=s.dtype)
        matrix = jnp.where(self.count == 0, first, self.matrix)
        image = matrix @ y
        outer = jnp.outer(s, image)
        grown = matrix - rho * (outer + outer.T) + rho * (1 + rho * jnp.vdot(y, image)) * jnp.outer(s, s)
        return InverseHessian(grown, self.count + 1)


class SelfScaledInverseHessian(AbstractWhole):
    """The whole matrix by the self-scaled Broyden family (Al-Baali, 1998; Urbán, Stefanou and Pons, 2025, section 3).

    H ← (H − Hy·yᵀH / yᵀHy + φ·v·vᵀ) / τ + s·sᵀ / sᵀy with v = √(yᵀHy)·(s/sᵀy − Hy/yᵀHy), where φ and τ follow from
    b = sᵀBs/sᵀy and h = yᵀHy/sᵀy: eigenvalues that were taken for too large or too small are set right by a factor at
    once, where BFGS (φ = τ = 1) needs many steps.

    Args:
        matrix: the estimate, (n, n), symmetric.
        count: pairs taken so far, int32.
    """

    matrix: jax.Array
    count: jax.Array

    def take(self, s: jax.Array, y: jax.Array, bent: Scalar) -> "SelfScaledInverseHessian":
        sy = jnp.vdot(s, y)
        safe = jnp.where(sy > 0, sy, jnp.ones_like(sy))
        image = jnp.where(self.count == 0, y, self.matrix @ y)
        matrix = jnp.where(self.count == 0, jnp.eye(s.size, dtype=s.dtype), self.matrix)
        yhy = jnp.vdot(y, image)
        phi, tau = _broyden_factors(bent / safe, yhy / safe, s.size)
        yhy = jnp.where(yhy > 0, yhy, jnp.ones_like(yhy))
        v = jnp.sqrt(yhy) * (s / safe - image / yhy)
        grown = (matrix - jnp.outer(image, image) / yhy + phi * jnp.outer(v, v)) / tau + jnp.outer(s, s) / safe
        return SelfScaledInverseHessian(grown, self.count + 1)


def _broyden_factors(b: Scalar, h: Scalar, n: int) -> tuple[Scalar, Scalar]:
    """(φ, τ) of Urbán, Stefanou and Pons (2025), equations 13 to 23; b·h ≥ 1 by Cauchy and Schwarz.

    In one dimension, or where b·h = 1 (s and y agree), every member of the family is the same update.
    """
    tiny = 100 * jnp.finfo(b.dtype).eps
    b = jnp.maximum(b, tiny)
    a = jnp.maximum(b * h - 1, tiny)
    low = jnp.minimum(1.0, h * (1 - jnp.sqrt(a / (1 + a))))
    low = jnp.maximum(low, tiny)
    theta = jnp.maximum((low - 1) / a, jnp.minimum(1 / low, (1 - b) / b))
    sigma = jnp.maximum(1 + theta * a, tiny)
    root = sigma ** (1.0 / (1 - n)) if n > 1 else jnp.ones_like(sigma)
    high = jnp.minimum(1.0, 1 / b)
    positive = theta > 0
    inverse = 1 / jnp.where(positive, theta, jnp.ones_like(theta))
    tau = jnp.where(positive, high * jnp.minimum(root, inverse), jnp.minimum(high * root, sigma))
    return (1 - theta) / sigma, jnp.maximum(tau, tiny)


def _first_scale(sy: Scalar, yy: Scalar) -> Scalar:
    return jnp.where(yy > 0, sy / jnp.where(yy > 0, yy, jnp.ones_like(yy)), jnp.ones_like(yy))
