"""How the weights of a model on disk are stored: in which type, or quantised and by what; told by its JSON files."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.checks import InputError, choice, shown

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
"""The types that are modelled, and the bytes of a value."""

_SAME = {"half": "float16", "float": "float32"}
"""Other names that torch has for them."""

_SAID_IN_CONFIG = ("quantization_config", "compression_config", "quantization")
"""Keys of config.json under which a quantisation is described."""

_SAID_BESIDE = {"hf_quant_config.json": "ModelOpt", "quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}
"""Files beside it that describe one, and whose they are."""

_METHOD = ("quant_method", "quant_algo", "format", "version", "mode")
_BITS = ("bits", "w_bit", "num_bits")


def check_dtype(dtype: object) -> None:
    """Raise InputError if a type was given that is not modelled."""
    if dtype is not None:
        choice("model.dtype", dtype, BYTES)


def stored_dtype(file: Path, config: Mapping[str, Any]) -> str | None:
    """Return the type of weights that config.json names; None if it names none.

    Args:
        file: The config.json.
        config: What it says.

    Raises:
        InputError: It names one that is not modelled, such as float8_e4m3fn.
    """
    named = next((config[key] for key in ("dtype", "torch_dtype") if config.get(key) not in (None, "", "auto")), None)
    if named is None:
        return None
    short = named.removeprefix("torch.") if isinstance(named, str) else None
    dtype = _SAME.get(str(short), short)
    if dtype not in BYTES:
        raise InputError(f"{file}: weights of type {shown(named)} are not supported; choose a model {_REMEDY}")
    return dtype


def refuse_quantised(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse weights that are quantised: they would be priced as if they were not.

    Args:
        file: The config.json.
        config: What it says.

    Raises:
        InputError: with what describes the quantisation, and which it is.
    """
    for where, described in _descriptions(file, config):
        if described:
            told = ", ".join([*_kind(described, _SAID_BESIDE.get(where)), f"says {where}"])
            raise InputError(f"{file}: quantised weights are not supported ({told}); choose a model {_REMEDY}")


_REMEDY = f"in {', '.join(BYTES)}"


def _descriptions(file: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what may describe a quantisation, and where it stands."""
    for path, part in _parts(config):
        for key in _SAID_IN_CONFIG:
            yield path + key, part.get(key)
    for name in _SAID_BESIDE:
        beside = file.parent / name
        if beside.is_file():
            yield name, _read(beside)


def _parts(config: Mapping[str, Any], path: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a configuration and those inside it, such as the text_config of a model that also sees."""
    yield path, config
    for key, value in config.items() if depth else ():
        if isinstance(value, Mapping) and key not in _SAID_IN_CONFIG:
            yield from _parts(value, f"{path}{key}.", depth - 1)


def _read(beside: Path) -> Any:
    """Return what a file says of a quantisation; None if it says that there is none."""
    try:
        said = json.loads(beside.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{beside}: no JSON to be read ({error}); fetch it again, or remove it") from None
    if isinstance(said, Mapping) and isinstance(said.get("quantization"), Mapping):
        said = said["quantization"]
        return said if said.get("quant_algo") or said.get("kv_cache_quant_algo") else None
    return said


def _kind(described: Any, owner: str | None) -> Iterator[str]:
    """Yield the words that say which quantisation is described, as far as that is said."""
    if owner:
        yield owner
    if not isinstance(described, Mapping):
        yield shown(described)
        return
    for key in _METHOD:
        if isinstance(described.get(key), str):
            yield shown(described[key]).strip("'")
    for key in _BITS:
        if isinstance(described.get(key), int):
            yield f"{described[key]} bits"
    for key in ("load_in_8bit", "load_in_4bit"):
        if described.get(key) is True:
            yield key.removeprefix("load_in_")
    if isinstance(described.get("kv_cache_quant_algo"), str):
        yield f"KV cache {shown(described['kv_cache_quant_algo'])}".replace("'", "")
