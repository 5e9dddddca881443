"""Hardware files: how a calibrated GPU is written, so that a person can read it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sim.calibrated import Calibrated
from sim.results import Draft, writing

WIDTH = 118
_LEFT_OUT = ("engine", "tensor_parallel")


def write_hardware(path: Path, gpu: Calibrated, heading: str) -> None:
    """Write a hardware file.

    Args:
        path: The file.
        gpu: What it describes.
        heading: A line on where it comes from.

    Raises:
        InputError: The file cannot be written.
    """
    lines = [f"# {heading}", *_object(gpu, 0)]
    with writing(path), Draft(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _object(value: Any, indent: int) -> Iterator[str]:
    pad = " " * indent
    yield f"{pad}_target_: {type(value).__module__}.{type(value).__name__}"
    for field in fields(value):
        item = getattr(value, field.name)
        if field.name in _LEFT_OUT or item is None or item in ((), ""):
            continue
        yield from _entry(field.name, item, indent)


def _entry(name: str, value: Any, indent: int) -> Iterator[str]:
    pad = " " * indent
    if is_dataclass(value):
        yield f"{pad}{name}:"
        yield from _object(value, indent + 2)
    elif isinstance(value, Mapping):
        yield f"{pad}{name}:"
        for key, item in value.items():
            yield from _entry(str(key), item, indent + 2)
    elif isinstance(value, list | tuple) and is_dataclass(value[0]):
        yield f"{pad}{name}:"
        for item in value:
            first, *rest = _object(item, indent + 4)
            yield f"{pad}  - {first.strip()}"
            yield from rest
    elif isinstance(value, list | tuple) and isinstance(value[0], list | tuple):
        yield f"{pad}{name}:"
        yield from _rows(value, indent + 2)
    elif isinstance(value, list | tuple):
        yield from _flow(f"{pad}{name}: ", value)
    else:
        yield f"{pad}{name}: {_scalar(value)}"


def _rows(rows: Sequence[Any], indent: int) -> Iterator[str]:
    """One row of a table per line, longer ones folded; a table of tables as a list of lists of rows."""
    pad = " " * indent
    for row in rows:
        if isinstance(row[0], list | tuple):
            inner = list(_rows(row, indent + 2))
            yield f"{pad}- {inner[0].strip()}"
            yield from inner[1:]
        else:
            yield from _flow(f"{pad}- ", row)


def _flow(head: str, values: Sequence[Any]) -> Iterator[str]:
    """A row of numbers as text, folded."""
    line, pad = head + '"', " " * (len(head) - len(head.lstrip()) + 2)
    for place, value in enumerate(values):
        word = _scalar(value) + ('"' if place == len(values) - 1 else "")
        if len(line) + len(word) + 1 > WIDTH:
            yield line.rstrip()
            line = pad
        line += word + " "
    yield line.rstrip()


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 1e6 and float(f"{value:.4g}") == value else repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return f'"{value}"' if isinstance(value, str) and ":" in value else str(value)
