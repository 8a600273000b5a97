"""Settings that must stand before any import, and fixtures that many tests share."""

import os

# No test may reach for the network, and none should wait for the Hub to not answer.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gc
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRAINED = "RAG_FINETUNE_TRAINED"  # names the folder that the workers share; see trained_rag.py


def pytest_configure(config: pytest.Config) -> None:
    """Make what the workers share, and have pytest-xdist keep the order that is made below."""
    if TRAINED not in os.environ:  # workers inherit it
        os.environ[TRAINED] = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(TRAINED), ignore_errors=True))
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(trylast=True)  # when those that are not to be run are out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that are given most time, then with those of most tests.

    A file is one worker's: a long one that is begun last keeps the others waiting.
    """
    allowed: dict[Path, float] = {}
    for item in items:
        marker = item.get_closest_marker("timeout")
        allowed[item.path] = max(allowed.get(item.path, 0), marker.args[0] if marker else 0)
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-allowed[item.path], -tests[item.path]))


def pytest_collection_finish() -> None:
    """Set aside what the imports have left: every training collects garbage, a few times over."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def squad() -> Path:
    """The folder of real text beside the checkout; it is no part of the package."""
    folder = ROOT.parent / "shared" / "data" / "squad"
    if not folder.is_dir():
        pytest.skip("real text (../shared/data/squad) is not here")
    return folder
