"""Two processes of one world: launched, or forked.

`LAUNCH` before a module's name is the launcher. It has torch and Transformers imported three times,
which takes longer than what most tests have two processes for. For those a server imports
everything once and computes nothing, and each process is a fork of it.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
    *("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"),
    *("--main_process_port", "0"),
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *(f"rag_finetune.training.{kind}_trainer" for kind in ("rag", "retriever", "reranker")),
        *("rag_finetune.training.causal_trainer", "rag_finetune.index.build"),
        *(f"transformers.models.{kind}.modeling_{kind}" for kind in ("bart", "bert", "dpr", "rag")),
        *("transformers.models.gpt2.modeling_gpt2", "torch.nn.parallel.distributed"),
    ]
)


def environment(**more: str) -> dict[str, str]:
    """Our variables, one thread, and these."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def start(
    log: Path, work: Callable[..., Any], *args: Any, settings: dict[str, str], **options: Any
) -> BaseProcess:
    """Begin `work(*args, **options)` in a fork of the server, with these variables beside ours."""
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
    processes = [
        start(log, work, *args, settings={**world, "RANK": str(n), "LOCAL_RANK": str(n)}, **options)
        for n, log in enumerate(logs)
    ]
    try:
        for process in processes:
            while process.exitcode is None and not any(p.exitcode for p in processes):
                process.join(0.1)
    finally:
        for process in processes:
            process.kill()
            process.join()
    said = [log.read_text() for log in logs]
    codes = [process.exitcode for process in processes]
    assert codes == [0, 0], f"{codes}\n" + "\n".join(text[-3000:] for text in said)
    return said[0]


def _run(
    variables: dict[str, str],
    log: str,
    work: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    import torch

    os.environ.clear()
    os.environ.update(variables)
    sys.stdout.flush()
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    torch.set_num_threads(1)  # the variable was read when the server began
    code = work(*args, **options)
    if isinstance(code, int) and code:
        raise SystemExit(code)
