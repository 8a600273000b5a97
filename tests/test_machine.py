import sys
import types
from pathlib import Path

from rag_finetune.cli import machine
from rag_finetune.cli.machine import gpus, loaded_libraries, memory, openmp_runtimes

TORCH = "/venv/torch/lib/libgomp.so.1"
FAISS = "/venv/x/faiss_cpu.libs/libgomp-e985bcbb.so.1.0.0"


def test_two_copies_of_one_openmp_runtime_are_fine():
    finding = openmp_runtimes({TORCH, FAISS, "/lib/libc.so.6", "/lib/libgomp_other.so"})
    assert finding.state == "ok"
    assert finding.found == "GNU (of torch/lib and x/faiss_cpu.libs)"


def test_openmp_runtimes_of_different_makers_are_noted():
    finding = openmp_runtimes({TORCH, "/conda/lib/libiomp5.so", "/llvm/lib/libomp.so.5"})
    assert finding.state == "note"
    assert all(maker in finding.found for maker in ("GNU", "Intel", "LLVM"))
    assert "OMP_NUM_THREADS=1" in finding.remedy


def test_no_openmp_runtime_is_no_fault():
    assert openmp_runtimes({"/lib/libc.so.6"}).found == "none seen"


def test_loaded_libraries_are_read_off_the_maps_of_the_process(tmp_path):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 08:01 42    /lib/a b/libgomp.so.1\n"
        "7f01-7f02 rw-p 00000000 00:00 0     [heap]\n"
        "7f02-7f03 rw-p 00000000 00:00 0 \n"
    )
    assert loaded_libraries(maps) == {"/lib/a b/libgomp.so.1"}
    assert loaded_libraries(tmp_path / "none") == set()


def test_a_library_that_cannot_be_imported_is_bad(monkeypatch, tmp_path):
    (tmp_path / "broken_library.py").write_text("raise ImportError('numpy.core failed\\n to load')")
    monkeypatch.syspath_prepend(str(tmp_path))
    findings = machine._import("broken_library", "faiss-cpu")
    finding = next(findings)
    assert (finding.name, finding.state) == ("import faiss-cpu", "BAD")
    assert finding.found == "ImportError: numpy.core failed to load"
    assert finding.remedy.startswith("pip install --force-reinstall")
    sys.modules.pop("broken_library", None)


def test_the_limit_of_a_container_is_shown_with_the_memory_of_the_machine(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  8388608 kB\nMemAvailable:  4194304 kB\n")
    (tmp_path / "limit").write_text(f"{2 * 1024**3}\n")
    found = memory(tmp_path / "meminfo", tmp_path / "limit").found
    assert found == "8.0 GiB, 4.0 GiB available; this container may use 2.0 GiB"
    (tmp_path / "limit").write_text("max\n")
    assert memory(tmp_path / "meminfo", tmp_path / "limit").found == "8.0 GiB, 4.0 GiB available"
    assert memory(tmp_path / "none", tmp_path / "limit").found == "unknown"


def cuda(count, version="12.8"):
    """What torch looks like on a machine with some GPUs."""
    card = types.SimpleNamespace(name="H200", total_memory=140 * 1024**3)
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            is_available=lambda: count > 0,
            device_count=lambda: count,
            get_device_properties=lambda number: card,
        ),
        version=types.SimpleNamespace(cuda=version),
        accelerator=types.SimpleNamespace(current_accelerator=lambda: None),
    )


def test_several_gpus_come_with_the_line_that_uses_all():
    assert gpus(cuda(1)).found == "H200 140 GiB; CUDA 12.8"
    finding = gpus(cuda(3))
    assert finding.state == "note"
    assert "accelerate launch --multi_gpu --num_processes 3 -m rag_finetune" in finding.remedy


def test_a_driver_that_torch_cannot_use_is_noted(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda path: "nvidia" in str(path))
    assert "torch built without CUDA cannot use it" in gpus(cuda(0, None)).found
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert gpus(cuda(0)).found == "none"
