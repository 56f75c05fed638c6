"""The order of pictures: everything is shown, in batches of one bucket, in an order that a step decides."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.training.batches import BatchOrder, Showing, is_flipped

PICTURES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=12)


def order(pictures: list[tuple[str, int]], batch_size: int, **changes: object) -> BatchOrder:
    buckets, repeats = zip(*pictures, strict=True)
    key = {"seed": 1, "name": "me/ink", **changes}
    return BatchOrder(buckets, repeats, batch_size=batch_size, **key)  # pyright: ignore[reportArgumentType]


@settings(max_examples=100, deadline=None)
@given(PICTURES, st.integers(1, 5))
def test_an_epoch_shows_everything_in_batches_of_one_bucket(
    pictures: list[tuple[str, int]], batch_size: int
) -> None:
    batches = order(pictures, batch_size)
    for epoch in range(2):
        steps = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        shown = [batches.batch(step) for step in steps]
        assert all(1 <= len(batch) <= batch_size for batch in shown)
        assert all(len({pictures[item.sample][0] for item in batch}) == 1 for batch in shown)
        assert {item.epoch for batch in shown for item in batch} == {epoch}
        found = Counter((item.sample, item.repeat) for batch in shown for item in batch)
        assert found == Counter(
            (sample, repeat) for sample, (_, count) in enumerate(pictures) for repeat in range(count)
        )


def test_any_step_can_be_asked_for_in_any_order() -> None:
    pictures = [("a", 2), ("b", 1), ("a", 1), ("b", 3)]
    whole = [order(pictures, 2).batch(step) for step in range(30)]
    one = order(pictures, 2)
    assert [one.batch(step) for step in reversed(range(30))] == whole[::-1]
    assert [order(pictures, 2).batch(step) for step in range(7, 30)] == whole[7:]


def test_epochs_seeds_and_adapters_have_orders_of_their_own() -> None:
    pictures = [("a", 1)] * 9
    first = order(pictures, 9).batch(0)
    others = [
        order(pictures, 9).batch(1),
        order(pictures, 9, seed=2).batch(0),
        order(pictures, 9, name="me/corgi").batch(0),
    ]
    samples = [tuple(item.sample for item in batch) for batch in (first, *others)]
    assert len(set(samples)) == 4


def test_pictures_are_flipped_half_of_the_time_by_their_own_coin() -> None:
    coins = [is_flipped(Showing(e, s, 0), seed=1, name="me/ink") for e in range(20) for s in range(50)]
    assert 430 <= sum(coins) <= 570  # beyond 4 deviations otherwise
    assert coins == [
        is_flipped(Showing(e, s, 0), seed=1, name="me/ink") for e in range(20) for s in range(50)
    ]
