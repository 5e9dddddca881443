"""The cost model: one formula for one iteration and for many, and what each layout pays."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.datasheet import Roofline
from sim.cost.memory import kv_capacity
from sim.cost.work import Work
from tests.runs import H100, LLAMA3_8B

COST = Roofline(H100, LLAMA3_8B)
counts = st.integers(0, 300)
works = (
    st.builds(
        Work,
        rows=counts,
        held_rows=counts,
        prefill_rows=st.integers(0, 8),
        prefill_tokens=counts,
        prefill_pairs=st.integers(0, 10**6),
        prefill_padding=counts,
        prefill_padding_pairs=st.integers(0, 10**5),
        insertion_padding=counts,
        insertion_padding_pairs=st.integers(0, 10**5),
        kv_read=st.integers(0, 10**6),
        kv_held=st.integers(0, 10**5),
        kv_padding=st.integers(0, 10**5),
        kv_copied=st.integers(0, 10**5),
        kv_host=st.integers(0, 10**4),
        attention_launches=st.integers(0, 128),
        recomputed_tokens=st.just(0),
        recomputed_pairs=st.just(0),
        prefill_kv=st.integers(0, 10**5),
        dummy_rows=counts,
        kv_dummy=st.integers(0, 10**5),
    )
    .filter(lambda work: work.prefill_rows > 0 or work.prefill_pairs + work.prefill_padding_pairs == 0)
    .filter(lambda work: work.prefill_rows > 0 or work.insertion_padding_pairs + work.prefill_kv == 0)
)


@given(st.lists(works, min_size=1, max_size=20))
def test_one_iteration_costs_what_it_costs_among_many(some: list[Work]) -> None:
    columns = Work(*(np.array(column) for column in zip(*some, strict=True)))  # type: ignore[arg-type]
    np.testing.assert_allclose(COST.seconds_each(columns), [COST.seconds(work) for work in some], rtol=1e-12)


@given(works)
def test_no_iteration_beats_the_gpu(work: Work) -> None:
    seconds, demand = COST.seconds(work), COST.demand(work)
    assert demand.flops_s <= seconds * (1 + 1e-12)
    assert demand.traffic_s <= seconds * (1 + 1e-12)
    assert COST.useful_flops(work) / H100.peak_flops <= demand.flops_s
    assert COST.moved_bytes(work) / H100.memory_bandwidth <= demand.traffic_s


@given(works, st.sampled_from(Work._fields[1:]), st.integers(1, 1000))
def test_more_work_never_takes_less_time(work: Work, field: str, more: int) -> None:
    if field not in ("inserted_rows", "recomputed_tokens", "recomputed_pairs"):
        assert COST.seconds(work._replace(**{field: getattr(work, field) + more})) >= COST.seconds(work)


@given(st.integers(1, 128), st.integers(1, 2000), st.integers(1, 500))
def test_a_decode_step_grows_by_the_kv_that_its_rows_add(rows: int, length: int, steps: int) -> None:
    first = Work(rows=rows, kv_read=rows * length, attention_launches=1)
    later = first._replace(kv_read=rows * (length + steps))
    seconds, growth, alike = COST.decode_steps(rows, rows * length, rows)
    assert COST.seconds(later) == pytest.approx(seconds + steps * growth, rel=1e-12)
    assert (seconds, alike) == (COST.seconds(first), math.inf)


def test_a_decode_step_of_one_row_reads_the_weights_and_its_kv_at_the_reachable_bandwidth() -> None:
    # Llama 3 8B: 32 layers of 218.1 M weights and a head of 525 M, 2 bytes each; KV 131,072 bytes per token.
    read = (32 * 218_103_808 + 128_256 * 4096) * 2 + 1000 * 131_072
    expected = read / (0.8 * 3.35e12) + 32 * 12e-6 + 0.5e-3
    assert COST.seconds(Work(rows=1, kv_read=1000, attention_launches=1)) == pytest.approx(expected, rel=1e-9)


def test_a_long_prefill_multiplies_at_the_reachable_rate() -> None:
    work = Work(prefill_rows=1, prefill_tokens=8192, prefill_pairs=8192 * 8193 // 2, attention_launches=1)
    flops = 2 * 8192 * 32 * 218_103_808 + work.prefill_pairs * 4 * 32 * 32 * 128
    head = 128_256 * 4096 * 2 / (0.8 * 3.35e12)
    expected = flops / (0.75 * 989e12) + head + 32 * 12e-6 + 0.5e-3
    assert COST.seconds(work) == pytest.approx(expected, rel=1e-9)


def test_every_prompt_of_a_group_samples_a_token() -> None:
    one = Work(prefill_rows=1, prefill_tokens=8192, attention_launches=1)
    many = one._replace(prefill_rows=2000)
    head = 2000 * 2 * 128_256 * 4096 / (0.75 * 989e12) - 128_256 * 4096 * 2 / (0.8 * 3.35e12)
    assert COST.seconds(many) - COST.seconds(one) == pytest.approx(head, rel=1e-9)


def test_attention_per_request_pays_a_launch_per_row_and_layer() -> None:
    fused = Work(rows=32, kv_read=10_000, attention_launches=1)
    apart = fused._replace(attention_launches=32)
    assert COST.seconds(apart) - COST.seconds(fused) == pytest.approx(31 * 32 * H100.attention_launch_s)


def test_a_chunk_takes_at_least_the_time_to_read_the_kv_before_it() -> None:
    # One token after 100,000 others, of 131,072 bytes each: reading them takes 70 times longer than multiplying.
    chunk = Work(prefill_rows=1, prefill_tokens=1, prefill_pairs=100_001, prefill_kv=100_000, attention_launches=1)
    alone = COST.seconds(chunk._replace(prefill_pairs=0, prefill_kv=0))
    read_s = 100_000 * 131_072 / (0.8 * 3.35e12)
    assert COST.seconds(chunk) - alone == pytest.approx(read_s)
    # 2,048 tokens after the same take longer to multiply.
    pairs = 2048 * 100_000 + 2048 * 2049 // 2
    wide = chunk._replace(prefill_tokens=2048, prefill_pairs=pairs)
    multiply_s = pairs * 4 * 32 * 32 * 128 / (0.75 * 989e12)
    assert COST.seconds(wide) - COST.seconds(wide._replace(prefill_pairs=0, prefill_kv=0)) == pytest.approx(multiply_s)
    assert COST.moved_bytes(chunk) - COST.moved_bytes(chunk._replace(prefill_kv=0)) == 100_000 * 131_072


def test_parking_and_shaping_pay_their_bytes() -> None:
    idle = COST.seconds(Work())
    assert COST.seconds(Work(kv_host=1000)) - idle == pytest.approx(1000 * 131_072 / 64e9)
    assert COST.seconds(Work(kv_copied=1000)) - idle == pytest.approx(2 * 1000 * 131_072 / (0.8 * 3.35e12))
    assert COST.link_seconds(1000) == pytest.approx(1000 * 131_072 / 450e9)


def test_kv_memory_is_what_the_weights_leave() -> None:
    weights = (32 * 218_103_808 + 2 * 128_256 * 4096) * 2
    assert kv_capacity(H100, LLAMA3_8B) == int((0.9 * 80 * 2**30 - weights) // 131_072)
    assert kv_capacity(replace(H100, memory_bytes=160 * 2**30), LLAMA3_8B) > 2 * kv_capacity(H100, LLAMA3_8B)


@given(works)
def test_a_decode_step_costs_what_its_work_costs(work: Work) -> None:
    moved = {"kv_copied": work.kv_copied, "kv_host": work.kv_host, "attention_launches": work.attention_launches}
    rows, dummies = work.rows + 1, {"dummy_rows": work.dummy_rows, "kv_dummy": work.kv_dummy}
    kv = {"kv_read": work.kv_read, "kv_held": work.kv_held, "kv_padding": work.kv_padding}
    decode = Work(rows=rows, **kv, **moved, **dummies)
    counts = (
        rows + work.dummy_rows,
        sum(kv.values()) + work.kv_dummy,
        work.rows,
        work.attention_launches,
        work.kv_copied,
        work.kv_host,
        0,
    )
    assert COST.decode_steps(*counts)[0] == COST.seconds(decode)
