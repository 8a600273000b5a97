"""What `doctor` says about the machine: libraries as loaded, threads, memory, disk and GPUs."""

import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_finetune.cli.doctor import Finding, threads_available

GIB = 1024**3
LITTLE_DISK = 5 * GIB
OPENMP = {"libgomp": "GNU", "libiomp5": "Intel", "libomp": "LLVM"}


def check_machine() -> Iterator[Finding]:
    """Import what computes, in the order that the package does, and look at what came of it."""
    torch = yield from _import("torch", "torch")
    dense = yield from _import("rag_finetune.index.dense", "faiss-cpu")
    for module in ("transformers", "datasets"):
        yield from _import(module, module)
    if dense is not None:
        yield _faiss_build(dense.faiss)
    yield openmp_runtimes(loaded_libraries())
    threads = f"{threads_available()} processors"
    if torch is not None:
        threads += f", torch uses {torch.get_num_threads()}"
    yield Finding(
        "threads", f"{threads}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}"
    )
    yield memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max"))
    yield from _disks()
    if torch is not None:
        yield gpus(torch)


def _import(module: str, package: str) -> Any:
    """Import a module; one that cannot be imported is a finding, and None is returned."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever a damaged installation raises
        reason = " ".join(str(error).split()) or type(error).__name__
        yield Finding(
            f"import {package}",
            f"{type(error).__name__}: {reason[:200]}",
            "BAD",
            f"pip install --force-reinstall --no-deps {package}, in the version that is asked for",
        )
        return None


def _faiss_build(faiss: Any) -> Finding:
    """How FAISS was compiled."""
    options = faiss.get_compile_options().split()
    return Finding(
        "faiss build", f"{' '.join(options)}, {faiss.omp_get_max_threads()} threads in a search"
    )


def loaded_libraries(maps: Path = Path("/proc/self/maps")) -> set[str]:
    """Files of shared libraries that this process has loaded; empty where the system hides them."""
    if not maps.is_file():
        return set()
    text = maps.read_text(encoding="utf-8", errors="replace")
    return {line.split(maxsplit=5)[5] for line in text.splitlines() if ".so" in line}


def openmp_runtimes(libraries: set[str]) -> Finding:
    """The OpenMP runtimes among loaded libraries: two makers' can be in each other's way."""
    found: dict[str, list[str]] = {}
    for path in sorted(libraries):
        match = re.match(r"(libgomp|libiomp5|libomp)[-.]", Path(path).name)
        if match:
            found.setdefault(OPENMP[match[1]], []).append("/".join(Path(path).parts[-3:-1]))
    if not found:
        return Finding("openmp", "none seen")
    shown = ", ".join(f"{maker} (of {' and '.join(of)})" for maker, of in found.items())
    if len(found) == 1:
        return Finding("openmp", shown)
    remedy = "if a run hangs, crashes or crawls: OMP_NUM_THREADS=1; or torch and faiss from pip"
    return Finding("openmp", f"{shown}: runtimes of different makers", "note", remedy)


def memory(meminfo: Path, limit: Path) -> Finding:
    """Memory of the machine, and the limit of the container that we may be in."""
    if not meminfo.is_file():
        return Finding("memory", "unknown")
    values = dict(re.findall(r"^(\w+): +(\d+) kB$", meminfo.read_text(), re.MULTILINE))
    total, free = (int(values[key]) * 1024 / GIB for key in ("MemTotal", "MemAvailable"))
    shown = f"{total:.1f} GiB, {free:.1f} GiB available"
    most = limit.read_text().strip() if limit.is_file() else "max"
    if most.isdigit() and int(most) / GIB < total:
        shown += f"; this container may use {int(most) / GIB:.1f} GiB"
    return Finding("memory", shown)


def _disks() -> Iterator[Finding]:
    """Disk space where runs, downloads and temporary files go, each file system once."""
    from huggingface_hub.constants import HF_HUB_CACHE

    seen = set()
    for name, folder in (
        ("working folder", Path.cwd()),
        ("Hub cache", Path(HF_HUB_CACHE)),
        ("temporary files", Path(tempfile.gettempdir())),
    ):
        folder = next(path for path in (folder, *folder.parents) if path.exists())
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        usage = shutil.disk_usage(folder)
        shown = f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free ({name})"
        if usage.free < LITTLE_DISK:
            remedy = "checkpoints and indexes need more: choose another --output_dir, or HF_HOME"
            yield Finding("disk", shown, "note", remedy)
        else:
            yield Finding("disk", shown)


def gpus(torch: Any) -> Finding:
    """The GPUs that torch sees, or why it sees none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        cards = [torch.cuda.get_device_properties(number) for number in range(count)]
        shown = ", ".join(f"{card.name} {card.total_memory / GIB:.0f} GiB" for card in cards)
        shown += f"; CUDA {torch.version.cuda}"
        if count == 1:
            return Finding("gpu", shown)
        launch = f"accelerate launch --multi_gpu --num_processes {count} -m rag_finetune train …"
        return Finding("gpu", shown, "note", f"a plain start uses one; for all: {launch}")
    if Path("/proc/driver/nvidia/version").exists():
        built = (
            f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        )
        remedy = "install the torch that fits the driver: https://pytorch.org/get-started/locally"
        return Finding(
            "gpu", f"an NVIDIA driver is here, torch {built} cannot use it", "note", remedy
        )
    other = torch.accelerator.current_accelerator()
    return Finding("gpu", "none" if other is None else str(other))
