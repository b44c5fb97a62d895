"""Flags that several commands have, with their help, defined once."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

Switch = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="print JSON, one object a line")]
RunFolder = Annotated[str, Parameter(help="folder of the run")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="where to compute")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    Parameter(help="number format of matrix products; auto is bf16 where the processor is fast at it"),
]
Invalid = Annotated[
    Literal["strict", "replace", "bytes"] | None,
    Parameter(name="--corpus.invalid", help="what to do with invalid UTF-8; as the run's corpus did where not given"),
]
TextFile = Annotated[str, Parameter(allow_leading_hyphen=True)]  # for - alone
