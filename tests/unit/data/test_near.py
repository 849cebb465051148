"""What is near: found without a look at each pair, none missed; and texts that ask the same of a picture."""

import numpy as np
import pytest

from drift.data.near import NEAR_BITS, NearImages, same_question


def hashes(seed: int, count: int, alike: int) -> np.ndarray:
    """Random hashes in families: each a copy of one of ``alike`` with up to 60 bits turned."""
    draw = np.random.default_rng(seed)
    bits = draw.integers(0, 2, (alike, 256), dtype=np.uint8)[draw.integers(0, alike, count)]
    for row, turned in zip(bits, draw.integers(0, 60, count), strict=True):
        row[draw.choice(256, turned, replace=False)] ^= 1
    return np.packbits(bits, axis=1).view(np.uint64)


@pytest.mark.parametrize(("count", "alike"), [(0, 1), (1, 1), (300, 1), (300, 7), (900, 400)])
def test_by_bands_the_same_images_are_near_as_by_all_pairs(count: int, alike: int) -> None:
    there, asked = hashes(1, count, alike), hashes(2, 200, alike)
    asked = np.concatenate([asked, there[:50]])
    found = [near.tolist() for near in NearImages(there).of(asked)]
    distances = np.bitwise_count(asked[:, None] ^ there[None]).sum(axis=2)
    assert found == [np.flatnonzero(row <= NEAR_BITS).tolist() for row in distances]
    assert count < 300 or sum(map(len, found)) > 50


def test_a_bit_turned_in_each_of_32_places_is_near_and_one_more_is_not() -> None:
    draw = np.random.default_rng(0)
    for turned, near in ((NEAR_BITS, [0]), (NEAR_BITS + 1, [])):
        for _ in range(50):
            bits = np.zeros((1, 256), dtype=np.uint8)
            bits[0, draw.choice(256, turned, replace=False)] = 1
            other = np.packbits(bits, axis=1).view(np.uint64)
            assert [places.tolist() for places in NearImages(np.zeros((1, 4), dtype=np.uint64)).of(other)] == [near]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Find the area of the triangle.", "What is the area of the triangle?", True),
        ("compute 12 + 1", "CALCULATE 12 + 1!", True),
        ("What is the value of x in the figure?", "As shown in the figure, find the value of x.", True),
        ("How many birds are on the wire?", "Look carefully: count the birds on the wire, please", True),
        ("Find angle ABC.", "Determine the angles ABC", True),
        ("A ladder leans on wall B.", "a ladder leans on wall B", True),
        ("What is the area of the triangle?", "What is the perimeter of the triangle?", False),
        ("Find the length of side AB.", "Find the length of side BC.", False),
        ("Find angle A.", "Find angle B.", False),
        ("find x", "find y", False),
        ("What is 3 times 45?", "What is 3 times 46?", False),
        ("How many red balls are there?", "How many blue balls are there?", False),
        ("Is the cat black?", "Is the black cat sleeping?", False),
        ("Which bar is tallest?", "Which bar is shortest?", False),
        ("Is the cat on the box?", "Is the cat under the box?", False),
        ("What is shown?", "What is given?", False),
    ],
)
def test_texts_that_ask_the_same_have_numbers_names_and_content_in_common(one: str, other: str, same: bool) -> None:
    assert same_question(one, other) == same_question(other, one) == same
