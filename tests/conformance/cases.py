"""Small worlds with known answers, one for each kind of threat and model: what any method of that kind must manage."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from carbide.data.live import dataset_of
from carbide.models.estimators import EstimatorModel, EstimatorRecipe
from carbide.models.training_functions import FunctionRecipe
from carbide.types import (
    Access,
    AttributeInference,
    Backdoor,
    Case,
    Corruption,
    Dataset,
    Distortion,
    FeatureBudget,
    Flips,
    LpBall,
    Membership,
    Patch,
    Price,
    PriceTable,
    PrivacyClaim,
    Queries,
    Reconstruction,
    SinglingOut,
    Space,
    Splits,
    Threat,
)  # fmt: skip

NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A case, a threat, and what is known about them."""

    name: str
    case: Case
    threat: Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """A linear model that answers labels only: class 1 when ``x @ w > b``."""

    w: Any
    b: float
    space: Space
    classes: int = 2
    threshold: float = 0.5
    access: Access = Access.LABELS

    def predict(self, x):
        hit = (x.reshape(len(x), -1) @ self.w > self.b).astype(float)
        return np.stack([1 - hit, hit], 1)

    def at(self, threshold):
        return replace(self, threshold=threshold)

    def digest(self):
        return f"labels {self.w.tolist()} {self.b}"


def table(n: int, seed: int, *, noise: float = 0.0) -> Dataset:
    """Rows in [0, 1]^4 whose label is whether their mean exceeds 1/2, with a margin; ``noise`` flips that share."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(4 * n, 4))
    x = x[np.abs(x.mean(1) - 0.5) > 0.03][:n]
    y = (x.mean(1) > 0.5).astype(np.int64)
    y = np.where(rng.uniform(size=len(y)) < noise, 1 - y, y)
    return dataset_of(x, y, space=Space.table(NAMES, lower=np.zeros(4), upper=np.ones(4)), classes=2)


def images(n: int, seed: int, side: int = 6) -> Dataset:
    """Images of ``side`` x ``side`` pixels of two classes: bright left half or bright right half, with noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    x = rng.uniform(0, 0.5, size=(n, 1, side, side))
    x[y == 0, :, :, : side // 2] += 0.3
    x[y == 1, :, :, side // 2 :] += 0.3
    return dataset_of(x.clip(0, 1), y, space=Space.image((1, side, side)), classes=2)


@functools.cache
def splits(kind: str, noise: float = 0.0) -> Splits:
    """240 training, 120 validation and 160 test rows of one kind (1,600 training rows for ``many``, 400, 600 and 400 rows for ``crowd``, images of 16 x 16 for ``large images``)."""
    if kind == "many":
        return Splits(train=table(1600, 1), validation=table(400, 2), test=table(160, 3))
    if kind == "crowd":
        return Splits(train=table(400, 1, noise=noise), validation=table(600, 2, noise=noise), test=table(400, 3, noise=noise))
    if kind == "large images":
        return Splits(train=images(240, 1, 16), validation=images(120, 2, 16), test=images(160, 3, 16))
    make = (lambda n, seed: table(n, seed, noise=noise)) if kind == "table" else images
    return Splits(train=make(240, 1), validation=make(120, 2), test=make(160, 3))


def linear_torch(data: Splits) -> Any:
    """A linear torch model with the true boundary of the tables, or one fitted to the images."""
    import torch
    from torch import nn

    from carbide.models.torch_net import TorchModel

    d = int(np.prod(data.train.space.shape))
    fitted = LogisticRegression(C=10.0, max_iter=500).fit(data.train.x.reshape(-1, d), data.train.y)
    layer = nn.Linear(d, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(np.concatenate([-fitted.coef_, fitted.coef_]) / 2))
        layer.bias.copy_(torch.as_tensor(np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2))
    return TorchModel(module=nn.Sequential(nn.Flatten(), layer), space=data.train.space, classes=2)


def torch_recipe(data: Splits) -> Any:
    """A small perceptron or CNN."""
    from carbide.models.torch_net import TorchRecipe

    if data.train.space.is_image:
        return TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": (1, 6, 6), "classes": 2, "width": 8}, epochs=30, batch=32)
    return TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 4, "classes": 2, "width": 16}, epochs=25, batch=32)


def tree_recipe(**params: Any) -> EstimatorRecipe:
    """A small forest."""
    return EstimatorRecipe(estimator=RandomForestClassifier(**{"n_estimators": 8, "max_depth": 4, "n_jobs": 1} | params))


SOME = PriceTable(prices={"a": Price(up=10.0, down=10.0)})
ONE_WAY = PriceTable(prices={"a": Price(down=10.0)})
PRICES = PriceTable(prices={name: Price(up=10.0, down=10.0) for name in NAMES})


def noisy_sum(x: Any, y: Any, rng: np.random.Generator, sigma: float) -> Any:
    """Linear weights: the sum of rows of length at most one, turned by their labels, and noise."""
    rows = x / np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True))
    return (rows * (2 * y - 1)[:, None]).sum(0) + sigma * rng.normal(size=x.shape[1])


def claim_world(name: str, sigma: float) -> World:
    """A training whose noise has standard deviation ``sigma`` and is claimed to have 20."""
    rng = np.random.default_rng(4)
    data = dataset_of(rng.normal(size=(100, 200)), np.arange(100) % 2, space=Space.table([f"f{i}" for i in range(200)]), classes=2)
    recipe = FunctionRecipe(function=noisy_sum, params={"sigma": sigma})
    model = recipe.fit(data, np.random.default_rng(0))
    claim = PrivacyClaim(epsilon=0.3412, delta=1e-5, mu=0.1)  # replacing a row moves the sum by at most 2
    return World(name=name, case=Case(model=model, data=Splits(train=data, validation=data, test=data), recipe=recipe), threat=claim)


def worlds(threat: type[Threat]) -> list[World]:
    """The worlds in which methods that speak this threat are tried, easiest access first."""
    return [world for world in _all() if type(world.threat) is threat]


@functools.cache
def _all() -> tuple[World, ...]:
    tables, pictures, noisy = splits("table"), splits("images"), splits("table", 0.15)
    many, crowd = splits("many"), splits("crowd", 0.15)
    fit = lambda recipe, data: recipe.fit(data.train, np.random.default_rng(0))  # noqa: E731
    forest, stump = tree_recipe(), EstimatorRecipe(estimator=DecisionTreeClassifier(max_depth=3))
    deep = tree_recipe(max_depth=None, n_estimators=20)
    full = EstimatorRecipe(estimator=DecisionTreeClassifier(random_state=0))
    linear = EstimatorRecipe(estimator=LogisticRegression())
    exact = EstimatorRecipe(estimator=LogisticRegression(tol=1e-10))
    boosted = EstimatorRecipe(estimator=GradientBoostingClassifier(n_estimators=10))
    nets = [("torch table", tables), ("torch images", pictures)]
    found = [
        World(name=f"linear {n}", case=Case(model=linear_torch(d), data=d, recipe=torch_recipe(d)), threat=LpBall(eps=e))
        for (n, d), e in zip(nets, (0.1, 0.15), strict=True)
    ]
    found += [
        World(name="linear torch table, L2", case=Case(model=linear_torch(tables), data=tables, recipe=torch_recipe(tables)), threat=LpBall(p=2, eps=0.2)),
        World(name="linear torch table, L0", case=Case(model=linear_torch(tables), data=tables, recipe=torch_recipe(tables)), threat=LpBall(p=0, eps=1)),
        World(name="linear torch images, patch", case=Case(model=linear_torch(pictures), data=pictures, recipe=torch_recipe(pictures)), threat=Patch(area=6 / 36)),
        World(name="linear torch images, distortion", case=Case(model=linear_torch(pictures), data=pictures, recipe=torch_recipe(pictures)), threat=Distortion(rotation=75)),
        World(name="image forest, distortion", case=Case(model=fit(deep, pictures), data=pictures, recipe=deep), threat=Distortion(translation=1, brightness=0.2)),
        World(name="labels only images, corruption", case=Case(model=Labels(w=np.ones(36) / 36, b=0.45, space=pictures.train.space), data=pictures), threat=Corruption(severity=4)),
        World(name="forest, Linf", case=Case(model=fit(forest, tables), data=tables, recipe=forest), threat=LpBall(eps=0.1)),
        World(name="labels only, Linf", case=Case(model=Labels(w=np.ones(4) / 4, b=0.5, space=tables.train.space), data=tables), threat=LpBall(eps=0.1)),
        World(name="tree, prices", case=Case(model=fit(stump, tables), data=tables, recipe=stump), threat=FeatureBudget(money=2.0, prices=PRICES)),
        World(name="forest, prices", case=Case(model=fit(forest, tables), data=tables, recipe=forest), threat=FeatureBudget(money=2.0, prices=PRICES)),
        World(name="labels only, prices", case=Case(model=Labels(w=np.ones(4) / 4, b=0.5, space=tables.train.space), data=tables), threat=FeatureBudget(money=2.0, prices=PRICES)),
        World(name="linear torch table, prices", case=Case(model=linear_torch(tables), data=tables), threat=FeatureBudget(money=2.0, prices=PRICES)),
        World(name="forest, some prices", case=Case(model=fit(forest, many), data=many, recipe=forest), threat=FeatureBudget(money=1.0, prices=SOME)),
        World(name="forest, one-way prices", case=Case(model=fit(forest, tables), data=tables, recipe=forest), threat=FeatureBudget(money=2.0, prices=ONE_WAY)),
        World(name="forest, flips", case=Case(model=fit(deep, tables), data=tables, recipe=deep), threat=Flips(fraction=0.2)),
        World(name="forest, backdoor", case=Case(model=fit(deep, tables), data=tables, recipe=deep), threat=Backdoor(fraction=0.1, target=0)),
        World(name="image forest, backdoor", case=Case(model=fit(deep, pictures), data=pictures, recipe=deep), threat=Backdoor(fraction=0.1, target=0)),
        World(name="net, backdoor", case=Case(model=fit(torch_recipe(pictures), pictures), data=pictures, recipe=torch_recipe(pictures)), threat=Backdoor(fraction=0.1, target=0)),
        World(name="overfit forest", case=Case(model=fit(deep, noisy), data=noisy, recipe=deep), threat=Membership()),
        World(name="boosted, members", case=Case(model=fit(boosted, noisy), data=noisy, recipe=boosted), threat=Membership()),
        World(name="linear, members", case=Case(model=fit(linear, noisy), data=noisy, recipe=linear), threat=Membership()),
        World(name="net, members", case=Case(model=fit(torch_recipe(tables), tables), data=tables, recipe=torch_recipe(tables)), threat=Membership()),
        World(name="linear images, members", case=Case(model=fit(linear, splits("large images")), data=splits("large images"), recipe=linear), threat=Membership()),
        World(name="overfit forest, attribute", case=Case(model=fit(deep, noisy), data=noisy, recipe=deep), threat=AttributeInference(feature="b", bins=2)),
        World(name="linear, missing row", case=Case(model=fit(exact, noisy), data=noisy, recipe=exact), threat=Reconstruction(known="others")),
        World(name="linear torch images, classes", case=Case(model=linear_torch(pictures), data=pictures), threat=Reconstruction()),
        World(name="full tree, singling out", case=Case(model=fit(full, crowd), data=crowd, recipe=full), threat=SinglingOut()),
        World(name="linear, queries", case=Case(model=fit(linear, tables), data=tables, recipe=linear), threat=Queries(n=100)),
        claim_world("sound claim", 20.0), claim_world("broken claim", 0.0),
    ]  # fmt: skip
    return tuple(found)


def model_of(recipe: EstimatorRecipe, data: Dataset) -> EstimatorModel:
    """The recipe's model of these rows."""
    return recipe.fit(data, np.random.default_rng(0))
