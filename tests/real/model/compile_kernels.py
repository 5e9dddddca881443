"""Compiles the kernels for GPUs, without one; prints the shared memory that each takes, in bytes, as JSON."""

import json
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from real.model import kernels

NUMBERS = {"scale": "fp32"}
POINTERS = {
    "lengths": "*i64",
    "table": "*i64",
    "partial": "*fp32",
    "most": "*fp32",
    "total": "*fp32",
    "slopes": "*fp32",
}
VALUE_BYTES = {"bf16": 2, "fp32": 4}


def shared_memory(kernel: Any, capability: int, dtype: str, **constants: Any) -> int:
    """Compile a kernel, its pointers but for `POINTERS` to values of `dtype`; return its shared memory."""
    pointers = {"query", "keys", "values", "cosines", "sines", "out", "both"}
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
        GROUP=group,
        QUERIES=max(kernels.LEAST_QUERIES, triton.next_power_of_2(group)),
        SPLITS=8,
        COLUMNS=kernels.columns_of(padded, VALUE_BYTES[dtype]),
        TABLE=table,
        SLOPES=slopes,
    )


def main() -> None:
    """Compile some of all shapes."""
    taken = {
        "Llama 3 8B in bf16 on an H200": attention(90, "bf16", 128, 4, table=False, slopes=False),
        "the same from a pool": attention(90, "bf16", 128, 4, table=True, slopes=False),
        "wide heads in fp32 on a smaller GPU": attention(86, "fp32", 256, 8, table=False, slopes=False),
        "BLOOM on an A100": attention(80, "bf16", 80, 1, table=False, slopes=True),
        "splits": shared_memory(
            kernels._join_splits, 90, "bf16", WIDTH=128, PADDED_WIDTH=128, SPLITS=8, PADDED_SPLITS=8
        ),
        "heads": shared_memory(kernels._rotate, 90, "bf16", HALF=64, PADDED_HALF=64),
        "gate": shared_memory(kernels._gate, 90, "bf16", BLOCK=kernels.GATED),
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
