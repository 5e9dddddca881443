"""Downloading one file, checked, with a progress bar; the file appears whole or not at all."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from workloads.recorded.places import lock

CHUNK_BYTES = 64 * 1024
TIMEOUT_S = 30.0


class DownloadError(Exception):
    """A download that failed; its text is the reason, in a few words."""


def download(url: str, target: Path, sha256: str) -> None:
    """Download a file to `target`, whose folder is created if need be.

    The bytes go to a temporary file beside the target, which takes its name once the checksum is right and is removed
    on any failure, an interruption included.

    Raises:
        DownloadError: if the server, the network, the checksum or the folder fails us.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file, part = _begun(target)
    except OSError as error:
        raise DownloadError(f"cannot write to {target.parent}: {error.strerror}") from None
    try:
        with file:
            found = _fetch(url, file, target.name)
        if found != sha256:
            raise DownloadError(f"the file's SHA-256 is {found}, expected {sha256}")
        os.replace(part, target)
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise DownloadError(f"no connection: {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"the transfer failed: {error or type(error).__name__}") from None
    finally:
        part.unlink(missing_ok=True)


def _begun(target: Path) -> tuple[BinaryIO, Path]:
    """Return a new locked file beside the target, and its path."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        file = os.fdopen(handle, "wb")
        if lock(file):  # else another run took it for what a killed one left
            return file, Path(name)
        file.close()


def _fetch(url: str, file: BinaryIO, label: str) -> str:
    """Copy what the address holds to the file and return its SHA-256 in hex, showing progress on stderr."""
    digest = hashlib.sha256()
    received = 0
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        task = progress.add_task(f"Downloading {label}", total=total)
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            progress.update(task, advance=len(chunk))
    if total is not None and received < total:
        raise DownloadError(f"the transfer ended after {received} of {total} bytes")
    return digest.hexdigest()
