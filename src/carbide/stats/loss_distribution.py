"""Koskela et al. 2020, https://arxiv.org/abs/1906.03049, Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380: privacy losses on a grid.

The privacy loss of a step is the logarithm of how much likelier its output is with a row than without it. Losses of steps add up,
so their distribution is a convolution, by FFT. Each loss is split between its two neighbours on the grid such that both the
probabilities with and without the row stay what they are: that only makes telling the two apart easier, so nothing computed here is
below the truth. The masses are tilted by ``exp(theta loss)`` before the FFT, so that small deltas are not lost in its rounding.

>>> from carbide.stats.rdp import Steps
>>> total = compose([Steps(noise=2.0)], remove=True, tilt=lambda moment: 0.0)
>>> abs(total.delta(1.0) - 0.006829) < 1e-5
True
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from carbide.stats.rdp import Steps
from carbide.types import Array

REACH = 10.5  # standard deviations of the noise that are put on the grid; what lies beyond (4e-26) counts as a loss without end
FINE = 2e-5  # what the grid may add to epsilon, as a share of it, roughly; the proven bound is ``PrivacyLoss.excess``
MOST = 2**22  # points of a grid; a coarser grid is as safe, and less tight
OUTSIDE = 1e-13  # tilted mass outside the window of the FFT on either side
SAFE = 1e-6  # share of the mass at a cell's lower end that is moved to its upper one: far more than rounding could have misplaced
MOST_LOSS = 700.0  # of which the exponential is taken
COARSE = 64  # groups of losses, each time they grow by a factor of e, on which a tilt is chosen
DEAD = 90.0  # powers of the spectrum below exp(-90) are nothing beside the rounding of its largest
ROUNDED = 10.0  # standard errors of the FFT's rounding that are added


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivacyLoss:
    """The loss of all steps together: ``mass`` ``(m,)`` at ``losses`` ``(m,)``, and ``extra``, mass that counts as a loss without end.

    ``error`` ``(m,)`` is the size of the FFT's rounding error of each mass; ``spacing`` and ``count`` are the grid's and the number of steps.
    """

    losses: Array
    mass: Array
    error: Array
    extra: float
    spacing: float
    count: int

    def delta(self, epsilon: float) -> float:
        """The delta at this epsilon in this direction, rounded up."""
        above = self.losses > epsilon
        gain = -np.expm1(epsilon - self.losses[above])
        return min(1.0, float(self.mass[above] @ gain) + ROUNDED * float(np.linalg.norm(self.error[above])) + self.extra)

    def epsilon(self, delta: float) -> float:
        """The least epsilon (it may be negative) at which the delta is this one, rounded up; inf where there is none."""
        with_row, without, doubt = self._above
        deltas = with_row - np.exp(np.minimum(self.losses, MOST_LOSS)) * without + doubt
        if delta <= deltas[-1]:
            return math.inf
        j = int(np.argmax(deltas <= delta))  # the first loss whose delta is small enough; below it delta is linear in exp(epsilon)
        within = self.mass[j] * math.exp(min(MOST_LOSS, -self.losses[j]))
        gap = with_row[j] + self.mass[j] + doubt[max(j - 1, 0)] - delta
        slope = min(1.0, without[j] + within)
        return min(float(self.losses[j]), math.log(gap / slope)) if gap > 0 and slope > 0 else -math.inf

    def tpr(self, fpr: float) -> float:
        """The most mass that an event can have whose mass without the row is ``fpr``: the trade-off curve, rounded up."""
        with_row, without, doubt = self._above
        least = np.min(with_row + doubt + np.exp(np.minimum(self.losses, MOST_LOSS)) * (fpr - without))
        return float(min(1.0, max(fpr, least)))

    def excess(self, share: float = 0.01, delta: float = 1e-5) -> float:
        """By how much at most ``epsilon(delta)`` is above the true epsilon at ``(1 - share) delta``, rounding apart.

        A loss moves by at most the spacing ``h``, on average by at most ``h^2 / 8`` (Hoeffding's lemma), so all of them
        together by more than this with a probability of at most ``share * delta`` (Hoeffding's inequality).
        """
        return self.spacing * (self.count * self.spacing / 8 + math.sqrt(self.count * math.log(1 / (share * delta)) / 2))

    @functools.cached_property
    def _above(self) -> tuple[Array, Array, Array]:
        """For each loss the masses with and without the row of larger losses, and how much the first may be too small."""
        without = self.mass * np.exp(np.clip(-self.losses, -MOST_LOSS, MOST_LOSS))
        with_row, without, squares = (np.cumsum(part[::-1])[::-1] - part for part in (self.mass, without, self.error**2))
        doubt = self.extra + ROUNDED * np.sqrt(np.maximum(squares, 0.0))
        return with_row, np.minimum(without, 1.0), doubt  # more than 1 is rounding, and less is on the safe side


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kind:
    """One kind of steps on the grid: logarithms of masses at losses ``(first + i) spacing``, mass without end, number of steps."""

    first: int
    log_mass: Array
    losses: Array
    endless: float
    count: int

    def moment(self, theta: float) -> float:
        """The logarithm of ``E exp(theta loss)`` of one step."""
        powers = self.log_mass + theta * self.losses
        most = powers.max()
        return float(most + math.log(np.exp(powers - most).sum()))

    def coarse(self) -> _Kind:
        """The same with neighbours put together, the more the further from a loss of 0: for choices on which no bound rests."""
        k = self.first + np.arange(len(self.losses))
        group = np.sign(k) * np.floor(COARSE * np.log1p(np.abs(k)))
        starts = np.flatnonzero(np.diff(group, prepend=np.nan))
        mass = np.exp(self.log_mass)
        total = np.maximum(np.add.reduceat(mass, starts), 1e-300)
        return replace(self, log_mass=np.log(total), losses=np.add.reduceat(mass * self.losses, starts) / total)


def compose(steps: Sequence[Steps], *, remove: bool, tilt: Callable[[Callable[[float], float]], float]) -> PrivacyLoss:
    """The distribution of the loss of these steps together, in one of the two directions.

    ``remove``: how much likelier outputs are with the row, drawn with it; otherwise without it, drawn without it. ``tilt`` is given the
    logarithm of ``E exp(theta loss)`` as a function and chooses ``theta``; near losses that it makes typical rounding is least.
    """
    spacing = _spacing(steps)
    kinds = [_on_grid(s, remove, spacing) for s in steps]

    moment, rough = _moment(kinds), _moment([kind.coarse() for kind in kinds])
    theta = _calm(rough, tilt(rough))
    low, _, push = _window(rough, theta)
    level = moment(theta)
    high = (moment(theta + push) - level - math.log(OUTSIDE)) / push
    start, size = math.floor(low / spacing), math.ceil((high - low) / spacing) + 2
    size = _next_fast(size)
    mass = np.roll(_convolved(kinds, theta, size), -start)  # index i of the circle holds every loss i, i + size, ...
    losses = spacing * np.arange(start, start + size)
    extra = math.fsum(kind.count * kind.endless for kind in kinds) + OUTSIDE * math.exp(min(0.0, level - theta * high))
    weight = _exp(np.minimum(level - theta * losses, MOST_LOSS))
    count = sum(s.count for s in steps)
    error = np.finfo(float).eps * math.sqrt(math.log2(size)) * count * float(np.linalg.norm(mass)) / math.sqrt(size)
    return PrivacyLoss(losses=losses, mass=np.minimum(mass * weight, 1.0), error=np.minimum(error * weight, 1.0), extra=extra, spacing=spacing,
                       count=count)  # fmt: skip


def _moment(kinds: Sequence[_Kind]) -> Callable[[float], float]:
    """The logarithm of ``E exp(theta loss)`` of all steps together."""
    return lambda theta: math.fsum(kind.count * kind.moment(theta) for kind in kinds)


def _spacing(steps: Sequence[Steps]) -> float:
    """A spacing that adds a share of about ``FINE`` to epsilon: it moves the mean by ``h^2 / 8`` a step and widens the spread."""
    count = sum(s.count for s in steps)
    variance = math.fsum(s.count * min(s.rate**2 * math.expm1(min(700.0, 1 / s.noise**2)), 1 / s.noise**2) for s in steps)
    deviation = math.sqrt(variance)
    allowed = FINE * (variance / 2 + 5 * deviation)
    widest = max(_loss(1 + REACH * s.noise, s) - min(0.0, math.log1p(-s.rate) if s.rate < 1 else -_loss(1 + REACH * s.noise, s)) for s in steps)
    return max(math.sqrt(allowed / (count * (0.125 + 5 / (16 * deviation)))), widest / MOST, (variance + 25 * deviation) / MOST)


def _loss(x: Array | float, step: Steps) -> float:
    return float(np.logaddexp(math.log1p(-step.rate) if step.rate < 1 else -math.inf, math.log(step.rate) + (2 * x - 1) / (2 * step.noise**2)))


def _place(loss: Array, step: Steps) -> Array:
    """The output at which the loss of being with the row is this one; -inf where none is so small."""
    q = step.rate
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.log(np.maximum(np.expm1(np.minimum(loss, 1.0)) + q, 0.0))
        far = loss + np.log1p(-(1 - q) * np.exp(-np.maximum(loss, 1.0)))
    return step.noise**2 * (np.where(loss < 1, near, far) - math.log(q)) + 0.5 if q < 1 else step.noise**2 * loss + 0.5


def _between(places: Array, centre: float, noise: float) -> Array:
    """The masses of ``N(centre, noise^2)`` between neighbouring places (ascending), without cancellation in the upper tail."""
    from scipy.special import ndtr

    z = (places - centre) / noise
    return np.where(z[:-1] > 0, ndtr(-z[:-1]) - ndtr(-z[1:]), ndtr(z[1:]) - ndtr(z[:-1]))


def _on_grid(step: Steps, remove: bool, spacing: float) -> _Kind:
    """Each cell's mass split between its ends such that the probabilities with and without the row are kept."""
    from scipy.special import ndtr

    top, bottom = _loss(1 + REACH * step.noise, step), _loss(-REACH * step.noise, step)
    if not remove:
        top, bottom = -bottom, -_loss(REACH * step.noise, step)
    first, last = math.floor(bottom / spacing), math.ceil(top / spacing)
    losses = spacing * np.arange(first, last + 1)
    places = _place(losses if remove else -losses[::-1], step)
    absent = _between(places, 0.0, step.noise)
    present = (1 - step.rate) * absent + step.rate * _between(places, 1.0, step.noise)
    mass, other = (present, absent) if remove else (absent[::-1], present[::-1])
    ratio = np.divide(other * np.exp(losses[:-1]), mass, out=np.ones_like(mass), where=mass > 0)
    down = mass * np.clip((ratio - math.exp(-spacing)) / -math.expm1(-spacing), 0.0, 1.0) * (1 - SAFE)
    total = np.concatenate([down, [0.0]]) + np.concatenate([[0.0], mass - down])
    z = places / step.noise
    if remove:
        below, endless = _mixed(z[0], step), (1 - step.rate) * ndtr(-z[-1]) + step.rate * ndtr(1 / step.noise - z[-1])
    else:
        below, endless = ndtr(-z[-1]), ndtr(z[0])
    total[0] += below  # smaller losses count as the smallest on the grid
    with np.errstate(divide="ignore"):
        return _Kind(first=first, log_mass=np.log(total), losses=losses, endless=float(endless), count=step.count)


def _mixed(z: float, step: Steps) -> float:
    from scipy.special import ndtr

    return float((1 - step.rate) * ndtr(z) + step.rate * ndtr(z - 1 / step.noise))


def _window(moment: Callable[[float], float], theta: float) -> tuple[float, float, float]:
    """Losses outside which less than ``OUTSIDE`` of the tilted mass lies, and the further tilt that shows it of the upper (Chernoff's bound).

    What lies below the window comes out of the circle at larger losses than its own, which is on the safe side.
    """
    nudge, level, log_outside = 1e-3, moment(theta), -math.log(OUTSIDE)
    deviation = math.sqrt(max(moment(theta + nudge) + moment(theta - nudge) - 2 * level, 1e-12)) / nudge
    trials = (math.sqrt(2 * log_outside) / deviation * np.geomspace(1 / 64, 2, 15)).tolist()
    low = max((level - moment(theta - t) - log_outside) / t for t in trials)
    return low, *min(((moment(theta + t) - level + log_outside) / t, t) for t in trials)


def _calm(moment: Callable[[float], float], theta: float) -> float:
    """A tilt of at most ``theta`` that does not make rare large losses typical, for which the window would have to be large."""
    low, high, _ = _window(moment, 0.0)
    while theta > 1e-2:
        tilted_low, tilted_high, _ = _window(moment, theta)
        if tilted_high - tilted_low <= 2 * (high - low):
            return theta
        theta *= 0.7
    return 0.0


def _convolved(kinds: Sequence[_Kind], theta: float, size: int) -> Array:
    """The tilted masses of the sum of all steps, on a circle of ``size`` points."""
    logarithm: Array = np.zeros(size // 2 + 1, complex)
    for kind in kinds:
        tilted = _exp(kind.log_mass + theta * kind.losses - kind.moment(theta))
        spectrum = np.fft.rfft(np.bincount((kind.first + np.arange(len(tilted))) % size, weights=tilted, minlength=size))
        alive = np.flatnonzero(np.real(logarithm) > -DEAD)
        logarithm[alive] += kind.count * np.log(spectrum[alive] + 1e-300)
    alive = np.real(logarithm) > -DEAD
    product: Array = np.zeros(len(logarithm), complex)
    product[alive] = np.exp(logarithm[alive])
    return np.maximum(np.fft.irfft(product, size), 0.0)


def _exp(powers: Array) -> Array:
    """Exponentials, of which those below 1e-250 are 0: numbers near the least that there is are slow, and ``OUTSIDE`` covers them."""
    return np.where(powers > -575.0, np.exp(np.maximum(powers, -575.0)), 0.0)


def _next_fast(size: int) -> int:
    from scipy.fft import next_fast_len

    return int(next_fast_len(size, real=True))  # type: ignore[arg-type]
