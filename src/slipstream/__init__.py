"""slipstream: from a click log and a catalogue to real-time, explained recommendations.

    import slipstream
    home = slipstream.open("shop-home")
    home.ingest("events.csv"); home.catalogue("items.csv")
    home.prepare(); home.train("transformer"); home.release()
    print(home.recommend("u42", k=10))

Importing this package loads nothing heavy: what is asked for is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from slipstream.loop.workspace import Workspace

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(home: str | Path | None = None) -> Workspace:
    """The workspace of a home folder (made when something is first written to it)."""
    from slipstream.loop.workspace import Workspace

    return Workspace(home)


def __getattr__(name: str) -> Any:
    if name == "Workspace":
        from slipstream.loop.workspace import Workspace

        return Workspace
    raise AttributeError(f"module 'slipstream' has no attribute {name!r}")
