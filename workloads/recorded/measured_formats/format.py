"""How a format is recognised, and which one a file is in."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from policies.checks import InputError
from workloads.recorded.contents import Contents, recognised
from workloads.recorded.measured_formats.run import MeasuredRun

Objects = list[tuple[str, dict[str, Any]]]
"""JSON objects, each with its place, such as `line 7`."""

READ = (
    "what vLLM's or SGLang's benchmark or AIPerf saved of each request, or a table of arrival_s, prompt_tokens, "
    "output_tokens, ttft_s, e2e_s"
)
"""What can be read, in words."""


class Format(Protocol):
    """One way of saving what was measured."""

    def fits(self, keys: Mapping[str, Any]) -> bool:
        """Return whether a file is in this format.

        Args:
            keys: Its first JSON object; of a table, its columns, and None for each.
        """

    def read(self, path: Path, objects: Objects) -> MeasuredRun:
        """Return the run.

        Args:
            path: The file.
            objects: Its JSON objects, at least one; of CSV and Parquet none.

        Raises:
            InputError: if something in it is wrong, or the format does not hold what is needed.
        """


def read_run(path: Path) -> MeasuredRun:
    """Read a measured run in whichever format its file is, whatever its name.

    Raises:
        InputError: if it is missing, of no format that can be read, or something in it is wrong.
    """
    contents = recognised(path)
    objects, keys = _content(contents)
    for known in _formats():
        if known.fits(keys):
            return known.read(path, objects)
    listed = ", ".join(" ".join(key.split())[:40] for key in list(keys)[:8]) + (", ..." if len(keys) > 8 else "")
    raise InputError(f"{path}: is no measured run that is known (it has {listed or 'nothing'}): give {READ}")


def _formats() -> tuple[Format, ...]:
    """Return the formats that are known: those that can be read before the rest."""
    from workloads.recorded.measured_formats.aiperf import AIPerf
    from workloads.recorded.measured_formats.own_table import OwnTable
    from workloads.recorded.measured_formats.unusable import UNUSABLE
    from workloads.recorded.measured_formats.vllm import VLLM, SGLang

    return (SGLang(), VLLM(), AIPerf(), OwnTable(), *UNUSABLE)


def _content(contents: Contents) -> tuple[Objects, Mapping[str, Any]]:
    """Return the JSON objects of a file, if it has any, and the keys by which its format is recognised."""
    if contents.format in ("csv", "parquet"):
        from workloads.recorded.formats import column_names

        return [], dict.fromkeys(column_names(contents.path))
    objects = _objects(contents)
    if not objects:
        raise InputError(f"{contents.path}: an empty list: give {READ}")
    return objects, objects[0][1]


def _objects(contents: Contents) -> Objects:
    """Return the JSON objects; a single one may be spread over lines in any way."""
    try:
        return list(contents.objects())
    except InputError:
        if contents.format != "jsonl":
            raise
        try:
            return list(replace(contents, format="json").objects())
        except InputError:
            pass
        raise
