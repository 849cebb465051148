"""How many of each kind are kept, and the noisy split: counted by hand, stable, in any order."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.data.filters.capping import at_most, drawn, equal_shares
from drift.data.filters.noisy import noisy_chains
from drift.ground.errors import DataError
from tests.unit.data.test_curate import candidate


def pool(**sizes: int):
    """So many chains of each source, every third with a text answer, solved once in two."""
    return [
        candidate(id=f"{source}-{n}", source=source, answer_kind="number" if n % 3 else "text", pass_rate=0.5)
        for source, size in sizes.items()
        for n in range(size)
    ]


def sources(ids: set[str]) -> dict[str, int]:
    return dict(Counter(id.partition("-")[0] for id in ids))


@pytest.mark.parametrize(
    ("sizes", "keep", "shares"),
    [
        ({"a": 100, "b": 100}, 10, {"a": 5, "b": 5}),
        ({"a": 3, "b": 100}, 10, {"a": 3, "b": 7}),
        ({"a": 1, "b": 4, "c": 100}, 12, {"a": 1, "b": 4, "c": 7}),
        ({"a": 9, "b": 10, "c": 11}, 11, {"a": 3, "b": 4, "c": 4}),  # 11 = 3 * 3 + 2
        ({"a": 5, "b": 5}, 100, {"a": 5, "b": 5}),
        ({"a": 5, "b": 0}, 3, {"a": 3, "b": 0}),
    ],
)
def test_shares_are_equal_as_far_as_they_last(sizes, keep, shares):
    found = equal_shares({(cell,): size for cell, size in sizes.items()}, keep, seed=0)
    assert {cell: share for (cell,), share in found.items()} == shares


@given(st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 50), min_size=1), st.integers(1, 150))
def test_shares_add_up_and_no_stratum_gets_more_than_one_that_had_more_left(sizes, keep):
    shares = equal_shares({(cell,): size for cell, size in sizes.items()}, keep, seed=3)
    assert sum(shares.values()) == min(keep, sum(sizes.values()))
    highest = max(shares.values())
    for (cell,), share in shares.items():
        assert share <= sizes[cell]
        assert share == sizes[cell] or share >= highest - 1


def test_without_strata_the_draw_is_uniform_over_all():
    chains = pool(a=90, b=10)
    ids = drawn(chains, 50, seed=1)
    assert len(ids) == 50 and sources(ids)["b"] < 12
    assert {one.id for one in at_most(chains, 50, 1)[0]} == ids
    assert drawn(chains, None, seed=1, per=("source",)) == {one.id for one in chains}


def test_strata_are_sources_kinds_pass_rates_and_their_combinations():
    chains = pool(a=90, b=30) + [candidate(id=f"c-{n}", source="c", pass_rate=1.0) for n in range(30)]
    assert sources(drawn(chains, 60, 0, per=("source",))) == {"a": 20, "b": 20, "c": 20}
    both = drawn(chains, 50, 0, per=("source", "kind"))
    kinds = Counter((one.source, one.answer_kind) for one in chains if one.id in both)
    assert kinds == {(source, kind): 10 for source in "ab" for kind in ("number", "text")} | {("c", "text"): 10}
    assert sources(drawn(chains, 40, 0, per=("pass_rate",)))["c"] == 20


def test_the_order_of_the_pool_does_not_matter_and_the_seed_does():
    chains = pool(a=50, b=21)
    shuffled = random.Random(0).sample(chains, len(chains))
    assert drawn(chains, 31, 5, ("source",)) == drawn(shuffled, 31, 5, ("source",))
    assert drawn(chains, 31, 5, ("source",)) != drawn(chains, 31, 6, ("source",))


@pytest.mark.parametrize("per", [(), ("source",), ("source", "kind")])
def test_more_problems_do_not_reshuffle_those_there_were(per):
    before, more = pool(a=40, b=40), pool(a=70, b=90)
    old, new = drawn(before, 20, 0, per), drawn(more, 20, 0, per)
    assert new & {one.id for one in before} <= old


# -------------------------------------------------------------------------------------------- noisy


def failed(count: int, samples: int = 2):
    return [
        candidate(id=f"n-{n}", sample=sample, status="incorrect") for n in range(count) for sample in range(samples)
    ]


def test_the_noisy_split_is_one_chain_of_each_problem_that_has_none_yet():
    noisy = noisy_chains(failed(20), {"n-3", "n-4"}, 18, seed=0)
    assert sorted(one.id for one in noisy) == sorted({f"n-{n}" for n in range(20)} - {"n-3", "n-4"})
    assert {one.sample for one in noisy} == {0, 1}
    assert noisy_chains(failed(20), set(), None, seed=0) == []


def test_the_noisy_split_depends_on_the_seed_and_not_on_the_order():
    chains = failed(20)
    shuffled = random.Random(0).sample(chains, len(chains))
    assert noisy_chains(chains, set(), 7, 1) == noisy_chains(shuffled, set(), 7, 1)
    assert noisy_chains(chains, set(), 7, 1) != noisy_chains(chains, set(), 7, 2)


def test_too_few_failed_chains_are_one_line():
    with pytest.raises(DataError, match=r"curate\.noisy: 3 chains .* but 2 have one; lower it") as raised:
        noisy_chains(failed(3), {"n-0"}, 3, seed=0)
    assert "\n" not in str(raised.value)
