"""Who waits: somebody always does, as long as nobody has to go."""

from __future__ import annotations

import pytest

from ringrift_dagster.defs.cluster.watching import Watchers


def test_of_several_that_have_waited_for_long_enough_one_leaves() -> None:
    watchers = Watchers()
    with watchers.another(0.0, 60.0) as first, watchers.another(0.0, 60.0) as second:
        assert first.may_leave(has_news=False)
        assert not second.may_leave(has_news=False)
        assert first.may_leave(has_news=False), "it has left"
        with watchers.another(60.0, 60.0):
            assert second.may_leave(has_news=False)


@pytest.mark.parametrize("has_news", [False, True])
def test_one_that_is_alone_stays_until_it_must_go(has_news: bool) -> None:
    watchers = Watchers()
    with watchers.another(0.0, 60.0) as alone:
        assert not alone.may_leave(has_news=has_news)
    with watchers.another(0.0, 0.0) as late:
        assert late.may_leave(has_news=has_news)


def test_news_are_told_as_soon_as_another_waits() -> None:
    watchers = Watchers()
    with watchers.another(60.0, 60.0) as first, watchers.another(60.0, 60.0):
        assert not first.may_leave(has_news=False)
        assert first.may_leave(has_news=True)
