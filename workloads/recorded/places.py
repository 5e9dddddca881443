"""Where published trace files are: the path given, $BATON_DATA, or the user's cache, into which they are downloaded."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from policies.checks import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class PublishedFile:
    """A trace file with a fixed official place.

    Attributes:
        folder: its folder under $BATON_DATA.
        name: its file name.
        url: its official place.
        sha256: checksum of its bytes, hex; only downloads are held to it.
    """

    folder: str
    name: str
    url: str
    sha256: str

    def locate(self, path: str | None) -> Path:
        """Return the file: `path` if given, else under $BATON_DATA, else in the user's cache, downloaded if absent.

        Raises:
            InputError: if the path given is no file, or nothing is found and the download fails.
        """
        if path is not None:
            return given_file(path)
        for found in in_data_folder(self.folder, self.name):
            return found
        cached = cache_folder() / self.name
        clear_parts(cached)
        if not cached.is_file():
            # What speaks HTTP takes a while to import: only those who download shall pay.
            from workloads.recorded.download import DownloadError, download

            try:
                download(self.url, cached, self.sha256)
            except DownloadError as error:
                raise InputError(
                    f"{self.name} was not found and could not be downloaded ({error}): get it from {self.url} and give "
                    f"workload.path=FILE, or put it into the folder $BATON_DATA, or at {cached}"
                ) from None
        return cached


def given_file(path: object, option: str = "workload.path") -> Path:
    """Return the path that the user gave.

    Args:
        path: What was given.
        option: By which option.

    Raises:
        InputError: if there is nothing.
    """
    check_path(option, path)
    assert isinstance(path, str)
    given = Path(path if os.path.exists(path) else os.path.expanduser(path))
    if not os.path.exists(given):
        raise InputError(f"{option}={path}: there is no such file: correct the path")
    return given


def check_path(option: str, path: object) -> None:
    """Raise InputError unless this can be a path."""
    if not isinstance(path, str) or not path.strip():
        raise InputError(f"{option} is {path!r}: give the path of a file")


def in_data_folder(folder: str, pattern: str) -> list[Path]:
    """Return the files under $BATON_DATA, in `folder` or else directly, whose names match the pattern, sorted."""
    root = os.environ.get("BATON_DATA")
    if not root:
        return []
    for place in (Path(root) / folder, Path(root)):
        found = sorted(file for file in place.glob(pattern) if file.is_file())
        if found:
            return found
    return []


def lock(file: IO[bytes]) -> bool:
    """Lock what is being downloaded, so that `clear_parts` leaves it; return whether it is still there."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX)
    return os.fstat(file.fileno()).st_nlink > 0


def clear_parts(target: Path) -> None:
    """Remove what downloads of a file left that were killed; those still running hold a lock on theirs."""
    if fcntl is None:
        return
    for part in target.parent.glob(f".{target.name}.*.part"):
        with contextlib.suppress(OSError), open(part, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def cache_folder() -> Path:
    """Return the folder `baton` in the user's cache: $XDG_CACHE_HOME, or ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "baton"
