"""The product of queries, keys and values: one query without a mask, and thousands of tokens without padding."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from real.model.attention import Attention, alibi_slopes

HEADS, KV_HEADS, WIDTH = 4, 2, 16


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("slopes", [None, alibi_slopes(HEADS)])
def test_a_last_query_sees_all_without_a_mask(
    kind: str, slopes: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask would keep fused kernels from it."""
    torch.manual_seed(0)
    kv_heads = KV_HEADS if slopes is None else HEADS
    query, (key, value) = torch.randn(1, HEADS, 1, WIDTH), torch.randn(2, 1, kv_heads, 7, WIDTH)
    attention = Attention(kind, slopes)
    masked = attention(query, key, value, 0.25, torch.ones(1, 1, 1, 7, dtype=torch.bool))
    masks: list[Any] = []

    def product(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **named: Any) -> Tensor:
        masks.append(mask)
        return scaled_dot_product_attention(query, key, value, mask, **named)

    monkeypatch.setattr("real.model.attention.scaled_dot_product_attention", product)
    torch.testing.assert_close(attention(query, key, value, 0.25), masked)
    if kind == "sdpa" and slopes is None:
        assert masks == [None]


class OneByOne(TorchDispatchMode):
    """Lets `index_add_` add up in the type of its result, term by term, as a GPU does; a CPU often adds in fp32."""

    def __torch_dispatch__(self, operator: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        if operator is not torch.ops.aten.index_add_.default:
            return operator(*given, **(named or {}))
        total, _, index, terms = given
        for column, added in zip(total.flatten(1).unbind(1), terms.flatten(1).unbind(1), strict=True):
            column.copy_(torch.zeros_like(column).index_add_(0, index, added))
        return total


def exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return attention of one query [heads, head_dim] over its tokens, in double precision."""
    key, value = (part.double().repeat_interleave(HEADS // KV_HEADS, dim=1) for part in (key, value))
    weights = (torch.einsum("hd,thd->ht", query.double(), key) * scale).softmax(-1)
    return torch.einsum("ht,thd->hd", weights, value)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 3e-3)])
def test_a_sum_over_thousands_of_tokens_keeps_its_terms(dtype: torch.dtype, error: float) -> None:
    torch.manual_seed(0)
    lengths = [3, 4000, 700]
    query = (torch.randn(len(lengths), HEADS, WIDTH) * 0.3).to(dtype)
    key = (torch.randn(sum(lengths), KV_HEADS, WIDTH) * 0.3).to(dtype)
    value = (torch.randn(sum(lengths), KV_HEADS, WIDTH) + 1).to(dtype)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    distance = torch.cat([torch.arange(1 - length, 1) for length in lengths])
    with OneByOne():  # type: ignore[no-untyped-call]
        got = Attention("sdpa", None).ragged(query, key, value, 0.25, row, distance)
    assert got.dtype is dtype
    for place, length in enumerate(lengths):
        own = row == place
        assert int(own.sum()) == length
        wanted = exact(query[place], key[own], value[own], 0.25)
        assert float((got[place].double() - wanted).abs().max() / wanted.abs().max()) < error
