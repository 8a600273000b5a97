"""Two processes of one world: launched, or forked.

`LAUNCH` before a module's name is the launcher. It has torch and Transformers imported three times,
which takes longer than what most tests have two processes for. For those a server imports
everything once and computes nothing, and each process is a fork of it. What two forks have alike
and two launched processes do not is the secret of `hash`.
"""

import faulthandler
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from conftest import ROOT

LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
    *("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
]
PRELOADED = [
    *(f"rag_finetune.training.{kind}_trainer" for kind in ("rag", "retriever", "reranker")),
    *("rag_finetune.training.causal_trainer", "rag_finetune.index.build"),
    *(f"transformers.models.{kind}.modeling_{kind}" for kind in ("bart", "bert", "dpr", "rag")),
    *("transformers.models.gpt2.modeling_gpt2", "torch.nn.parallel.distributed"),
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOADED)


def environment(**more: str) -> dict[str, str]:
    """Our variables, one thread, and these."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def launch(*command: str | Path) -> str:
    """What two launched processes print, after both have ended well."""
    words = [*LAUNCH, *map(str, command)]
    done = subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def start(
    log: Path, work: Callable[..., Any], *args: Any, settings: dict[str, str], **options: Any
) -> BaseProcess:
    """Begin `work(*args, **options)` in a fork of the server, with these variables beside ours."""
    # What the server imports may look at a GPU, and one that was looked at is lost to its forks.
    with patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):
        forkserver.ensure_running()
    log.write_text("")
    process = SERVER.Process(
        target=_run, args=(environment(**settings), str(log), work, args, options)
    )
    process.start()
    return process


def run_two(folder: Path, work: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Do `work(*args, **options)` in two processes of one world; what the first of them printed.

    Args:
        folder: gets their logs, of this work alone.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    logs = [folder / f"{work.__module__}-{rank}.log" for rank in (0, 1)]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes: list[BaseProcess] = []
    try:
        for rank, log in enumerate(logs):
            settings = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(start(log, work, *args, settings=settings, **options))
        while any(p.exitcode is None for p in processes) and not any(p.exitcode for p in processes):
            processes[0].join(0.1)
            processes[1].join(0.1)
    finally:
        for process in processes:
            process.kill()
            process.join()
        said = [log.read_text() for log in logs if log.exists()]
        print("\n".join(said))  # shown where the test fails
    assert [process.exitcode for process in processes] == [0, 0]
    return said[0]


def _run(
    variables: dict[str, str],
    log: str,
    work: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    import numpy as np
    import torch

    os.environ.clear()
    os.environ.update(variables)
    sys.stdout.flush()
    file = os.open(log, os.O_WRONLY | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    missing = [name for name in PRELOADED if name not in sys.modules]
    assert not missing, missing
    np.random.seed(os.getpid())  # a fork has the state of the server; so it has of `hash`
    torch.set_num_threads(1)  # the variable was read when the server began
    faulthandler.dump_traceback_later(200)  # where it hangs, before the test is given up
    code = work(*args, **options)
    if isinstance(code, int) and code:
        raise SystemExit(code)
