"""Compiles the kernels for GPUs, without one; prints as JSON what shared memory they take, and how many there are."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from real.model import kernels
from real.model.attention import Places

NUMBERS = {"scale": "fp32", "epsilon": "fp32"}
POINTERS = {
    "lengths": "*i64",
    "table": "*i64",
    "partial": "*fp32",
    "at": "*i64",
    "slopes": "*fp32",
}
VALUE_BYTES = {"bf16": 2, "fp32": 4}


def shared_memory(kernel: Any, capability: int, dtype: str, **constants: Any) -> int:
    """Compile a kernel, its pointers but for `POINTERS` to values of `dtype`; return its shared memory."""
    pointers = {"query", "keys", "values", "cosines", "sines", "out", "both", "projected", "query_scales", "key_scales"}
    types = {
        name: "constexpr"
        if name in constants
        else POINTERS.get(name, NUMBERS.get(name, f"*{dtype}" if name in pointers else "i32"))
        for name in kernel.arg_names
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=types, constexprs=places)
    return int(triton.compile(source, target=GPUTarget("cuda", capability, 32)).metadata.shared)


def attention(capability: int, dtype: str, width: int, group: int, table: bool, slopes: bool) -> int:
    padded = triton.next_power_of_2(max(width, kernels.LEAST_QUERIES))
    return shared_memory(
        kernels._attend_split,
        capability,
        dtype,
        WIDTH=width,
        PADDED_WIDTH=padded,
        HEADS=32,
        GROUP=group,
        QUERIES=max(kernels.LEAST_QUERIES, triton.next_power_of_2(group)),
        COLUMNS=kernels.columns_of(padded, VALUE_BYTES[dtype]),
        TABLE=table,
        SLOPES=slopes,
    )


def turned(capability: int, dtype: str, normed: bool, placed: bool) -> int:
    return shared_memory(
        kernels._turn,
        capability,
        dtype,
        HALF=64,
        PADDED_HALF=64,
        HEADS=32,
        KV_HEADS=8,
        BLOCK=kernels.TURNED,
        NORMED=normed,
        PLACED=placed,
    )


class Forms:
    """The forms of kernels that launches would compile: one for each set of types, constants and specialised values."""

    def __init__(self) -> None:
        """Start without any."""
        self.found = defaultdict[str, set[str]](set)

    def of(self, name: str) -> Any:
        """Stand for a kernel."""
        kernel = getattr(kernels, name)
        bind = create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32)))

        class Kernel:
            def __getitem__(_, grid: Any) -> Callable[..., None]:
                return lambda *given, **named: self.found[name].add(str(bind(*given, **named)[1]))

        return Kernel()


def forms() -> dict[str, int]:
    """Count the forms of each kernel that a model needs, whatever rows, lengths and capacity its steps have.

    Steps are those of all layouts, and of prefills; rows begin anywhere in tensors of lengths and in tables.
    """
    forms = Forms()
    for name in ("_attend_split", "_join_splits", "_turn", "_gate"):
        setattr(kernels, name, forms.of(name))
    kernels.processors = lambda device: 132  # type: ignore[assignment]
    heads, kv_heads, width = 8, 4, 64
    for rows, capacity, whole in itertools.product((1, 2, 3, 16, 17, 64), (1, 15, 16, 100, 128, 2048), (False, True)):
        shape = (rows, kv_heads, capacity, width)
        key, pool = torch.empty(shape, dtype=torch.bfloat16), torch.empty(300, kv_heads, width, dtype=torch.bfloat16)
        lengths, at = torch.empty(2, rows, dtype=torch.int64)
        query, table = torch.empty(rows, heads, width, dtype=torch.bfloat16), torch.empty(rows, capacity).long()
        kernels.attend_rows(query, key, key, 0.1, lengths, whole=whole)
        kernels.attend_rows(query, pool, pool, 0.1, at, table)
        kernels.attend_rows(query[-1:], pool, pool, 0.1, at[-1:], table[-1:])
        places = Places(key, key, at, torch.arange(rows)), Places(pool, pool, lengths), Places(pool, pool, at)
        for queries, place in [(1, each) for each in places] + [(1, None), (capacity, None)]:
            projected = torch.empty(rows, queries, heads + 2 * kv_heads, width, dtype=torch.bfloat16)
            turns = torch.empty(2, rows, queries, width, dtype=torch.bfloat16)
            kernels.turn(projected, turns[0], turns[1], kv_heads, None, place)
            kernels.gate_by_silu(projected.flatten(2))
    return {name: len(found) for name, found in forms.found.items()}


def main() -> None:
    """Compile some of all shapes; count the forms of one model."""
    taken = {
        "Llama 3 8B in bf16 on an H200": attention(90, "bf16", 128, 4, table=False, slopes=False),
        "the same from a pool": attention(90, "bf16", 128, 4, table=True, slopes=False),
        "wide heads in fp32 on a smaller GPU": attention(86, "fp32", 256, 8, table=False, slopes=False),
        "BLOOM on an A100": attention(80, "bf16", 80, 1, table=False, slopes=True),
        "splits": shared_memory(
            kernels._join_splits, 90, "bf16", WIDTH=128, PADDED_WIDTH=128, MOST=kernels.MOST_SPLITS
        ),
        "heads": turned(90, "bf16", normed=False, placed=False),
        "heads of Qwen 3 in their places": turned(80, "bf16", normed=True, placed=True),
        "gate": shared_memory(kernels._gate, 90, "bf16", BLOCK=kernels.GATED),
    }
    print(json.dumps({"shared": taken, "forms": forms()}))


if __name__ == "__main__":
    main()
