"""The points of a sweep: each is run by itself, whatever becomes of the others, and all are gathered into one table."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.checks import InputError
from sim.output.folder import POINT
from sim.output.writing import Draft, make_folder, writing

if TYPE_CHECKING:
    import pyarrow as pa


SWEEP = "sweep.json"
"""The arguments of a sweep, in its folder."""

FINISHED = "finished"
FAILED = "failed"

PACKAGES = ("policies", "workloads", "sim", "real", "conf")
SHIPPED = (".py", ".json", ".csv", ".html")
"""What files of these packages that results depend on end in; the YAML of conf/ is in every configuration."""

PATH_OPTIONS = ("path", "measured", "texts", "tables")
"""Options that name a file or folder whose content matters."""

FACTS = ("workload", "hardware", "model", "num_requests", "arrivals", "max_new_tokens", "kv_tokens", "version")
"""What of a summary every row of the table says, beside the metrics."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination of values.

    Attributes:
        folder: Where its results go.
        number: Its place in the sweep, from 0.
        overrides: Its arguments, such as `workload.rate=4` or `+policy=orca`.
        fingerprint: Digest of all that its results depend on, see `fingerprint`; empty if it cannot be composed.
    """

    folder: Path
    number: int
    overrides: tuple[str, ...]
    fingerprint: str = ""

    @property
    def finished(self) -> bool:
        """Whether it was run to its end before, with the very same configuration, files and program."""
        found = _read(self.folder / POINT)
        return bool(self.fingerprint) and (found.get("status"), found.get("fingerprint")) == (
            FINISHED,
            self.fingerprint,
        )

    def record(self, error: str | None = None, defect: bool = False) -> None:
        """Say on disk what became of it.

        Args:
            error: Why it failed; None: it finished.
            defect: Whether the fault is ours rather than the input's.

        Raises:
            InputError: if the file cannot be written.
        """
        made = make_folder(self.folder) / POINT
        facts = {**asdict(self), "status": FAILED if error else FINISHED, "error": error, "defect": defect}
        del facts["folder"]
        with writing(made), Draft(made) as part:
            part.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def fingerprint(*configurations: Any) -> str:
    """Return a digest of all that a point's results depend on.

    Args:
        configurations: Plain containers, the composed configuration and those of its policies. Files and folders that
            they name count by size and time of change, the program by its source and the data that it ships.
    """
    digest = hashlib.sha256(json.dumps(configurations, sort_keys=True, default=str).encode())
    for path in _named_files(configurations):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    digest.update(program_digest(Path(__file__).parents[2]))
    return digest.hexdigest()


@cache
def program_digest(home: Path) -> bytes:
    """Return a digest of the program in a folder, its source and all data that it ships, as when first asked for."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        for shipped in sorted((home / package).rglob("*")):
            if shipped.suffix in SHIPPED:
                digest.update(shipped.read_bytes())
    return digest.digest()


def _named_files(settings: Any, paths: bool = False) -> Iterator[Path]:
    """Yield the files that options name, one or several of them, and those in and below the folders that they name.

    Args:
        settings: Plain containers.
        paths: Whether texts are paths.
    """
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _named_files(value, key in PATH_OPTIONS)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _named_files(value, paths)
    elif paths and isinstance(settings, str):
        path = Path(settings).expanduser()
        yield from [path] if path.is_file() else sorted(child for child in path.rglob("*") if child.is_file())


def sweep_id(arguments: Sequence[str]) -> str:
    """Return a short name of a sweep, the same for the same arguments in any order; how it is launched is left out."""
    return hashlib.sha256("\n".join(sorted(_own(arguments))).encode()).hexdigest()[:8]


def _own(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if not argument.lstrip("+~").startswith(("hydra.", "hydra/"))]


def open_sweep(folder: Path, arguments: Sequence[str]) -> None:
    """Claim the folder of a sweep.

    Raises:
        InputError: if it holds another sweep, or cannot be written.
    """
    try:
        path = make_folder(folder) / SWEEP
    except InputError as error:
        raise InputError(str(error).replace("hydra.run.dir", "hydra.sweep.dir")) from None
    own = sorted(_own(arguments))
    if path.exists() and (found := _read(path).get("arguments")) != own:
        told = " ".join(map(str, found)) if isinstance(found, list) else "an unreadable one"
        raise InputError(f"hydra.sweep.dir={folder} holds another sweep ({told}): choose another folder, or remove it")
    with writing(path), Draft(path) as part:
        part.write_text(json.dumps({"arguments": own}, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Gathered:
    """What a sweep came to.

    Attributes:
        rows: See `gather`.
        options: Names of the options that its points were given.
    """

    rows: list[Row]
    options: tuple[str, ...]


def gather(folder: Path) -> Gathered:
    """Return one row for each policy of each finished point, and one for each failed point, in the sweep's order.

    A row has the options of its point by their names (`policy`, `workload.rate`), what `FACTS` lists, every metric of
    `summary.json`, and `run` (the point's number), `status` (`finished` or `failed`), `error`, `defect` (whether the
    error is ours), `folder`.
    """
    points = [(found, path.parent) for path in folder.glob(f"*/{POINT}") if (found := _read(path))]
    points.sort(key=lambda point: int(point[0].get("number", 0)))
    names = dict.fromkeys(_option(override)[0] for found, _ in points for override in found["overrides"])
    return Gathered([row for found, place in points for row in _rows(found, place)], tuple(names))


def _rows(point: Mapping[str, Any], folder: Path) -> Iterator[Row]:
    options = dict(map(_option, point["overrides"]))
    told = {key: point[key] for key in ("status", "error", "defect")}
    told = {"run": point["number"], **told, "folder": folder.name}
    summary = _read(folder / "summary.json") if point["status"] == FINISHED else {}
    metrics = summary.get("policies") or {}
    for name in metrics or [None]:
        named = {"policy": name} if name else {}
        facts = {fact: summary[fact] for fact in FACTS if fact in summary}
        yield {**told, **facts, **options, **named, **(metrics[name] if name else {})}


def _option(override: str) -> tuple[str, Any]:
    """Return name and value of an argument; numbers and switches as what they are."""
    name, _, text = override.lstrip("+~").partition("=")
    try:
        value = json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        value = text
    return name, value if isinstance(value, str | int | float | bool | None) else text


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write `sweep.parquet`.

    Raises:
        InputError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    with writing(path), Draft(path) as part:
        pq.write_table(table, part)


def _column(values: list[Any]) -> "pa.Array":
    """Return a column of one type: that of its values, or text where they differ in kind."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array([None if value is None else float(value) for value in values])
    if len(kinds) > 1:
        return pa.array([None if value is None else str(value) for value in values])
    return pa.array(values)


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; empty if there is none, or what is there was never completed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def in_words(rows: Sequence[Row], folder: Path, files: Sequence[str]) -> str:
    """Return what a sweep came to, in one or two lines."""
    failed = sorted({row["run"] for row in rows if row["status"] == FAILED})
    total = len({row["run"] for row in rows})
    lines = [f"Sweep: {folder} ({', '.join(files)}), {total - len(failed)} of {total} points finished"]
    if failed:
        few = ", ".join(map(str, failed[:8])) + (", ..." if len(failed) > 8 else "")
        lines.append(
            f"error: {len(failed)} of {total} points failed ({few}): sweep.parquet says why; the same command tries "
            "them again"
        )
    return "\n".join(lines)
