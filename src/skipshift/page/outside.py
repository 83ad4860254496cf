"""Names from outside as pages and figures show them: controls made visible, long ones cut."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import pandas as pd
from markupsafe import Markup

MOST = 48
"""Characters of a name on a page."""

_LONGEST = 10_000
"""Characters of a name that are kept to be shown on hover."""

_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Plain(str):
    """Text for an attribute: cut, but without markup."""

    __slots__ = ()


def visible(text: str) -> str:
    r"""Write characters that control a terminal, a file or the direction of writing as escapes.

    >>> visible("a\x1b[31m"), visible("a\u202eb")
    ('a\\x1b[31m', 'a\\u202eb')
    """
    return "".join(c if _is_harmless(c) else ascii(c)[1:-1] for c in text)


def _is_harmless(character: str) -> bool:
    return not (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in "\ufffe\uffff"
        or _BIDI.match(character)
    )


class Names:
    """Names that were cut for one page, each with its whole.

    >>> names = Names()
    >>> names("A"), len(names("x" * 10_000))
    ('A', 48)
    """

    def __init__(self) -> None:
        self._shown: dict[tuple[str, int], str] = {}
        self._whole: dict[str, str] = {}

    def __call__(self, name: str, most: int = MOST) -> str:
        """Return a name as it is shown: the same for the same name, another for another."""
        if (name, most) not in self._shown:
            text = visible(name[: _LONGEST + most])
            number, short = 1, text
            while len(short) > most or self._whole.get(short, name) != name:
                end = f"~{number}" * (number > 1)
                number += 1
                short = _cut(text, most - len(end)) + end
            self._shown[name, most] = short
            self._whole[short] = name
        return self._shown[name, most]

    def table(self, table: pd.DataFrame, *columns: str) -> pd.DataFrame:
        """Return a table with the names in these columns, those that it has, as they are shown."""
        own = [name for name in columns if name in table]
        return table.assign(**{name: table[name].fillna("").astype(str).map(self) for name in own})

    def every(self, values: Iterable[str]) -> tuple[str, ...]:
        """Return several names as they are shown."""
        return tuple(map(self, values))

    def settings(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return settings as text, of which more is shown than of a name in a table."""
        return {name: self(str(value), 5 * MOST) for name, value in values.items()}

    def finalize(self, value: object) -> object:
        """Give each cut name in a text of a template its whole on hover.

        Escaped, isolated from the direction of writing around it; `Plain` text is left alone.
        """
        if not isinstance(value, str) or isinstance(value, Plain) or hasattr(value, "__html__"):
            return value
        cut = [short for short, whole in self._whole.items() if short != whole and short in value]
        if not cut:
            return value
        pattern = "|".join(re.escape(short) for short in sorted(cut, key=len, reverse=True))
        parts = re.split(f"({pattern})", value)
        return Markup("").join(self._hover(part) if i % 2 else part for i, part in enumerate(parts))

    def _hover(self, short: str) -> Markup:
        whole = visible(self._whole[short][:_LONGEST])
        # the text is escaped here, so that it may be called markup
        return Markup(f'<bdi title="{escape(whole)}">{escape(short)}</bdi>')


def _cut(text: str, most: int) -> str:
    """Omit the middle of a text; its spaces do not break, so that it stays one word."""
    if len(text) <= most:
        return text
    head = most // 2
    return f"{text[:head]}…{text[len(text) - (most - head - 1) :]}".replace(" ", "\u00a0")
