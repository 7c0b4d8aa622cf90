"""The nouns of Carbide: plain frozen values that every room speaks, with their shapes.

Nothing here computes anything beyond its own checks, and nothing is imported but numpy, so every other
part of Carbide may use these names.

>>> Finding(metric="robust accuracy", value=0.5, low=0.4, high=0.6, n=100, method="pgd", threat="Linf 0.1", access="GRADIENTS", seed=0).value
0.5
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


class CarbideError(Exception):
    """Carbide itself could not do what it promised (exit code 3)."""


class InputError(CarbideError, ValueError):
    """The user's input is wrong: one sentence naming the thing, its value and the mend (exit code 2)."""


class UnsoundError(CarbideError):
    """An attack succeeded inside a deterministic certificate: one of the two is wrong, and the run stops."""


class Access(enum.Flag):
    """What an attacker knows, what a method needs and what a model can give."""

    LABELS = enum.auto()
    SCORES = enum.auto()
    GRADIENTS = enum.auto()
    STRUCTURE = enum.auto()
    WEIGHTS = enum.auto()

    def words(self) -> str:
        """The flags in words, e.g. ``"labels, scores"``."""
        return ", ".join(str(flag.name).lower() for flag in Access if flag in self) or "nothing"


BLACK_BOX = Access.LABELS | Access.SCORES
WHITE_BOX = BLACK_BOX | Access.GRADIENTS | Access.WEIGHTS
TREE_BOX = BLACK_BOX | Access.STRUCTURE | Access.WEIGHTS


class Kind(enum.IntEnum):
    """What values a feature may take."""

    REAL = 0
    INTEGER = 1
    CATEGORICAL = 2
    ONE_HOT = 3


@dataclass(frozen=True, kw_only=True)
class Linear:
    """The relation ``sum(coefficients[i] * x[features[i]]) <= upper``; features are column indices."""

    features: tuple[int, ...]
    coefficients: tuple[float, ...]
    upper: float

    def __post_init__(self) -> None:
        if len(self.features) != len(self.coefficients) or not self.features:
            raise InputError(
                f"linear relation: {len(self.features)} features but {len(self.coefficients)} coefficients; give one coefficient a feature"
            )


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """The relation ``x[target] == x[numerator] / x[denominator]``: target is recomputed whenever a part changes."""

    target: int
    numerator: int
    denominator: int


@dataclass(frozen=True, kw_only=True)
class Implication:
    """Where ``at_least <= x[cause] <= at_most``, there ``lower <= x[effect] <= upper``; both are column indices.

    A missing cause implies nothing; a missing effect lies nowhere.
    """

    cause: int
    effect: int
    at_least: float = -math.inf
    at_most: float = math.inf
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        if self.cause == self.effect:
            raise InputError(f"implication: feature {self.cause} is both sides of it; give its bounds in the space, or name two features")
        if not (self.at_least <= self.at_most and self.lower <= self.upper):
            raise InputError(
                f"implication: [{self.at_least:g}, {self.at_most:g}] implies [{self.lower:g}, {self.upper:g}], and one of them is empty; swap its ends"
            )
        if any(math.isinf(low) and math.isinf(high) for low, high in ((self.at_least, self.at_most), (self.lower, self.upper))):
            raise InputError(f"implication: feature {self.cause} implies feature {self.effect}, and one of them has no bound; give each side one")


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The relation ``x[target] == sum(coefficients[i] * x[features[i]])``: target is recomputed whenever a part changes."""

    target: int
    features: tuple[int, ...]
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.coefficients) or not self.features:
            raise InputError(f"sum: {len(self.features)} features but {len(self.coefficients)} coefficients; give one coefficient a feature")
        if self.target in self.features or len(set(self.features)) != len(self.features):
            raise InputError("sum: a feature is named twice; its target and its parts are different features")


Relation = Linear | Ratio | Implication | Sum


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """The geometry of one input of shape ``shape``: bounds, steps, kinds and relations.

    ``lower``, ``upper``, ``step`` (0 = continuous, else values are ``lower + j * step``), ``mutable`` (bool) and
    ``kind`` (values of ``Kind``) are arrays of shape ``shape``. ``names`` has one name a feature for tables and is
    empty for images. ``groups`` are tuples of column indices that form one-hot groups. ``missing`` (bool, None = nowhere):
    where a changed row may lack the value.
    """

    shape: tuple[int, ...]
    lower: Array
    upper: Array
    step: Array
    mutable: Array
    kind: Array
    names: tuple[str, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()
    relations: tuple[Relation, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: Array | None = None

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "step", "mutable", "kind", *(() if self.missing is None else ("missing",))):
            value = getattr(self, name)
            if value.shape != self.shape:
                raise InputError(f"space: {name} has shape {value.shape}, but an input has shape {self.shape}; give one value a feature")
        if np.isnan(self.lower).any() or np.isnan(self.upper).any() or (self.lower > self.upper).any():
            bad = int(np.flatnonzero(~(self.lower <= self.upper).ravel())[0])
            raise InputError(
                f"space: feature {self.name(bad)} has lower bound {self.lower.ravel()[bad]} above its upper bound {self.upper.ravel()[bad]}; swap them"
            )
        if self.names and len(self.names) != math.prod(self.shape):
            raise InputError(f"space: {len(self.names)} names for {math.prod(self.shape)} features; give one name a feature")
        if len(set(self.names)) != len(self.names):
            raise InputError("space: feature names repeat; give each feature its own name")

    @classmethod
    def image(cls, shape: tuple[int, ...], *, lower: float = 0.0, upper: float = 1.0) -> Self:
        """The space of images of shape ``(channels, height, width)`` with values in ``[lower, upper]``."""
        return cls(shape=shape, lower=np.full(shape, lower), upper=np.full(shape, upper), step=np.zeros(shape),
                   mutable=np.ones(shape, bool), kind=np.zeros(shape, np.int8))  # fmt: skip

    @classmethod
    def table(cls, names: Sequence[str], *, lower: Array | None = None, upper: Array | None = None, step: Array | None = None,
              mutable: Array | None = None, kind: Array | None = None, groups: tuple[tuple[int, ...], ...] = (),
              relations: tuple[Relation, ...] = ()) -> Self:  # fmt: skip
        """The space of table rows with the named features; whatever is left out is unbounded, real and mutable."""
        d = len(names)
        kind = np.zeros(d, np.int8) if kind is None else np.asarray(kind, np.int8)
        if step is None:
            step = np.where(kind == Kind.REAL, 0.0, 1.0)
        return cls(shape=(d,), names=tuple(names), lower=np.full(d, -np.inf) if lower is None else np.asarray(lower, float),
                   upper=np.full(d, np.inf) if upper is None else np.asarray(upper, float), step=np.asarray(step, float),
                   mutable=np.ones(d, bool) if mutable is None else np.asarray(mutable, bool), kind=kind, groups=groups, relations=relations)  # fmt: skip

    @property
    def is_image(self) -> bool:
        """Whether inputs are images ``(channels, height, width)``."""
        return len(self.shape) == 3

    def name(self, feature: int) -> str:
        """The name of the feature with this flat index."""
        return self.names[feature] if self.names else str(np.unravel_index(feature, self.shape))

    def index(self, name: str) -> int:
        """The column of a named feature.

        Raises:
            InputError: if no feature has that name.
        """
        if name not in self.names:
            raise InputError(
                f"feature {name!r} is not in the space; its features are {', '.join(self.names[:12])}{', ...' if len(self.names) > 12 else ''}"
            )
        return self.names.index(name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Rows and their labels: ``x`` is ``(n, *shape)`` float, ``y`` is ``(n,)`` int64 in ``range(classes)``.

    ``ids`` is ``(n,)`` of stable hashes as strings, ``source`` is ``(n,)`` naming who supplied the row. Trusted inside;
    ``carbide.data`` checks what comes from outside before it builds one.
    """

    x: Array
    y: Array
    ids: Array
    source: Array
    space: Space
    classes: int
    class_names: tuple[str, ...] = ()
    name: str = "data"

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Array) -> Dataset:
        """The rows with these indices (or this boolean mask), in that order."""
        return replace(self, x=self.x[rows], y=self.y[rows], ids=self.ids[rows], source=self.source[rows])

    def joined(self, other: Dataset) -> Dataset:
        """These rows and then the other's, in this data set's space and classes."""
        both = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("x", "y", "ids", "source")}
        return replace(self, **both)

    def with_(self, *, x: Array | None = None, y: Array | None = None) -> Dataset:
        """The same rows with other inputs or labels."""
        return replace(self, x=self.x if x is None else x, y=self.y if y is None else y)


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The parts of a data set: thresholds and choices come from ``validation``, every reported number from ``test``."""

    train: Dataset
    validation: Dataset
    test: Dataset


@runtime_checkable
class Model(Protocol):
    """A classifier in inference mode; ``predict`` maps ``(n, *shape)`` to probabilities ``(n, classes)`` float64."""

    @property
    def space(self) -> Space: ...
    @property
    def classes(self) -> int: ...
    @property
    def access(self) -> Access: ...
    @property
    def threshold(self) -> float: ...  # binary models say class 1 when its probability is >= threshold
    def predict(self, x: Array) -> Array: ...
    def at(self, threshold: float) -> Model: ...  # the same model deciding at another threshold
    def digest(self) -> str: ...  # a hash of everything that decides its answers


def decide(probabilities: Array, threshold: float = 0.5) -> Array:
    """Labels ``(n,)`` int64 from probabilities ``(n, k)``: argmax, or for two classes ``p1 >= threshold``."""
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(1).astype(np.int64)


@runtime_checkable
class Recipe(Protocol):
    """How a model is trained: the same data set and the same rng state give the same model."""

    def fit(self, dataset: Dataset, rng: Rng) -> Model: ...
    def describe(self) -> Mapping[str, Any]: ...  # JSON-able, complete: it is hashed to find stored results


# Threats ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)  # each threat compares by its own fields
class Threat:
    """What an attacker may do. ``room`` names the threat folder whose methods speak it."""

    room: ClassVar[str] = ""

    def words(self) -> str:
        """The threat in a few plain words."""
        parts = ", ".join(f"{f.name} {getattr(self, f.name)}" for f in fields(self))
        return f"{type(self).__name__}({parts})"


@dataclass(frozen=True, kw_only=True)
class LpBall(Threat):
    """Any change of L``p`` norm at most ``eps`` in input units that stays within the space's bounds.

    With a ``target`` the attacker wants that class, of three or more, for rows of the others; without, any wrong one.
    """

    room: ClassVar[str] = "evasion"
    p: float = math.inf
    eps: float
    target: int | None = None

    def __post_init__(self) -> None:
        if self.p not in (0, 1, 2, math.inf):
            raise InputError(f"p is {self.p}; choose 0, 1, 2 or inf")
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps is {self.eps}; give a finite number >= 0 in input units")
        if self.target is not None and (isinstance(self.target, bool) or not isinstance(self.target, int) or self.target < 0):
            raise InputError(f"target is {self.target!r}; give the number of a class, from 0")

    def words(self) -> str:
        goal = "" if self.target is None else f" towards class {self.target}"
        return f"L{'inf' if math.isinf(self.p) else int(self.p)} change of at most {self.eps:g}{goal}"


@dataclass(frozen=True, kw_only=True)
class Patch(Threat):
    """One rectangle of at most ``area`` (a share of the image's pixels), anywhere and of any proportions, set to any values within the bounds."""

    room: ClassVar[str] = "evasion"
    area: float

    def __post_init__(self) -> None:
        if not 0 < self.area <= 1:
            raise InputError(f"patch is {self.area}; give a share of the image in (0, 1], e.g. 0.05")

    def words(self) -> str:
        return f"one patch on at most {self.area:.2%} of an image"


DISTORTIONS = {"rotation": (180.0, "degrees"), "translation": (math.inf, "pixels"), "brightness": (1.0, "of the range"), "contrast": (0.99, "of itself"),
               "hue": (0.5, "of the colour circle"), "saturation": (1.0, "of full colour"), "blur": (math.inf, "pixels (sigma)")}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Distortion(Threat):
    """Changes of a whole image, all the named ones at once, each within its range; 0 = this one is left out.

    ``rotation`` in degrees about the centre and ``translation`` in pixels down and across, either way, black coming in at the rims;
    ``brightness`` as a share of the range of values, added or taken; ``contrast`` as a share, more or less, about each image's mean;
    ``hue`` in turns of the colour circle (at most 0.5) either way and ``saturation`` added or taken, for images of 3 channels; ``blur``,
    the largest sigma of a Gaussian in pixels; ``jpeg``, the lowest quality (1 to 95), for images of 1 or 3 channels.
    """

    room: ClassVar[str] = "evasion"
    rotation: float = 0.0
    translation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    jpeg: int = 0

    def __post_init__(self) -> None:
        for name, (most, unit) in DISTORTIONS.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 <= value <= most):
                raise InputError(f"{name} is {value}; give a finite number >= 0{'' if math.isinf(most) else f' and at most {most:g}'}, {unit}")
        if self.jpeg != 0 and not (self.jpeg == int(self.jpeg) and 1 <= self.jpeg <= 95):
            raise InputError(f"jpeg is {self.jpeg}; give the lowest quality, a whole number from 1 to 95")
        if not self.jpeg and not any(getattr(self, name) for name in DISTORTIONS):
            raise InputError(f"a distortion names no change; give one of {', '.join([*DISTORTIONS, 'jpeg'])}")

    def words(self) -> str:
        said = [f"{name} of up to {getattr(self, name):g} {unit}" for name, (_, unit) in DISTORTIONS.items() if getattr(self, name)]
        return "an image distorted by " + ", ".join(said + ([f"JPEG of quality {self.jpeg} and better"] if self.jpeg else []))


CORRUPTIONS = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur", "brightness", "contrast",
               "saturate", "pixelate", "jpeg_compression", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost", "fog", "elastic_transform",
               "spatter")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Corruption(Threat):
    """One of the common corruptions ``kinds`` (empty = all of ``CORRUPTIONS``) at ``severity`` 1 to 5, whichever the model likes least."""

    room: ClassVar[str] = "evasion"
    severity: int = 3
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.severity) is not int or not 1 <= self.severity <= 5:
            raise InputError(f"corruption is {self.severity!r}; give a severity, a whole number from 1 to 5")
        for kind in self.kinds:
            if kind not in CORRUPTIONS:
                raise InputError(f"corruption {kind!r} is not known; choose {', '.join(CORRUPTIONS)}")

    def words(self) -> str:
        return f"common corruptions of severity {self.severity}" + (f" ({', '.join(self.kinds)})" if self.kinds else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class Price:
    """What changing one feature costs, in the table's currency: ``up`` and ``down`` a unit (inf = impossible).

    ``fixed`` is paid once for any change. ``up_steps`` and ``down_steps`` are stairs in place of a price a unit: ``(by, price)``,
    a move of at most ``by`` costs ``price``, one beyond the last is impossible. ``matrix`` ``(k, k)`` prices the move between the k
    values ``lower .. lower + k - 1`` of a categorical or integer feature instead. ``hide`` is the whole price of making the value
    missing, ``fill`` of putting any value where it is missing.
    """

    up: float = math.inf
    down: float = math.inf
    fixed: float = 0.0
    matrix: Array | None = None
    up_steps: tuple[tuple[float, float], ...] = ()
    down_steps: tuple[tuple[float, float], ...] = ()
    hide: float = math.inf
    fill: float = math.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class PriceTable:
    """One ``Price`` a feature, by name; a feature that is not named cannot be changed.

    ``groups`` prices one-hot groups by the names of their members: a ``fixed`` price for turning on another one, or a ``matrix`` whose
    rows and columns are the members in that order, or both. ``gain`` names the feature that holds what the attacker earns when the row
    passes (None = not known): as the row stands at first, so that the prices say what is lost by lowering it, or, where ``follows``,
    as it is once changed.
    """

    prices: Mapping[str, Price]
    currency: str = "$"
    gain: str | None = None
    groups: Mapping[tuple[str, ...], Price] = field(default_factory=dict)
    follows: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBudget(Threat):
    """An attacker who changes features of rows of class 1 and pays at most ``money`` a row by the price table."""

    room: ClassVar[str] = "evasion"
    money: float
    prices: PriceTable

    def __post_init__(self) -> None:
        if not (math.isfinite(self.money) and self.money >= 0):
            raise InputError(f"money is {self.money}; give a finite budget >= 0")

    def words(self) -> str:
        return f"feature changes worth at most {self.prices.currency}{self.money:g} a row"


@dataclass(frozen=True, kw_only=True)
class Flips(Threat):
    """An attacker who changes the labels of at most ``fraction`` of the training rows."""

    room: ClassVar[str] = "poisoning"
    fraction: float

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 1:
            raise InputError(f"flips is {self.fraction}; give a fraction of the training rows in [0, 1]")

    def words(self) -> str:
        return f"labels of {self.fraction:.2%} of the training rows changed"


@dataclass(frozen=True, kw_only=True)
class Backdoor(Threat):
    """An attacker who changes at most ``fraction`` of the training rows so that a trigger later gives class ``target``.

    ``area`` bounds the share of an image's pixels that a patch trigger may cover; ``features`` the number of table
    features that a trigger may set.
    """

    room: ClassVar[str] = "poisoning"
    fraction: float
    target: int = 0
    area: float = 0.1
    features: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"backdoor fraction is {self.fraction}; give a share of the training rows in (0, 1]")
        if not 0 < self.area <= 1:
            raise InputError(f"backdoor area is {self.area}; give a share of the image in (0, 1]")
        if type(self.target) is not int or self.target < 0:
            raise InputError(f"backdoor target is {self.target!r}; give the number of a class, from 0")
        if type(self.features) is not int or self.features < 1:
            raise InputError(f"backdoor features is {self.features!r}; give how many a trigger may set, a whole number >= 1")

    def words(self) -> str:
        return f"a backdoor to class {self.target} in {self.fraction:.2%} of the training rows"


@dataclass(frozen=True, kw_only=True)
class Membership(Threat):
    """An attacker who asks whether a record was in the training set.

    The models that are attacked are trained on all but one of ``folds`` parts of the rows: 2 are halves; as many as there
    are rows, the most that a small table can have, leave one row out of each model.
    """

    room: ClassVar[str] = "privacy"
    folds: int = 2

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise InputError(f"folds is {self.folds}; give a whole number from 2 (halves) to the number of rows (all but one)")

    def words(self) -> str:
        return "telling who was in the training set" + (f", {self.folds} folds" if self.folds != 2 else "")


@dataclass(frozen=True, kw_only=True)
class PrivacyClaim(Threat):
    """An attacker who knows all records but one and asks which of two neighbouring data sets a model was trained on.

    The training is claimed to be (``epsilon``, ``delta``)-differentially private; ``mu`` (Gaussian differential privacy) and further
    ``pairs`` of epsilon and delta, where the accountant gives them, make the claim sharper and easier to refute. ``adjacency`` says
    which data sets are neighbours: ``replace`` one record by another, or ``add`` one (or take it away).
    """

    room: ClassVar[str] = "privacy"
    epsilon: float
    delta: float
    mu: float | None = None
    pairs: tuple[tuple[float, float], ...] = ()
    adjacency: str = "replace"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple((float(e), float(d)) for e, d in self.pairs))
        for epsilon, delta in ((self.epsilon, self.delta), *self.pairs):
            if not (math.isfinite(epsilon) and epsilon >= 0):
                raise InputError(f"epsilon is {epsilon}; give a finite number >= 0")
            if not 0 <= delta < 1:
                raise InputError(f"delta is {delta}; give a probability in [0, 1), well below one over the number of rows")
        if self.mu is not None and not (math.isfinite(self.mu) and self.mu >= 0):
            raise InputError(f"mu is {self.mu}; give a finite number >= 0, or leave it out")
        if self.adjacency not in ("replace", "add"):
            raise InputError(f"adjacency is {self.adjacency!r}; choose replace or add")

    def words(self) -> str:
        change = "replaced" if self.adjacency == "replace" else "added or left out"
        return f"telling whether one training record was {change}, against a claimed epsilon of {self.epsilon:.3g} at delta {self.delta:g}"


@dataclass(frozen=True, kw_only=True)
class AttributeInference(Threat):
    """An attacker who knows a person's other features and asks the model what the feature ``feature`` of theirs is.

    With ``label`` the attacker also knows the person's label. A feature of real numbers, or of more than ten whole ones, is guessed as
    one of ``bins`` ranges that hold equally many people.
    """

    room: ClassVar[str] = "privacy"
    feature: str
    label: bool = True
    bins: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.feature, str) or not self.feature:
            raise InputError(f"feature is {self.feature!r}; give the name of the sensitive feature")
        if not isinstance(self.label, bool):
            raise InputError(f"label is {self.label!r}; write true if the attacker knows people's labels, else false")
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 2 <= self.bins <= 10:
            raise InputError(f"bins is {self.bins!r}; give a whole number from 2 to 10")

    def words(self) -> str:
        return f"guessing {self.feature!r} of people in the training set" + ("" if self.label else " whose labels are not known")


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Threat):
    """An attacker who rebuilds training rows: from the model alone (``known`` is ``nothing``), or as one who knows all ``others``."""

    room: ClassVar[str] = "privacy"
    known: str = "nothing"

    def __post_init__(self) -> None:
        if self.known not in ("nothing", "others"):
            raise InputError(f"known is {self.known!r}; choose nothing (the model alone) or others (every training row but one)")

    def words(self) -> str:
        return "rebuilding training rows from " + ("the model" if self.known == "nothing" else "the model and all other training rows")


@dataclass(frozen=True, kw_only=True)
class SinglingOut(Threat):
    """An attacker who writes predicates that hold of exactly one training row.

    A predicate's weight is the share of the population that it holds of; allowed is ``weight`` (above 0, at most 1) of one in n training rows.
    """

    room: ClassVar[str] = "privacy"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise InputError(f"weight is {self.weight!r}; give a share of one in n rows, above 0 and at most 1, e.g. 0.1")

    def words(self) -> str:
        return "singling out training rows" + ("" if self.weight == 1 else f" by predicates of weight up to {self.weight:g} of 1 in n")


MOST_QUERIES = 10**9


@dataclass(frozen=True, kw_only=True)
class Queries(Threat):
    """An attacker who copies the model with at most ``n`` queries that are answered with ``answers``.

    ``answers`` is ``"logits"``, ``"probabilities"`` or ``"labels"``.
    """

    room: ClassVar[str] = "extraction"
    n: int
    answers: str = "probabilities"

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST_QUERIES:
            raise InputError(f"queries is {self.n}; give a whole number from 1 to {MOST_QUERIES:,}")
        if self.answers not in ("logits", "probabilities", "labels"):
            raise InputError(f"answers is {self.answers!r}; choose logits, probabilities or labels")

    def words(self) -> str:
        return f"copying the model with {self.n} queries answered by {self.answers}"


# Results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a method achieved on each row, as the judge saw it.

    ``success`` ``(n,)`` bool, ``cost`` ``(n,)`` float (inf where there was no success), ``queries`` ``(n,)`` int,
    ``witness`` ``(n, *shape)`` the judged inputs (the clean row where there was no success) or None; ``stage`` ``(n,)`` the part
    of an ensemble that each came from, as words, or None; ``parameters`` ``(n, k)`` what the witnesses were rendered from (nan where
    there was no success), None where a threat's changes are not rendered.
    """

    success: Array
    cost: Array
    queries: Array
    witness: Array | None = None
    stage: Array | None = None
    parameters: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One measured number with its interval. ``good`` says which direction is good: +1 higher, -1 lower, 0 neither.

    ``evidence`` names the keys of the section's evidence from which ``carbide verify`` recomputes the value.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int
    method: str
    threat: str
    access: str
    seed: int
    confidence: float = 0.95
    good: int = 1
    note: str = ""
    headline: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """What no attacker of the stated kind can do.

    ``holds`` ``(n,)`` bool: the row's claim is proven. ``bound`` ``(n,)`` float: the row's certified quantity in the
    claim's unit (a radius, a price, a number of poisoned rows). ``failure_probability`` 0 = deterministic.
    """

    claim: str
    holds: Array
    bound: Array
    failure_probability: float
    assumptions: tuple[str, ...]
    method: str
    threat: str
    unit: str = ""
    metric: str = ""  # the Finding.metric that this certificate brackets from below, if any

    @property
    def value(self) -> float:
        """The share of rows for which the claim is proven."""
        return float(np.mean(self.holds)) if len(self.holds) else math.nan


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """``certified <= truth <= attacked`` for one quantity where higher is safer (or mirrored where lower is)."""

    metric: str
    certified: float
    attacked: float
    n: int
    finding: Finding
    certificate: str
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Skip:
    """A method that did not run, and why: not applicable, not installed or failed."""

    method: str
    threat: str
    reason: str
    status: str = "not applicable"  # or "not installed", "failed", "unknown"


@dataclass(frozen=True, kw_only=True)
class Symptom:
    """One thing that the examination of a model saw before any number was measured.

    ``value`` is what was seen, with its figures; ``done`` is ``refused`` (nothing is measured), ``repaired`` (by a view
    that attacks use; the judge asks the model as it is) or ``noted``; ``mend`` says how it was repaired, or what to do.
    """

    name: str
    value: str
    done: str
    mend: str

    def __post_init__(self) -> None:
        if self.done not in ("refused", "repaired", "noted"):
            raise InputError(f"symptom {self.name}: done is {self.done!r}; choose refused, repaired or noted")

    def words(self) -> str:
        """The symptom in one sentence."""
        return f"{self.value}; {self.mend}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One line, set of bars or row of images of a figure: ``y`` against ``x``; optional band ``low``..``high``."""

    name: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """Data of one picture: kind is ``lines``, ``steps``, ``roc`` (log axes), ``bars`` or ``gallery``.

    A gallery's series hold images: ``y`` is ``(m, channels, height, width)`` in [0, 1], ``x`` ``(m,)`` captions (str).
    """

    kind: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """All that was learned about one threat on one model: findings, certificates, pictures, evidence, what was skipped, symptoms."""

    threat: str
    room: str
    findings: tuple[Finding, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    figures: tuple[Figure, ...] = ()
    evidence: Mapping[str, Array] = field(default_factory=dict)
    skipped: tuple[Skip, ...] = ()
    examination: tuple[Symptom, ...] = ()
    noun: Threat | None = None

    def headline(self) -> Finding | None:
        """The finding that stands for this section, or None if nothing was measured."""
        return next((f for f in self.findings if f.headline), self.findings[0] if self.findings else None)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the guard does with one request: ``action`` is ``allow``, ``slow``, ``flag`` or ``deny``; score up = more suspect."""

    action: str
    score: float
    reason: str
    milliseconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Poison:
    """A poisoned copy of a training set: ``dataset`` with the same n rows, ``rows`` ``(n,)`` bool which were changed.

    ``trigger`` maps clean inputs ``(m, *shape)`` to triggered ones, None for attacks without one; ``target`` is the
    class that a triggered input should get.
    """

    dataset: Dataset
    rows: Array
    trigger: Callable[[Array], Array] | None = None
    target: int | None = None


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Where a binary model decides: the threshold that gives this false-positive rate on validation negatives."""

    false_positive_rate: float

    def __post_init__(self) -> None:
        if not 0 < self.false_positive_rate < 1:
            raise InputError(f"false_positive_rate is {self.false_positive_rate}; give a rate in (0, 1), e.g. 0.01")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What a verb works on: the model under test, how it was trained (None = not known), its data and who decides where.

    ``trained`` = the model is what the recipe makes of the train rows with the random stream ``rng_for(seed, "train")``. ``rows``: test
    rows that evasion attacks and certificates decide, at most; more are drawn down to them by the seed.
    """

    model: Model
    data: Splits
    recipe: Recipe | None = None
    operating_point: OperatingPoint | None = None
    seed: int = 0
    trained: bool = False
    rows: int = 1000


def rng_for(seed: int, *labels: str | int) -> Rng:
    """A generator that depends on the seed and the labels only, so that adding a method changes no other method's draws."""
    words = hashlib.sha256("/".join(map(str, labels)).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(words[:16], np.uint32).tolist()])


def digest(*parts: Any) -> str:
    """A sha256 hex digest of nested plain values: arrays by dtype, shape and bytes; dataclasses by field; models by their own."""
    state = hashlib.sha256()
    _feed(state, parts)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if value is None or isinstance(value, bool | int | float | str | bytes | enum.Enum):
        state.update(f"{type(value).__name__}:{value!r};".encode())
    elif isinstance(value, np.ndarray):
        data = value if value.dtype != object else value.astype(str)
        state.update(f"array:{data.dtype.str}:{data.shape};".encode())
        state.update(np.ascontiguousarray(data).tobytes())
    elif isinstance(value, np.generic):
        _feed(state, value.item())
    elif isinstance(value, Mapping):
        state.update(b"{")
        for key in sorted(value, key=str):
            _feed(state, str(key))
            _feed(state, value[key])
        state.update(b"}")
    elif isinstance(value, list | tuple | set | frozenset):
        state.update(b"[")
        for item in sorted(value, key=str) if isinstance(value, set | frozenset) else value:
            _feed(state, item)
        state.update(b"]")
    elif hasattr(value, "digest"):
        _feed(state, value.digest())
    elif hasattr(value, "describe"):
        _feed(state, value.describe())
    elif hasattr(value, "__dataclass_fields__"):
        state.update(type(value).__qualname__.encode())
        for f in fields(value):
            _feed(state, f.name)
            _feed(state, getattr(value, f.name))
    else:
        raise TypeError(f"cannot hash a {type(value).__name__}")
