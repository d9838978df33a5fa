"""The rows of each split, and what a series lacks for them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_a2.errors import UserError
from keras_a2.recurrent import splits

SHARES = st.lists(st.integers(5, 80), min_size=3, max_size=3).filter(lambda parts: sum(parts) <= 100)


@settings(max_examples=100, deadline=None)
@given(shares=SHARES, sees=st.integers(1, 90), ahead=st.integers(1, 40), rows=st.integers(0, 30))
def test_the_rows_asked_for_are_enough_and_one_fewer_is_not(shares, sees, ahead, rows):
    for split in (",".join(str(part / 100) for part in shares), splits.BOOK):

        def needed(rows: int, split: str = split) -> int | None:
            try:
                splits.split_bounds(split, rows, sees, ahead)
            except UserError as error:
                return int(re.search(r"at least (\d+) rows", str(error))[1])
            return None

        asked = needed(rows)
        if asked is not None:
            assert needed(asked - 1) == asked
            assert [needed(more) for more in range(asked, asked + 120)] == [None] * 120


def test_a_split_by_rows_that_is_too_small_is_to_be_enlarged():
    with pytest.raises(UserError, match=r"the validation split 20; one window needs 24 .* with --split"):
        splits.split_bounds("60,20,30", 1000, 5, 24)
