"""The lid-driven cavity: an independent solver, and the published table that solvers are checked with."""

import numpy as np
from scipy.sparse import bmat, csr_matrix, diags, eye, kron
from scipy.sparse.linalg import splu

from thalweg.errors import UserError

GHIA_U = np.array(
    [(1.0, 1.0), (0.9766, 0.84123), (0.9688, 0.78871), (0.9609, 0.73722), (0.9531, 0.68717), (0.8516, 0.23151),
     (0.7344, 0.00332), (0.6172, -0.13641), (0.5, -0.20581), (0.4531, -0.21090), (0.2813, -0.15662),
     (0.1719, -0.10150), (0.1016, -0.06434), (0.0703, -0.04775), (0.0625, -0.04192), (0.0547, -0.03717), (0.0, 0.0)]
)  # fmt: skip
"""(y, u) on the line x = 1/2 at Reynolds number 100 (Ghia, Ghia and Shin, 1982, table I)."""

GHIA_V = np.array(
    [(1.0, 0.0), (0.9688, -0.05906), (0.9609, -0.07391), (0.9531, -0.08864), (0.9453, -0.10313), (0.9063, -0.16914),
     (0.8594, -0.22445), (0.8047, -0.24533), (0.5, 0.05454), (0.2344, 0.17527), (0.2266, 0.17507),
     (0.1563, 0.16077), (0.0938, 0.12317), (0.0781, 0.10890), (0.0703, 0.10091), (0.0625, 0.09233), (0.0, 0.0)]
)  # fmt: skip
"""(x, v) on the line y = 1/2 at Reynolds number 100 (Ghia, Ghia and Shin, 1982, table II)."""

MOST_CELLS = 256


def lid_driven_cavity(reynolds: float, cells: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steady flow in the unit square whose upper wall moves to the right at speed 1.

    Stream function and vorticity on a square grid, central differences, Thom's vorticity at the walls (1933), solved
    together by Newton's method; errors fall with the square of the spacing.

    Args:
        reynolds: speed times width over viscosity; up to about 1,000.
        cells: in each direction, 8 to 256.
    Returns:
        coordinates (cells + 1,), and the velocities u and v (cells + 1, cells + 1), indexed [x, y].
    Raises:
        UserError: numbers out of range, or Newton's method has not converged.

    >>> x, u, v = lid_driven_cavity(100.0, 32)
    >>> bool(u[16].min() < -0.18), u.shape
    (True, (33, 33))
    """
    if not (reynolds > 0 and np.isfinite(reynolds)) or not 8 <= cells <= MOST_CELLS:
        raise UserError(f"a Reynolds number of {reynolds} on {cells} cells", where="lid_driven_cavity")
    h, m = 1 / cells, cells - 1
    near = csr_matrix(np.eye(m, k=-1) - 2 * np.eye(m) + np.eye(m, k=1)) / h**2
    slope = csr_matrix(np.eye(m, k=1) - np.eye(m, k=-1)) / (2 * h)
    laplace = kron(near, eye(m)) + kron(eye(m), near)
    dx, dy = kron(slope, eye(m)), kron(eye(m), slope)
    # A wall's vorticity is -2ψ/h² of the point beside it, less 2/h on the lid: what it adds to each difference.
    low, high = np.eye(m)[0], np.eye(m)[-1]
    ones = np.ones(m)
    walls = np.kron(low + high, ones) + np.kron(ones, low + high)
    on_laplace, lid_on_laplace = -2 / h**4 * walls, -2 / h**3 * np.kron(ones, high)
    on_dx, on_dy = np.kron(low - high, ones) / h**3, np.kron(ones, low - high) / h**3
    lid_on_dy = -np.kron(ones, high) / h**2
    psi, omega = np.zeros(m * m), np.zeros(m * m)
    for _ in range(50):
        u, v = dy @ psi, -(dx @ psi)
        omega_x, omega_y = dx @ omega + on_dx * psi, dy @ omega + on_dy * psi + lid_on_dy
        bend = laplace @ omega + on_laplace * psi + lid_on_laplace
        wrong = np.concatenate([laplace @ psi + omega, u * omega_x + v * omega_y - bend / reynolds])
        carried = diags(omega_x) @ dy - diags(omega_y) @ dx
        by_psi = carried + diags(u * on_dx + v * on_dy - on_laplace / reynolds)
        by_omega = diags(u) @ dx + diags(v) @ dy - laplace / reynolds
        step = splu(bmat([[laplace, eye(m * m)], [by_psi, by_omega]], format="csc")).solve(wrong)
        psi, omega = psi - step[: m * m], omega - step[m * m :]
        if np.abs(step[: m * m]).max() < 1e-12:
            whole = np.pad(psi.reshape(m, m), 1)
            speeds = np.zeros((2, cells + 1, cells + 1))
            speeds[0, :, 1:-1] = (whole[:, 2:] - whole[:, :-2]) / (2 * h)
            speeds[1, 1:-1] = -(whole[2:] - whole[:-2]) / (2 * h)
            speeds[0, :, -1] = 1.0
            return np.linspace(0, 1, cells + 1), speeds[0], speeds[1]
    raise UserError("Newton's method has not converged", where="lid_driven_cavity", remedy="Take more cells.")
