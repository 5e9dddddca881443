"""The files of a run: complete under their final names, or not there at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from policies.checks import InputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into one line.

    Raises:
        InputError: if the file or folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be written ({reason}); choose a folder with hydra.run.dir=FOLDER") from error


def make_folder(path: Path) -> Path:
    """Make a folder, and its parents, where files can be written; return it.

    Raises:
        InputError: if it cannot be made, or no file can be written in it.
    """
    probe = path / f".{os.getpid()}.part"
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    return path


class Draft:
    """A file that has a temporary name beside its final one until it is complete.

    As a context manager it gives the temporary path, keeps the file when the block ends and drops it on any exception.

    Attributes:
        part: The temporary path.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; it is made by whoever writes to `part`."""
        self.part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._path = path

    def keep(self) -> None:
        """Give the file its final name."""
        with writing(self._path):
            os.replace(self.part, self._path)

    def drop(self) -> None:
        """Remove the file, if it is still a draft."""
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> Path:
        """Return the temporary path."""
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Keep the file, or drop it if the block failed."""
        if kind is not None:
            self.drop()
        else:
            self.keep()


class SinkFile:
    """A file that is written record by record: complete under its final name, or not there at all.

    As a context manager it drops the file if the block fails, or ends before it is complete.
    """

    def __init__(self, path: Path) -> None:
        """Name the file."""
        self._path = path
        self._draft = Draft(path)
        self._file: Any = None

    def complete(self) -> None:
        """Give the file its final name: all is written.

        Raises:
            InputError: if it cannot be written.
        """
        with writing(self._path):
            self._file.close()
        self._draft.keep()

    def abort(self) -> None:
        """Leave no file; harmless once it is complete."""
        with suppress(OSError):  # a full disk fails again as the last bytes are written
            if self._file is not None:
                self._file.close()
        self._draft.drop()

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Drop the file unless it is complete."""
        self.abort()


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write `summary.json`.

    Args:
        path: The file.
        summary: `{"policies": {NAME: {metric: value}}, "workload": ..., "hardware": ..., ...}`; no NaN, no infinity.

    Raises:
        InputError: if the file cannot be written.
        ValueError: if a value is NaN or infinite, which JSON cannot say.
    """
    text = json.dumps(summary, indent=2, allow_nan=False)
    with writing(path), Draft(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
