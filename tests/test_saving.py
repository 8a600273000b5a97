import resource
import subprocess
import sys

import pytest
import tiny_rag

from rag_finetune.encoders.saving import save_network


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_weights_may_be_read_by_whoever_may_read_the_configuration(tmp_path, mode):
    encoder = tiny_rag.context_encoder()
    encoder.model.config.save_pretrained(tmp_path)
    (tmp_path / "config.json").chmod(mode)
    save_network(encoder.model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode


def test_a_full_disk_is_an_error_of_the_operating_system(tmp_path):
    code = f"""
import resource, signal, tiny_rag
from pathlib import Path
from rag_finetune.encoders.saving import save_network
model = tiny_rag.context_encoder().model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, {resource.RLIM_INFINITY}))
try:
    save_network(model, Path({str(tmp_path / "out")!r}))
except OSError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="tests", check=True
    )
    assert done.stdout.startswith("refused: ") and "out" in done.stdout
