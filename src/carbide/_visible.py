r"""Words from data and plans as people may see them: what would steer a terminal, or turn the reading order, is spelled out.

>>> print(visible("a\x1b[31mb\x07"))
a\x1b[31mb\x07
"""

from __future__ import annotations

import re

_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # controls but tab and newline, and turns of direction


def visible(words: str) -> str:
    """The words with each control character as its escape; tabs and newlines stay."""
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), words)
