"""Wave functions of electrons in a molecule, and networks for differential equations:
for `wave_functions.py`, and for tests.

They are small, and have the parts of those that are published: FermiNet (Pfau et al.
2020), PauliNet (Hermann et al. 2020), the Psiformer (von Glehn et al. 2023); SIREN
(Sitzmann et al. 2020), and Fourier features (Tancik et al. 2020). Each is a module of
Equinox. A wave function takes positions of shape `(n, 3)`, of which the first half have
spin up, and returns `log |psi|`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


WIDTH, PAIR_WIDTH, DETERMINANTS, HEADS = 32, 8, 4, 4
# Of lithium hydride, in Bohr radii.
NUCLEI = np.array([[0.0, 0.0, 0.0], [3.015, 0.0, 0.0]])
CHARGES = np.array([3.0, 1.0])


def _linear(key, size, out, *, bias=True):
    return eqx.nn.Linear(size, out, use_bias=bias, key=key)


def _rows(linear, x):
    """Applies a layer to the last axis."""
    y = x @ linear.weight.T
    return (
        y
        if linear.bias is None
        else y + linear.bias.reshape((1,) * (y.ndim - 1) + (-1,))
    )


def _norm(d):
    """The lengths of vectors along the last axis, as such an axis of size 1."""
    return jnp.sqrt(jnp.sum(d * d, axis=-1, keepdims=True))


def _to_nuclei(x):
    """Of shape `(n, nuclei, 4)`: vectors to the nuclei, and their lengths."""
    d = x[:, None] - jnp.asarray(NUCLEI, x.dtype)[None]
    return jnp.concatenate([d, _norm(d)], axis=-1)


def _between(x):
    """Of shape `(n, n, 4)`: vectors between electrons, and their lengths. Those of an
    electron with itself are zero, also their derivatives."""
    n = len(x)
    d = x[:, None] - x[None]
    eye = jnp.eye(n, dtype=x.dtype)[..., None]
    # A root has no derivative at zero.
    distance = _norm(d + eye) * (1 - eye)
    return jnp.concatenate([d, distance], axis=-1)


def _by_spin(n):
    return slice(0, n // 2), slice(n // 2, n)


class Jastrow(eqx.Module):
    """The cusps of pairs: `-c a² / (a + r)`, where c is 1/4 for electrons of the same
    spin and 1/2 for others."""

    alpha: jax.Array

    def __init__(self):
        self.alpha = jnp.ones(2)

    def __call__(self, x):
        n = len(x)
        i, j = np.triu_indices(n, 1)
        r = _norm(x[i] - x[j])[:, 0]
        same = (i < n // 2) == (j < n // 2)
        c = jnp.asarray(np.where(same, 0.25, 0.5), x.dtype)
        a = jnp.where(same, self.alpha[0], self.alpha[1])
        return -jnp.sum(c * a**2 / (a + r))


class Orbitals(eqx.Module):
    """Determinants of orbitals: a layer, times envelopes that decay from the nuclei.
    All electrons are in one matrix, or those of each spin in one of their own."""

    layers: list
    widths: jax.Array
    strengths: jax.Array
    weights: jax.Array
    n: int = eqx.field(static=True)
    is_full: bool = eqx.field(static=True)

    def __init__(self, n, key, *, is_full=True):
        self.n, self.is_full = n, is_full
        number = DETERMINANTS * (n if is_full else n // 2)
        self.layers = [_linear(k, WIDTH, number) for k in jax.random.split(key)]
        self.widths = jnp.ones((2, len(CHARGES), number))
        self.strengths = jnp.ones((2, len(CHARGES), number))
        self.weights = jnp.linspace(1.0, 0.5, DETERMINANTS)

    def __call__(self, h, r):
        """Of features of the electrons, and their distances to the nuclei."""
        blocks = []
        for spin, rows in enumerate(_by_spin(self.n)):
            decay = jnp.exp(-jnp.abs(self.widths[spin])[None] * r[rows])
            envelope = jnp.sum(self.strengths[spin][None] * decay, axis=1)
            orbitals = _rows(self.layers[spin], h[rows]) * envelope
            # (electrons, determinants, orbitals) with the determinants first.
            orbitals = orbitals.reshape(len(orbitals), DETERMINANTS, -1)
            blocks.append(jnp.swapaxes(orbitals, 0, 1))
        if self.is_full:
            blocks = [jnp.concatenate(blocks, axis=1)]
        signs, logs = zip(*map(jnp.linalg.slogdet, blocks))
        sign, log = sum_of_products(signs, logs)
        return signed_logsumexp(sign, log, self.weights)


def sum_of_products(signs, logs):
    sign, log = signs[0], logs[0]
    for other_sign, other in zip(signs[1:], logs[1:]):
        sign, log = sign * other_sign, log + other
    return sign, log


def signed_logsumexp(sign, log, weights):
    """`log |Σ weights sign exp(log)|`."""
    largest = jax.lax.stop_gradient(jnp.max(log))
    return largest + jnp.log(jnp.abs(jnp.sum(weights * sign * jnp.exp(log - largest))))


class FermiNet(eqx.Module):
    """Streams of electrons and of pairs; the former see means of both."""

    singles: list
    pairs: list
    orbitals: Orbitals
    jastrow: Jastrow

    def __init__(self, n, key, layers=3):
        size, pair_size = 4 * len(CHARGES), 4
        self.singles, self.pairs = [], []
        *keys, key = jax.random.split(key, layers + 1)
        for i, key_ in enumerate(keys):
            a, b = jax.random.split(key_)
            self.singles.append(_linear(a, 3 * size + 2 * pair_size, WIDTH))
            if i < layers - 1:
                self.pairs.append(_linear(b, pair_size, PAIR_WIDTH))
            size, pair_size = WIDTH, PAIR_WIDTH
        self.orbitals = Orbitals(n, key)
        self.jastrow = Jastrow()

    def __call__(self, x):
        nuclear = _to_nuclei(x)
        h, g = nuclear.reshape(len(x), -1), _between(x)
        spins = _by_spin(len(x))
        for i, single in enumerate(self.singles):
            means = [jnp.mean(h[s], axis=0, keepdims=True) for s in spins]
            means = [jnp.broadcast_to(m, h.shape) for m in means]
            others = [jnp.mean(g[:, s], axis=1) for s in spins]
            new = jnp.tanh(_rows(single, jnp.concatenate([h, *means, *others], -1)))
            h = new + h if new.shape == h.shape else new
            if i < len(self.pairs):
                new = jnp.tanh(_rows(self.pairs[i], g))
                g = new + g if new.shape == g.shape else new
        return self.orbitals(h, nuclear[..., 3:]) + self.jastrow(x)


class PauliNet(eqx.Module):
    """Orbitals times factors of a network of messages: SchNet's continuous filters, of
    distances between electrons and to nuclei."""

    start: jax.Array
    filters: list
    messages: list
    of_nuclei: list
    updates: list
    orbitals: Orbitals
    basis: eqx.nn.Linear
    last: eqx.nn.MLP
    jastrow: Jastrow
    n: int = eqx.field(static=True)

    def __init__(self, n, key, layers=2):
        keys = iter(jax.random.split(key, 5 * layers + 4))
        self.n = n
        self.start = jax.random.normal(next(keys), (2, WIDTH)) / 2

        def make(*sizes):
            return [_linear(next(keys), *sizes) for _ in range(layers)]

        self.filters = make(8, WIDTH)
        self.messages = make(WIDTH, WIDTH)
        self.of_nuclei = make(8, WIDTH)
        self.updates = make(WIDTH, WIDTH)
        self.orbitals = Orbitals(n, next(keys), is_full=False)
        self.basis = _linear(next(keys), 4 * len(CHARGES), WIDTH)
        self.last = eqx.nn.MLP(WIDTH, "scalar", WIDTH, 1, jax.nn.silu, key=next(keys))
        self.jastrow = Jastrow()

    @staticmethod
    def _features(r):
        """Gaussians of a distance, which is in the last axis."""
        centres = jnp.linspace(0.0, 4.0, 8, dtype=r.dtype)
        return jnp.exp(-((r - centres.reshape((1,) * (r.ndim - 1) + (-1,))) ** 2))

    def __call__(self, x):
        n = len(x)
        nuclear, apart = _to_nuclei(x), _between(x)[..., 3:]
        spins = np.arange(n) >= n // 2
        h = self.start[spins.astype(int)]
        of_pairs, of_nuclei = self._features(apart), self._features(nuclear[..., 3:])
        others = jnp.asarray(1 - np.eye(n)[..., None], x.dtype)
        for w, m, c, u in zip(
            self.filters, self.messages, self.of_nuclei, self.updates
        ):
            sent = jnp.tanh(_rows(w, of_pairs)) * _rows(m, h)[None] * others
            z = jnp.sum(sent, axis=1) + jnp.sum(jnp.tanh(_rows(c, of_nuclei)), axis=1)
            h = h + jnp.tanh(_rows(u, z))
        # The orbitals of each electron alone, and factors that depend on all.
        alone = jnp.tanh(_rows(self.basis, nuclear.reshape(n, -1)))
        total = jnp.sum(jax.vmap(self.last)(h)) / n
        return (
            self.orbitals(alone * (1 + h / 4), nuclear[..., 3:])
            + total
            + self.jastrow(x)
        )


class SlaterJastrow(eqx.Module):
    """Orbitals of one electron each, without backflow."""

    one: eqx.nn.Linear
    two: eqx.nn.Linear
    orbitals: Orbitals
    jastrow: Jastrow

    def __init__(self, n, key):
        a, b, c = jax.random.split(key, 3)
        self.one, self.two = (
            _linear(a, 4 * len(CHARGES), WIDTH),
            _linear(b, WIDTH, WIDTH),
        )
        self.orbitals = Orbitals(n, c, is_full=False)
        self.jastrow = Jastrow()

    def __call__(self, x):
        nuclear = _to_nuclei(x)
        h = jnp.tanh(_rows(self.one, nuclear.reshape(len(x), -1)))
        h = jnp.tanh(_rows(self.two, h))
        return self.orbitals(h, nuclear[..., 3:]) + self.jastrow(x)


class Psiformer(eqx.Module):
    """Attention between electrons, and a Jastrow factor for the cusps."""

    embed: eqx.nn.Linear
    spin: jax.Array
    qkv: list
    joins: list
    layers: list
    orbitals: Orbitals
    jastrow: Jastrow

    def __init__(self, n, key, layers=2):
        keys = iter(jax.random.split(key, 3 * layers + 3))
        self.embed = _linear(next(keys), 4 * len(CHARGES), WIDTH, bias=False)
        self.spin = jax.random.normal(next(keys), (2, WIDTH)) / 2
        self.qkv = [
            _linear(next(keys), WIDTH, 3 * WIDTH, bias=False) for _ in range(layers)
        ]
        self.joins = [
            _linear(next(keys), WIDTH, WIDTH, bias=False) for _ in range(layers)
        ]
        self.layers = [_linear(next(keys), WIDTH, WIDTH) for _ in range(layers)]
        self.orbitals = Orbitals(n, next(keys))
        self.jastrow = Jastrow()

    def __call__(self, x):
        n, depth = len(x), WIDTH // HEADS
        d = _to_nuclei(x)
        # Far from the nuclei as the logarithm of the distance.
        r = d[..., 3:]
        scaled = d * (jnp.log1p(r) / r)
        spins = (np.arange(n) >= n // 2).astype(int)
        h = _rows(self.embed, scaled.reshape(n, -1)) + self.spin[spins]
        for qkv, join, layer in zip(self.qkv, self.joins, self.layers):
            q, k, v = jnp.split(_rows(qkv, h), 3, axis=-1)
            q, k, v = (z.reshape(n, HEADS, depth) for z in (q, k, v))
            scores = jnp.einsum("ihd,jhd->hij", q, k) / np.sqrt(depth).astype(x.dtype)
            mixed = jnp.einsum("hij,jhd->ihd", jax.nn.softmax(scores, axis=-1), v)
            h = h + _rows(join, mixed.reshape(n, WIDTH))
            h = h + jnp.tanh(_rows(layer, h))
        return self.orbitals(h, r) + self.jastrow(x)


class Siren(eqx.Module):
    """Sines, of a point."""

    layers: list

    def __init__(self, size, key, depth=3, width=64):
        keys = jax.random.split(key, depth + 1)
        sizes = [size, *[width] * depth, 1]
        self.layers = [_linear(k, a, b) for k, a, b in zip(keys, sizes, sizes[1:])]

    def __call__(self, x):
        first, *inner, last = self.layers
        x = jnp.sin(10 * first(x))
        for layer in inner:
            x = jnp.sin(layer(x))
        return last(x)[0]


class FourierFeatures(eqx.Module):
    """Sines and cosines of random waves, and an MLP of them."""

    number: int = eqx.field(static=True)
    mlp: eqx.nn.MLP

    def __init__(self, size, key, number=32):
        self.number = number
        self.mlp = eqx.nn.MLP(2 * number, "scalar", 64, 2, jnp.tanh, key=key)

    def __call__(self, x):
        waves = np.random.default_rng(0).normal(size=(self.number, x.size))
        angles = jnp.asarray(waves, x.dtype) @ x
        return self.mlp(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))


WAVE_FUNCTIONS = dict(
    slater_jastrow=SlaterJastrow,
    fermi_net=FermiNet,
    pauli_net=PauliNet,
    psiformer=Psiformer,
)
FIELDS = dict(siren=Siren, fourier_features=FourierFeatures)
