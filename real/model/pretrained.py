"""Models with their own weights, from disk or from the Hugging Face hub: safetensors only, and no code but ours."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from policies.checks import InputError
from real.model.network import DTYPES, Network, device_of
from sim.config.pretrained import Pretrained
from sim.engine.execution import EAGER, Execution
from workloads.recorded.contents import refuse_pointer

DESCRIPTION = ("*.json", "tokenizer*", "*.model", "vocab*", "merges.txt")
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
"""Files that are fetched from the hub: first what the model is, then its weights."""

CONSTANTS = (".attn.masked_bias", ".rotary_emb.inv_freq")
"""What old files hold beside weights, and the library computes."""


def fetch(source: Pretrained, weights: bool = True) -> Pretrained:
    """Return a model as one on disk: itself, or what the hub has under that name, downloaded if need be.

    Args:
        source: The model.
        weights: Whether the weights are wanted too.

    Raises:
        InputError: It is neither on disk nor to be had from the hub.
    """
    path = str(source.path)
    if source.file.exists() or source.place.exists() or path.count("/") > 1 or path.startswith((".", "~")):
        return source
    patterns = [*DESCRIPTION, *(WEIGHTS if weights else ())]
    try:
        folder = snapshot_download(path, allow_patterns=patterns)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(f"model.path={path}: {_complaint(error)}") from None
    return replace(source, path=folder, name=source.name or path.rpartition("/")[2])


def _complaint(error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return "the hub gives it only to those who were granted access; ask there, then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "it is neither a folder nor on the Hugging Face hub; correct the name, or log in if it is private"
    if isinstance(error, HFValidationError):
        return "it is neither a folder nor a name on the Hugging Face hub; give model.path=FOLDER or OWNER/NAME"
    if isinstance(error, HfHubHTTPError):
        return f"the Hugging Face hub answers with an error ({_first_line(error)}); try again, or give a folder"
    return (
        "it is no folder here, and the Hugging Face hub cannot be reached; give model.path=FOLDER, or try again online"
    )


def pretrained_network(
    source: Pretrained,
    device: str = "cpu",
    dtype: str | None = None,
    attention: str = "sdpa",
    execution: Execution = EAGER,
) -> Network:
    """Load a model with its own weights.

    Args:
        source: The model, on disk or on the hub.
        device: Where to.
        dtype: Type of its weights; None: as they are on disk.
        attention: `sdpa` or `eager`.
        execution: How its decode steps are run.

    Raises:
        InputError: It is not there, cannot be had, is not supported, or has no weights in safetensors.
    """
    place = device_of(device)
    source, dtype = fetch(source), dtype or source.dtype
    model = source.dimensions("float32")  # where config.json names no type, the weights tell it below
    folder = source.file.parent
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: no weights in safetensors; other formats can run code and are not loaded")
    for pattern in (*DESCRIPTION, "*.safetensors"):
        for file in sorted(folder.glob(pattern)):
            refuse_pointer(file)
    _quiet()
    respelled = _respelled(source)
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype] if dtype else "auto",
            **respelled,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except Exception as error:  # whatever a damaged file makes the library raise
        raise InputError(f"{folder}: its weights cannot be loaded ({_first_line(error)}); fetch them again") from None
    module, loaded = found
    _check_complete(folder, loaded)
    _check_type(folder, module)
    module.to(place)
    return Network(
        module,
        replace(model, bytes_per_value=module.dtype.itemsize),
        attention,
        _tokenizer(folder, respelled),
        _end_tokens(module),
        execution,
    )


def _respelled(source: Pretrained) -> dict[str, Any]:
    """Return its configuration where the library cannot read it: it knows no `torch.` before the type of weights."""
    config = source.config()
    named = {key: config[key] for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)}
    plain = {key: dtype.removeprefix("torch.") for key, dtype in named.items()}
    return {} if plain == named else {"config": AutoConfig.for_model(**{**config, **plain})}


def _check_complete(folder: Path, loaded: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the model: what a file lacks, the library would fill with random numbers.

    Args:
        folder: Where the weights lie.
        loaded: What the library says of them: keys that it did not find (of weights that are shared, only if none of
            the keys is there), keys that it does not know, and keys whose tensors have another shape.

    Raises:
        InputError: They are not.
    """
    for kind, complaint in (
        ("missing_keys", "its weights lack"),
        ("mismatched_keys", "config.json gives another shape than its weights to"),
        ("unexpected_keys", "config.json describes a model without what is among its weights,"),
    ):
        names = sorted(entry if isinstance(entry, str) else entry[0] for entry in loaded[kind])
        names = [name for name in names if not name.endswith(CONSTANTS)]
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise InputError(f"{folder}: {complaint} {names[0]}{more}; fetch it again, or correct config.json")


def _check_type(folder: Path, module: Any) -> None:
    """Refuse weights of a type that no run computes in."""
    if module.dtype not in DTYPES.values():
        found = str(module.dtype).removeprefix("torch.")
        raise InputError(f"{folder}: its weights are {found}; choose dtype={', '.join(DTYPES)}")


def _quiet() -> None:
    """Keep what transformers has to say from where an error is one line; a terminal gets its progress bar."""
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _tokenizer(folder: Path, options: Mapping[str, Any]) -> Any:
    """Return the tokenizer in a folder, None if there is none."""
    if not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **options)
    except Exception as error:
        raise InputError(f"{folder}: its tokenizer cannot be loaded ({_first_line(error)}); fetch it again") from None


def _end_tokens(module: Any) -> frozenset[int]:
    """Return the tokens that end an answer."""
    found = module.generation_config.eos_token_id
    return frozenset([found] if isinstance(found, int) else found or ())


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
