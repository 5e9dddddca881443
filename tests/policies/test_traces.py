"""Whole traces, worked out by hand: every iteration takes one second, two rows, requests A to D."""

import pytest

from policies.baton import Baton
from policies.orca import Orca
from policies.policy import Policy
from policies.prefill_first import PrefillFirst
from policies.run_to_completion import RunToCompletion
from tests.runs import Run, requests_of, run

A, B, C, D = (0.0, 3, 2), (0.0, 2, 4), (0.0, 4, 1), (0.0, 1, 2)


def rows(result: Run) -> list[tuple[int, int, int]]:
    """Per iteration: live rows decoded, held rows computed, prompts prefilled."""
    return [(int(record["rows"]), int(record["held_rows"]), int(record["prefill_rows"])) for record in result.log]


def test_run_to_completion_waits_for_the_longest_answer() -> None:
    result = run(requests_of([A, B, C, D]), RunToCompletion(max_batch=2))
    # t=1 A and B prefilled; 2 A ends and is held; 3, 4 B goes on; 5 C ends in its prefill, held beside D; 6 D ends.
    assert rows(result) == [(0, 0, 2), (2, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 2), (1, 1, 0)]
    assert result.finish_s == [4, 4, 6, 6]


def test_run_to_completion_releases_early_when_told_to() -> None:
    result = run(requests_of([A, B, C, D]), RunToCompletion(max_batch=2, release="early"))
    assert result.finish_s == [2, 4, 5, 6]


def test_run_to_completion_waits_for_its_batch_to_fill() -> None:
    late = [(0.0, 3, 1), (0.5, 3, 1), (9.0, 3, 1)]
    assert run(requests_of(late), RunToCompletion(max_batch=2)).finish_s == [1, 2, 10]
    assert run(requests_of(late), RunToCompletion(max_batch=2, max_wait=2.0)).finish_s == [1.5, 1.5, 12]


def test_orca_lets_a_newcomer_prefill_beside_the_others_decode() -> None:
    result = run(requests_of([A, B, C, D]), Orca(max_batch=2))
    # t=1 A, B; 2 A ends; 3 C prefilled beside B and ends; 4 D prefilled beside B, B ends; 5 D ends.
    assert rows(result) == [(0, 0, 2), (2, 0, 0), (1, 0, 1), (1, 0, 1), (1, 0, 0)]
    assert result.finish_s == [2, 4, 3, 5]


def test_inline_baton_stalls_the_batch_while_it_prefills_and_embeds_at_the_next_boundary() -> None:
    result = run(requests_of([A, B, C, D]), Baton(max_batch=2))
    # t=1 A, B in place; 2 A ends; 3 C alone, ends; 4 D alone; 5 D embedded and ends; 6 B ends.
    assert rows(result) == [(0, 0, 2), (2, 0, 0), (0, 0, 1), (0, 0, 1), (2, 0, 0), (1, 0, 0)]
    assert result.finish_s == [2, 6, 3, 5]
    assert result.log["kv_copied"].tolist() == [0, 0, 0, 0, 1, 4]  # D's prompt in; then B, of 4 tokens, moves up


def test_prefill_first_schedules_as_inline_baton_does_without_its_copies() -> None:
    baton = run(requests_of([A, B, C, D]), Baton(max_batch=2))
    control = run(requests_of([A, B, C, D]), PrefillFirst(max_batch=2))
    assert rows(control) == rows(baton)
    assert control.finish_s == baton.finish_s
    assert control.total("kv_copied") == control.total("kv_padding") == 0


@pytest.mark.parametrize("prefill", ["overlapped", "dedicated"])
def test_baton_with_a_second_lane_never_stalls_the_batch(prefill: str) -> None:
    result = run(requests_of([A, B, C, D]), Baton(max_batch=2, prefill=prefill))  # type: ignore[arg-type]
    # t=1 A, B; 2 A ends; 3 C ends on its lane, B goes on; 4 B ends, D prefilled meanwhile; 5 D ends.
    assert result.finish_s == [2, 4, 3, 5]
    assert [record["lane"] for record in result.log if record["prefill_rows"]] == [1, 1, 1]


def test_a_group_waits_only_for_free_rows_and_max_prefill_bounds_it() -> None:
    four = requests_of([(0.0, 2, 3)] * 4)
    assert rows(run(four, Baton(max_batch=4)))[0] == (0, 0, 4)
    assert [prompts for _, _, prompts in rows(run(four, Baton(max_batch=4, max_prefill=3)))][:3] == [3, 1, 0]


def test_prefill_ahead_lets_requests_wait_ready_for_a_row() -> None:
    # With a place ahead, C is prefilled at t=2 while A and B run, and takes A's row as soon as A ends at t=3.
    three = requests_of([(0.0, 2, 2), (0.0, 2, 4), (0.0, 2, 2)])
    plain, ahead = run(three, Baton(max_batch=2)), run(three, Baton(max_batch=2, prefill_ahead=1))
    assert rows(plain) == [(0, 0, 2), (2, 0, 0), (0, 0, 1), (2, 0, 0), (1, 0, 0)]
    assert rows(ahead) == [(0, 0, 2), (0, 0, 1), (2, 0, 0), (2, 0, 0), (1, 0, 0)]


def test_orca_stops_at_the_first_that_does_not_fit() -> None:
    # 10 slots: A reserves 6, B would need 6 and must wait, and C, which would fit, does not overtake it.
    requests = requests_of([(0.0, 3, 3), (0.0, 3, 3), (0.0, 1, 1)])
    assert run(requests, Orca(max_batch=3), kv_tokens=10).finish_s == [3, 6, 4]


def test_under_priority_a_row_loses_its_turn_and_keeps_its_reservation() -> None:
    requests = requests_of([(0.0, 3, 4), (1.5, 3, 2)], priority=[1, 0])
    result = run(requests, Orca(max_batch=1, order="priority"))
    # t=1, 2 the first; the urgent one arrives at 1.5, runs to 4; the first resumes without a second prefill.
    assert result.finish_s == [6, 4]
    assert result.request_log.preemptions == {0: 1}
    assert result.total("prefill_tokens") == 6


def test_shortest_job_first_orders_newcomers() -> None:
    requests = requests_of([(0.0, 9, 9), (0.0, 1, 1), (0.0, 5, 5)])
    assert run(requests, Orca(max_batch=1, order="sjf")).finish_s == [15, 1, 6]


def test_window_reserve_parks_the_newest_row_and_resumes_it_without_a_second_prefill() -> None:
    # Two rows of 200 tokens get 200 + 1 + 256 columns each. At a window of 457 the next rectangle, 2 x 714, and the
    # old one, 2 x 457, do not fit into 2000 together: the newer row, of 457 tokens, moves to host memory after 258 of
    # its 400 tokens, and returns once the older one has left.
    requests = requests_of([(0.0, 200, 400), (0.0, 200, 400)])
    result = run(requests, Baton(max_batch=2, reserve="window"), kv_tokens=2000)
    assert result.request_log.preemptions == {1: 1}
    assert result.finish_s == [400, 400 + (400 - 258)]
    assert result.total("prefill_tokens") == 400
    assert result.total("kv_host") == 2 * 457
    assert result.total("kv_copied") == 457  # the older row, into the larger rectangle


def test_window_reserve_parks_everything_when_no_row_can_grow_beside_its_old_rectangle() -> None:
    requests = requests_of([(0.0, 200, 400), (0.0, 200, 400)])
    result = run(requests, Baton(max_batch=2, reserve="window"), kv_tokens=1500)
    assert result.request_log.preemptions == {0: 1, 1: 1}
    assert result.finish_s == [258 + 1 + 142, 258 + 1 + 142 + 142]
    assert result.total("kv_host") == 4 * 457


def test_prefill_first_drops_the_newest_row_and_recomputes_it() -> None:
    # Two rows of 32 + 32 tokens need 4 blocks each in the end; with 6 the newer one is dropped, and prefilled again
    # over its prompt and what it had generated.
    requests = requests_of([(0.0, 32, 32), (0.0, 32, 32)])
    result = run(requests, PrefillFirst(max_batch=2), kv_tokens=6 * 16)
    assert result.request_log.preemptions == {1: 1}
    again = [int(record["prefill_tokens"]) for record in result.log if record["prefill_rows"]]
    assert again == [64, 32 + 17]
    assert result.total("recomputed_tokens") == 48  # all but the token it goes on with
    assert result.total("recomputed_pairs") == 48 * 49 // 2
    assert result.engine.request_log.finished == 2


@pytest.mark.parametrize("policy", [Orca(max_batch=1), Baton(max_batch=1), RunToCompletion(max_batch=1)])
def test_one_row_serves_in_order_of_arrival(policy: Policy) -> None:
    assert run(requests_of([(0.0, 4, 3), (0.1, 4, 2), (20.0, 4, 1)]), policy).finish_s == [3, 5, 21]


def test_prefill_first_bounds_the_tokens_of_one_prefill_and_lets_a_longer_prompt_go_alone() -> None:
    requests = requests_of([(0.0, 60, 2), (0.0, 30, 2), (0.0, 30, 2), (0.0, 500, 2)])
    result = run(requests, PrefillFirst(max_batch=4, max_batched_tokens=100))
    assert [int(tokens) for tokens in result.log["prefill_tokens"] if tokens] == [90, 30, 500]


def test_paged_memory_admits_a_prompt_only_with_room_for_its_next_token() -> None:
    # 4 blocks: a prompt of 32 takes 2 and its next token a third, so two such prompts do not go together.
    requests = requests_of([(0.0, 32, 2), (0.0, 32, 2)])
    assert run(requests, PrefillFirst(max_batch=2), kv_tokens=64).finish_s == [2, 4]
    assert run(requests, PrefillFirst(max_batch=2), kv_tokens=96).finish_s == [2, 2]


def test_rectangular_orca_computes_every_row_as_wide_as_the_newcomer() -> None:
    # A row of 3 + 1 tokens decodes beside a newcomer of 10: two rows of 10 slots against a window of 10.
    result = run(requests_of([(0.0, 3, 3), (1.5, 10, 2)]), Orca(max_batch=2, layout="rectangular"))
    shared = result.log[2]
    assert (shared["rows"], shared["prefill_rows"]) == (1, 1)
    assert shared["insertion_padding"] == 2 * 10 - 10 - 1
    assert shared["insertion_padding_pairs"] == 2 * 10 * 10 - 10 - 10 * 11 // 2
    assert shared["kv_read"] + shared["kv_padding"] == 10


def test_attention_per_request_launches_a_kernel_per_row_and_newcomer() -> None:
    requests = requests_of([(0.0, 3, 3), (0.0, 3, 3), (1.5, 10, 2)])
    launches = run(requests, Orca(max_batch=3, attention="per_request")).log["attention_launches"]
    assert launches.tolist() == [2, 2, 3, 1]
    assert set(run(requests, Orca(max_batch=3)).log["attention_launches"]) == {1}


@pytest.mark.parametrize("stretch", [True, False])
def test_a_newcomer_that_moves_the_batch_to_a_smaller_rectangle_makes_room_for_the_next(stretch: bool) -> None:
    """60 tokens. The first request leaves a rectangle of 4 rows of 7; the others need 10 columns.

    Beside the old rectangle (28) and room for one newcomer (10) there is space for 2 rows of 10, so the second request
    is admitted and the third is not. Beside the new one (20) there is space for 3 rows: one iteration later it is.
    """
    result = run(
        requests_of([(0.0, 2, 5), (1.5, 5, 5), (1.5, 5, 5)]),
        Orca(max_batch=4, layout="rectangular"),
        kv_tokens=60,
        stretch=stretch,
    )
    assert result.log["prefill_rows"].tolist() == [1, 0, 1, 1, 0, 0, 0, 0]
    assert result.finish_s == [5.0, 7.0, 8.0]
