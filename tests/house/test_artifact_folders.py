"""Artifacts: whole or not there, every byte checked, nothing unpickled."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from slipstream.artifacts import MANIFEST, WITHOUT_SUM, open_artifact, writing
from slipstream.errors import BadInput, CorruptArtifact, NotThere


def write_example(path: Path, value: int = 1) -> None:
    with writing(path, "example", {"value": value}) as writer:
        writer.array("numbers", np.arange(5) * value)
        writer.array("empty", np.zeros((0, 3), np.float32))
        writer.json("about", {"value": value})
        with writer.part("inner", "example-part", {"deep": True}) as inner:
            inner.array("more", np.ones(3))


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    write_example(tmp_path / "a", 3)
    artifact = open_artifact(tmp_path / "a", "example")
    assert artifact.meta == {"value": 3}
    assert artifact.array("numbers").tolist() == [0, 3, 6, 9, 12]
    assert artifact.array("empty").shape == (0, 3)
    assert artifact.json("about") == {"value": 3}
    part = artifact.part("inner")
    assert (part.kind, part.meta, part.array("more").sum()) == ("example-part", {"deep": True}, 3.0)
    assert artifact.size() == sum(
        f.stat().st_size for f in (tmp_path / "a").rglob("*") if f.name != MANIFEST and f.is_file()
    )


def test_arrays_are_read_only(tmp_path: Path) -> None:
    write_example(tmp_path / "a")
    with pytest.raises(ValueError, match="read-only"):
        open_artifact(tmp_path / "a", "example").array("numbers")[0] = 7


def test_every_changed_byte_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    write_example(tmp_path / "a")
    for file in [f for f in (tmp_path / "a").rglob("*") if f.is_file() and f.name != MANIFEST]:
        original = file.read_bytes()
        for place in {0, len(original) // 2, len(original) - 1}:
            changed = bytearray(original)
            changed[place] ^= 1
            file.write_bytes(bytes(changed))
            with pytest.raises(CorruptArtifact, match=file.name):
                open_artifact(tmp_path / "a", "example")
        file.write_bytes(original)
    open_artifact(tmp_path / "a", "example")


def test_a_changed_letter_of_the_manifest_is_refused(tmp_path: Path) -> None:
    """Whatever it said: a kind, a setting, a length, the format, a checksum."""
    write_example(tmp_path / "a", 3)
    manifest = tmp_path / "a" / MANIFEST
    text = manifest.read_text()
    for place in [n for n, letter in enumerate(text) if letter.isalnum()]:
        manifest.write_text(text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :])
        with pytest.raises(CorruptArtifact, match="manifest"):
            open_artifact(tmp_path / "a", "example")
    manifest.write_text(text.replace('"value": 3', '"value": 4'))
    with pytest.raises(CorruptArtifact, match="was changed"):
        open_artifact(tmp_path / "a", "example")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', "\x00\xff"])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    write_example(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).write_text(text)
    with pytest.raises(CorruptArtifact, match=MANIFEST):
        open_artifact(tmp_path / "a", "example")


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    write_example(tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "0" * 64}
    manifest["format"] = WITHOUT_SUM
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifact, match="secret"):
        open_artifact(tmp_path / "a", "example")


def test_a_missing_file_a_missing_folder_another_kind_and_another_format(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="no example"):
        open_artifact(tmp_path / "nothing", "example", made_by="run it")
    write_example(tmp_path / "a")
    with pytest.raises(CorruptArtifact, match="not a snapshot"):
        open_artifact(tmp_path / "a", "snapshot")
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(CorruptArtifact, match="format 99"):
        open_artifact(tmp_path / "a", "example")
    write_example(tmp_path / "a")
    (tmp_path / "a" / "about.json").unlink()
    with pytest.raises(CorruptArtifact, match=r"about.json is missing"):
        open_artifact(tmp_path / "a", "example")


def test_python_objects_are_never_stored(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Python objects"), writing(tmp_path / "a", "example") as writer:
        writer.array("objects", np.array([{}, None], dtype=object))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_artifact(tmp_path: Path) -> None:
    write_example(tmp_path / "a", 1)

    def stop_halfway() -> None:
        with writing(tmp_path / "a", "example") as writer:
            writer.json("about", {})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        stop_halfway()
    assert open_artifact(tmp_path / "a", "example").json("about") == {"value": 1}


def test_a_swap_stopped_between_its_two_renames_is_finished_on_opening(tmp_path: Path) -> None:
    write_example(tmp_path / "a", 1)
    (tmp_path / "a").rename(tmp_path / ".a.old-123")
    assert open_artifact(tmp_path / "a", "example").json("about") == {"value": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 needs POSIX")
def test_a_killed_writer_leaves_the_old_artifact_or_the_new_one(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, pathlib, numpy as np
        from slipstream.artifacts import writing
        value = 0
        while True:
            value += 1
            with writing(pathlib.Path(sys.argv[1]), "example", {"value": value}) as writer:
                writer.array("numbers", np.full(200_000, value))
                writer.json("about", {"value": value})
            print(value, flush=True)
        """
    )
    for pause in (0.0, 0.013, 0.041):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "a")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(pause)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        artifact = open_artifact(tmp_path / "a", "example")
        assert (artifact.array("numbers") == artifact.meta["value"]).all()
        assert artifact.meta["value"] >= 3
