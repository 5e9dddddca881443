"""Real prompts: text in, tokens for the engine."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from policies.checks import InputError
from sim.cost.model import Model
from workloads.demand import counted
from workloads.recorded.contents import refuse_pointer
from workloads.requests import Requests


def read_texts(path: Path) -> list[str]:
    """Read prompts: a .jsonl file has one object with `prompt` per line, any other one prompt per line.

    Blank lines are skipped.

    Raises:
        InputError: The file cannot be read, holds no prompt, or a line of it is none.
    """
    refuse_pointer(path.expanduser())
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"texts={path}: cannot be read ({error.strerror}); give a file of prompts") from None
    except UnicodeDecodeError:
        raise InputError(f"texts={path}: not UTF-8 text; convert it") from None
    texts = list(_prompts(path, lines) if path.suffix == ".jsonl" else filter(str.strip, lines))
    if not texts:
        raise InputError(f"texts={path}: holds no prompt; give one per line")
    return texts


def _prompts(path: Path, lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prompt = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            prompt = None
        if not isinstance(prompt, str) or not prompt:
            raise InputError(f'texts={path}, line {number}: no object with a text "prompt"; correct it')
        yield prompt


def with_texts(
    requests: Requests, texts: Sequence[str], tokenizer: Any, model: Model
) -> tuple[Requests, list[list[int]]]:
    """Give every request a text as its prompt, over and over if there are fewer texts than requests.

    Args:
        requests: The workload; arrivals and output lengths stay.
        texts: The prompts.
        tokenizer: The model's.
        model: Its dimensions.

    Returns:
        The requests, their prompts as long as the texts, and the tokens of each.

    Raises:
        InputError: A text has no token, or one that the model does not know.
    """
    tokens = [list(tokenizer(text)["input_ids"]) for text in texts[: len(requests)]]
    if [] in tokens:
        raise InputError(f"texts: prompt {tokens.index([]) + 1} has no token in this model; remove it")
    most = max(map(max, tokens))
    if most >= model.vocabulary:
        raise InputError(
            f"texts: the tokenizer of model={model.name} gives token {most}, and the model knows {model.vocabulary:,}, "
            "counted from 0: the two do not belong together; fetch the model again"
        )
    prompts = list(islice(cycle(tokens), len(requests)))
    note = f"prompts are {counted(len(tokens), 'text')}"
    if len(tokens) < len(requests):
        note += f", repeated for {len(requests):,} requests"
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    none = np.zeros_like(lengths)
    served = replace(
        requests, prompt_tokens=lengths, prefix_id=none - 1, prefix_tokens=none, notes=(*requests.notes, note)
    )
    return served, prompts
