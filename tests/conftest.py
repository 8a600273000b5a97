"""Settings that must stand before any import, and fixtures that many tests share."""

import os

# No test may reach for the network, and none should wait for the Hub to not answer.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def squad() -> Path:
    """The folder of real text beside the checkout; it is no part of the package."""
    folder = ROOT.parent / "shared" / "data" / "squad"
    if not folder.is_dir():
        pytest.skip("real text (../shared/data/squad) is not here")
    return folder
