"""Every error slipstream raises on purpose, in one tree.

    SlipstreamError
    ├── UsageError              the call is wrong (exit 2)
    │   ├── ConfigError           a setting that does not exist or is out of bounds
    │   ├── UnknownName           a name nobody registered
    │   ├── Diverged              a training whose settings lead nowhere
    │   └── OverBudget            a budget that no form of the model keeps
    ├── DataError               the data is wrong or not there (exit 3)
    │   ├── BadInput              a file or row that cannot be read
    │   ├── CorruptArtifact       a file that is not what was written
    │   └── NotThere              a step that has not been done yet
    └── Unavailable             not here, or not now (exit 4)
        ├── MissingExtra          an optional dependency is not installed
        ├── Busy                  another process holds it
        └── StorageFull           the disk, or the bound set for a file, is full

A message names the thing, what it must be and what it is; `hint` is the way out. Anything else that
escapes is our bug (exit 1).
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class SlipstreamError(Exception):
    """Base of all. `code` is stable and machine-readable, `hint` says what to do next."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; subclasses have constructors of their own.
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[SlipstreamError], message: str, hint: str) -> SlipstreamError:
    error = kind.__new__(kind)
    SlipstreamError.__init__(error, message, hint=hint)
    return error


class UsageError(SlipstreamError):
    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    code = "config"


class UnknownName(UsageError):
    """A name nobody registered: lists the known ones, the nearest first."""

    code = "unknown-name"

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        ranked = sorted(known, key=lambda k: (-difflib.SequenceMatcher(None, name, k).ratio(), k))
        listed = ", ".join(ranked) if ranked else "none"
        super().__init__(f"there is no {what} named {name!r}", hint=f"known: {listed}")


class Diverged(UsageError):
    """The loss or a gradient is no longer a number: a learning rate or a precision does not fit the data."""

    code = "diverged"


class OverBudget(UsageError):
    """No rung of the ladder keeps the budget: the message says what each one has instead."""

    code = "over-budget"


class DataError(SlipstreamError):
    code = "data"
    exit_code = 3


class BadInput(DataError):
    code = "bad-input"


class CorruptArtifact(DataError):
    code = "corrupt"


class NotThere(DataError):
    code = "not-there"


class Unavailable(SlipstreamError):
    code = "unavailable"
    exit_code = 4


class MissingExtra(Unavailable):
    """An optional dependency is missing; the hint is the command that installs it."""

    code = "missing-extra"

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed",
            hint=f"pip install 'slipstream[{extra}]'",
        )


class Busy(Unavailable):
    code = "busy"


class StorageFull(Unavailable):
    code = "storage-full"


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})  # a disk, a quota, a bound set for a file


def of_system(error: OSError) -> Unavailable:
    """What the operating system refused (a full disk, a missing permission) in our terms."""
    where = f"{error.filename}: " if error.filename else ""
    said = f"{where}{error.strerror or error}"
    if _is_full(error):
        return StorageFull(said, hint="free some space, then run it again: nothing is half written")
    return Unavailable(said, hint="is the path right, and may this user read and write it?")


def _is_full(error: OSError) -> bool:
    """NumPy tells of a short write in words only, Polars of every error."""
    if error.errno is not None:
        return error.errno in _FULL
    told = re.search(r"os error (\d+)", str(error))
    return int(told[1]) in _FULL if told else " requested and " in str(error)
