"""Numbers, lists of domains and the unit of intervals in words."""

from collections.abc import Sequence

import pandas as pd

from skipshift.names import listed, parse_shift

UNITS = (
    "Images of one patient or slide that count as separate groups make every interval too narrow."
)


def signed(value: float) -> str:
    """Format a difference with three decimals and its sign; 0 has none.

    >>> signed(0.0123), signed(-0.0123), signed(-0.0001)
    ('+0.012', '-0.012', '0.000')
    """
    text = f"{value:+.3f}"
    return text[1:] if text[1:] == "0.000" else text


def amount(size: float) -> str:
    """Format the size of a difference with three decimals, never as 0.

    >>> amount(0.0123), amount(0.0001)
    ('0.012', 'less than 0.001')
    """
    return f"{size:.3f}" if size >= 0.0005 else "less than 0.001"


def chance(p: float) -> str:
    """Format a p-value with two digits, down to a thousandth.

    >>> chance(0.0004), chance(0.0312), chance(1.0), chance(float("nan"))
    ('< 0.001', '0.031', '1', '-')
    """
    return "-" if p != p else "< 0.001" if p < 0.001 else f"{p:.2g}"


def printed(table: pd.DataFrame) -> str:
    """Lay a table out for a terminal: three decimals, p-values as `chance` has them.

    >>> print(printed(pd.DataFrame({"layer": ["e1"], "excess": [0.12345], "p": [0.0001]})))
    layer  excess       p
       e1   0.123 < 0.001
    """
    shown = table.round(3)
    return shown.to_string(index=False, na_rep="-", formatters={"p": chance, "p_adjusted": chance})


def many(domains: Sequence[str]) -> str:
    """Count domains, as shifts if all of them are synthetic.

    >>> many(["brightness:0.5", "contrast:0.5"]), many(["B"])
    ('2 shifts', 'one other domain')
    """
    shifts = [domain for domain in domains if parse_shift(domain) is not None]
    return counted(len(domains), "shift" if len(shifts) == len(domains) else "other domain")


def counted(number: int, noun: str) -> str:
    """Count in words.

    >>> counted(1, "case"), counted(2, "case")
    ('one case', '2 cases')
    """
    return f"{'one' if number == 1 else number} {noun}{'' if number == 1 else 's'}"


def on_domains(domains: Sequence[str], total: int) -> str:
    """Name up to three of ``total`` domains, or count them.

    >>> on_domains(["A", "B"], 3), on_domains(["A", "B"], 2)
    ('A and B', 'both domains')
    """
    if len(domains) == total > 1:
        return "both domains" if total == 2 else f"all {total} domains"
    return listed(domains) if len(domains) <= 3 else f"{len(domains)} of {total} domains"
