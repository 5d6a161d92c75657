"""One worker of pytest for a release, so that its environment is made once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer


class _ByRelease(LoadScopeScheduling):
    """Gives all tests of a release to one worker.

    ``xdist_group`` would say it in a mark: beside pytest 9.2 xdist 3.8 takes no notice of it
    (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        release = re.search(r"\[(.+)\]$", nodeid)
        return release[1] if release else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByRelease:
    """Hand out the tests by release."""
    return _ByRelease(config, log)
