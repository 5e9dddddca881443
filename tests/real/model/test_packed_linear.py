import pytest
import torch
from torch import nn

from real.model.packed_linear import PackedLinear, pack_linears

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (8,), (3, 7), (129,)])
def test_packed_weights_give_the_same_product(shape: tuple[int, ...], bias: bool) -> None:
    linear = nn.Linear(40, 27, bias=bias)
    values = torch.randn(*shape, 40)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(values), linear(values))


def test_only_layers_in_fp32_that_share_no_weights_are_packed() -> None:
    embedding, tied = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    tied.weight = embedding.weight
    half = nn.Linear(4, 4, dtype=torch.bfloat16)
    module = nn.Sequential(embedding, nn.Sequential(nn.Linear(4, 4), half), tied)
    pack_linears(module, apart_from=embedding)
    inner = module[1]
    assert isinstance(inner, nn.Sequential)
    assert isinstance(inner[0], PackedLinear)
    assert inner[1] is half
    assert module[2] is tied
