"""Work on a Ray cluster (https://docs.ray.io), where the user has named one: ``RAY_ADDRESS`` is set, or the program has called ``ray.init``.

Every item is a task of one core; tasks import Carbide where they run, so it must be installed there in the same version.

>>> named({})
False
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carbide.types import InputError


def named(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a cluster to work on."""
    if environment.get("RAY_ADDRESS"):
        return True
    ray: Any = sys.modules.get("ray")  # a program that calls ray.init has loaded it
    return ray is not None and bool(ray.is_initialized())


def size() -> int:
    """The cores of the cluster.

    Raises:
        InputError: if Ray is not installed or does not answer at the address.
    """
    return max(1, int(_joined().cluster_resources().get("CPU", 1)))


def compute(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``[work(item) for item in items]``, each on a core of the cluster.

    Raises:
        InputError: as ``size``.
    """
    ray = _joined()
    task, whole = ray.remote(num_cpus=1)(_called), ray.put(work)
    return ray.get([task.remote(whole, item) for item in items])


def _called(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)


def _joined() -> Any:
    """Ray, in touch with the cluster."""
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(f"RAY_ADDRESS is {address!r} and Ray is not installed; install it with: pip install 'carbide[ray]', or unset it") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise InputError(f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}); start it, or unset RAY_ADDRESS") from error
    return ray
