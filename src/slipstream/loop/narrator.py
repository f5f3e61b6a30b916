"""How a long piece of work talks to people, without knowing how words reach them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from slipstream.config import Progress, silent

Cell = str | int | float | None
Rows = Sequence[Sequence[Cell]]


class Narrator(Protocol):
    """The command line prints; a library call stays silent."""

    def heading(self, text: str) -> None: ...

    def line(self, text: str) -> None: ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None: ...

    def progress(self, what: str) -> AbstractContextManager[Progress]:
        """A progress bar for the length of the block."""
        ...


class Silent:
    """The narrator of library calls."""

    def heading(self, text: str) -> None:
        pass

    def line(self, text: str) -> None:
        pass

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        pass

    def progress(self, what: str) -> AbstractContextManager[Progress]:
        return nullcontext(silent)
