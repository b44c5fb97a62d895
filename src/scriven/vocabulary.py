"""Characters or bytes <-> ids. Every text has ids, and every id sequence made from a text gives that text back.

Ids of one vocabulary, with C known symbols and V = C + 1:

- `0 .. C-1`: the known symbols, sorted by code point (all 256 values where the unit is the byte);
- `C`: `<unk>`, what the model reads and predicts in place of a symbol that it does not know;
- `V + code point`: a symbol that is not known, kept so that nothing is lost; the model reads it as `<unk>`.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from scriven.errors import InputError
from scriven.settings import Unit

UNICODE_SIZE = 0x110000  # code points: 1,114,112
Ids = npt.NDArray[np.int64]
