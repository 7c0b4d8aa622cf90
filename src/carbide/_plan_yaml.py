"""YAML as plans are written in it: safe, numbers as YAML 1.2 has them, and no key twice.

>>> read_yaml("delta: 1e-5")
{'delta': 1e-05}
>>> read_yaml("seed: 1\\nseed: 2")
Traceback (most recent call last):
    ...
carbide._plan_yaml.RepeatedKey: 'seed' at line 2
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class RepeatedKey(Exception):
    """A key that a mapping has twice, and the line of the second."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise RepeatedKey(f"{key.value!r} at line {key.start_mark.line + 1}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789"))


def read_yaml(text: str) -> Any:
    """The value of a text.

    Raises:
        yaml.YAMLError: if it is no YAML.
        RepeatedKey: if a mapping has a key twice.
    """
    return yaml.load(text, _Loader)
