"""The rules hold on every kind of store."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def on_each_store(each_store: None) -> None:
    """Run every test of this folder once for each kind of store."""
