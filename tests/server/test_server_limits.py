"""Every bound is documented, with its value."""

from pathlib import Path

from scriven.server.limits import LIMITS

PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def test_the_page_has_every_bound() -> None:
    rows = [f"| `{name}` | {value:,.0f} | {means} |" for name, value, means in LIMITS.table()]
    table = PAGE.read_text("utf-8").partition("## Bounds")[2].strip().splitlines()
    assert table[2:] == rows
