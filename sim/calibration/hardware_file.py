"""Hardware files: how a calibrated GPU is written, its facts as YAML and its tables beside them as JSON."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sim.calibration.command import CONF
from sim.config.table_file import SHIPPED, TABLES
from sim.cost.kernels.calibrated import Calibrated
from sim.output.writing import Draft, writing

_LEFT_OUT = ("engine", "tensor_parallel")
"""What a run says of the hardware, not its file."""


def write_hardware(path: Path, gpu: Calibrated, heading: str) -> None:
    """Write a hardware file, and its tables under the same name with the suffix .json.

    Args:
        path: The file; in conf/ it names its tables so that a copy of it finds them.
        gpu: What it describes.
        heading: A line on where it comes from.

    Raises:
        InputError: A file cannot be written.
    """
    settings = {name: value for name, value in _settings(gpu).items() if name not in _LEFT_OUT}
    tables = {name: value for name, value in settings.items() if isinstance(value, dict | list)}
    facts = {name: value for name, value in settings.items() if name not in tables}
    _write(path.with_suffix(".json"), json_rows(tables))
    lines = [f"# {heading}", *(f"{name}: {_scalar(value)}" for name, value in facts.items())]
    _write(path, "\n".join([*lines, f"{TABLES}: {_name(path.with_suffix('.json'))}"]))


def _name(tables: Path) -> str:
    """Return how the hardware file beside it names a file of tables."""
    path, conf = tables.resolve(), CONF.resolve()
    return SHIPPED + path.relative_to(conf).as_posix() if path.is_relative_to(conf) else tables.name


def _write(path: Path, text: str) -> None:
    with writing(path), Draft(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def _settings(value: Any) -> dict[str, Any]:
    """Return an object as the settings that it can be built of; what is empty is left out."""
    given = {field.name: getattr(value, field.name) for field in fields(value)}
    kept = {name: _plain(item) for name, item in given.items() if item is not None and item not in ((), "")}
    return {"_target_": f"{type(value).__module__}.{type(value).__name__}", **kept}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _settings(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def json_rows(value: Any, indent: str = "") -> str:
    """Return plain containers as JSON, a row of numbers per line."""
    if isinstance(value, Mapping):
        return _block(
            "{}", (f"{json.dumps(str(key))}: {json_rows(item, indent + ' ')}" for key, item in value.items()), indent
        )
    if isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value):
        return _block("[]", (json_rows(item, indent + " ") for item in value), indent)
    return json.dumps(value, allow_nan=False)


def _block(brackets: str, items: Iterable[str], indent: str) -> str:
    inner = f",\n{indent} ".join(items)
    return f"{brackets[0]}\n{indent} {inner}\n{indent}{brackets[1]}"


def _scalar(value: Any) -> str:
    """Return a fact as YAML; 1e-5 needs a point to be a number there."""
    if isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 1e6 and float(f"{value:.4g}") == value else repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and ":" in value else str(value)
