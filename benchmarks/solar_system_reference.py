"""The positions of the outer Solar System that `python -m eqx_taylor` measures errors
against, in 80-bit floats and without any of our code; printed as they are stored.
"""

import jax
import numpy as np

from eqx_taylor import _outer_solar_system as solar_system


YEARS = 1000.0


def positions_after(years: float, order: int = 30, step: float = 150) -> np.ndarray:
    """A Taylor series by hand, pair by pair:

        d = x_j - x_i,   r = d·d,   w = r^(-3/2)  =>  r w' = -3/2 r' w,
        x_i'' = Σ_j G m_j w d.

    Orders 30 and 28, with steps of 150 and 120 days, agree to 2e-14 AU at 1000 years.
    """
    real = np.longdouble
    mass = solar_system.MASSES.astype(real)
    i, j = np.triu_indices(len(mass), k=1)
    t1 = real(years) * real(solar_system.DAYS_PER_YEAR)
    num_steps = int(np.ceil(t1 / step))
    h = t1 / num_steps
    with jax.enable_x64(True):
        x0, v0 = (np.asarray(x).astype(real) for x in solar_system.initial_state())
    for _ in range(num_steps):
        x = np.zeros((order + 1, *x0.shape), real)
        v, d = np.zeros_like(x), np.zeros((order, len(i), 3), real)
        r, w = np.zeros((order, len(i)), real), np.zeros((order, len(i)), real)
        x[0], v[0] = x0, v0
        for k in range(order):
            d[k] = x[k, j] - x[k, i]
            r[k] = np.einsum("npc,npc->p", d[: k + 1], d[k::-1])
            if k == 0:
                w[0] = 1 / (r[0] * np.sqrt(r[0]))
            else:
                n = np.arange(1, k + 1)
                scale = real(-1.5) * n - (k - n)
                w[k] = np.einsum("n,np,np->p", scale, r[n], w[k - n]) / (k * r[0])
            pull = solar_system.GRAVITATIONAL_CONSTANT * np.einsum(
                "np,npc->pc", w[: k + 1], d[k::-1]
            )
            x[k + 1] = v[k] / (k + 1)
            np.add.at(v[k + 1], i, mass[j, None] * pull / (k + 1))
            np.add.at(v[k + 1], j, -mass[i, None] * pull / (k + 1))
        x0, v0 = x[order], v[order]
        for k in reversed(range(order)):
            x0, v0 = x0 * h + x[k], v0 * h + v[k]
    return x0


def main() -> None:
    if np.finfo(np.longdouble).eps > 1e-18:
        raise SystemExit("NumPy's longdouble has no more digits than float64 here.")
    positions = positions_after(YEARS)
    other = positions_after(YEARS, order=28, step=120)
    for body in positions.astype(float).tolist():
        print(f"    {body},")
    print(f"# {np.max(np.abs(positions - other)):.1e} from another order and step")


if __name__ == "__main__":
    main()
