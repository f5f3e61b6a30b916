"""Where bad rows go: a file of JSON lines beside the store, one line each, with place and reason."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from slipstream.artifacts import replace_text
from slipstream.events.chunks import Fault


class RejectsFile:
    """Collects bad rows of one source. The file appears with the first of them.

    `{"line": 12, "code": "bad-time", "detail": "…", "row": "as it stood, shortened"}`; the line is the row's
    number, from 1, in sources that have no lines. Its name holds the source's name and a hash of its place,
    and reading a source again replaces the file, so it always says what the last reading found.
    """

    def __init__(self, folder: Path, source: str, place: str) -> None:
        mark = hashlib.blake2b(place.encode(), digest_size=4).hexdigest()
        self.path = folder / f"{source}.{mark}.jsonl"
        self.counts: Counter[str] = Counter()
        self._stream: IO[str] | None = None
        self.path.unlink(missing_ok=True)

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.path.open("w", encoding="utf-8")
            row = {"line": fault.line, "code": str(fault.code), "detail": fault.detail, "row": fault.row}
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.counts[str(fault.code)] += 1
        if self._stream is not None:
            self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def forget_in_rejects(folder: Path, user_id: str) -> int:
    """Blank the rows of rejects files that mention a person. Returns how many rows were blanked.

    Line numbers and codes stay. A row that happens to hold the same text is blanked too: better so.
    """
    needles = {user_id, json.dumps(user_id, ensure_ascii=False)[1:-1], json.dumps(user_id)[1:-1]} - {""}
    blanked = 0
    for file in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        kept = [_blank(line) if any(needle in line for needle in needles) else line for line in lines]
        changed = sum(old != new for old, new in zip(lines, kept, strict=True))
        if changed:
            replace_text(file, "\n".join(kept) + "\n")
            blanked += changed
    return blanked


def _blank(line: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return "{}"
    texts = {key: "(forgotten)" for key, value in row.items() if isinstance(value, str) and key != "code"}
    return json.dumps({**row, **texts}, ensure_ascii=False)
