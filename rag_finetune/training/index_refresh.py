"""The index that is searched follows the context encoder that is trained."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rag_finetune.encoders.text_encoder import TextEncoder
from rag_finetune.index.processes import World
from rag_finetune.index.reencode import reencode_index
from rag_finetune.index.store import PassageIndex, open_index
from rag_finetune.retrieval.reranked import RerankedSearcher
from rag_finetune.retrieval.retriever import RagIndexRetriever
from rag_finetune.retrieval.search import Searcher
from rag_finetune.training.arguments import RagTrainingArguments
from rag_finetune.training.fresh_vectors import overlap_at_k
from rag_finetune.training.index_versions import IndexVersions, save_snapshot
from rag_finetune.training.options import REFRESH_STEPS

OVERLAP_STEPS = 10  # from one measurement of the overlap to the next
RUNNING = -(10**6)  # no exit code
# What a launcher tells its processes: a refresh is none of them.
OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
OF_LAUNCHERS = ("MASTER_", "TORCHELASTIC_", "ACCELERATE_", "ROLE_", "GROUP_WORLD_")


class BackgroundBuild:
    """A process that encodes the passages of an index by a snapshot of the context encoder.

    Attributes:
        target: the index folder to be.
        log: what the process says.
    """

    def __init__(self, source: Path, encoder: TextEncoder, target: Path) -> None:
        """Save the snapshot and start the process.

        Args:
            source: the index whose passages are encoded.
            encoder: the context encoder, which may be trained on.
            target: the index folder to make.
        """
        self.target, self.log = target, target.with_suffix(".log")
        self._snapshot = save_snapshot(encoder, target)
        command = [sys.executable, "-m", "rag_finetune.index.reencode"]
        command += [str(source), str(self._snapshot), str(target)]
        with open(self.log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # whose end, when this process ends, ends that one
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # what is sent to the group of this process is not for it
                env=_environment(encoder.model.device),
            )

    def poll(self) -> int:
        """Its exit code, or RUNNING."""
        code = self._process.poll()
        return RUNNING if code is None else code

    def close(self) -> None:
        """End it, if it has not ended; remove the snapshot."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        shutil.rmtree(self._snapshot.parent, ignore_errors=True)


class IndexRefresh(TrainerCallback):
    """Encodes all passages anew on the way, and changes the index between two steps.

    All processes change it after the same step: the first one looks whether the new index is
    there, and tells the others.

    Attributes:
        index_step: the step whose context encoder made the index that is searched.
    """

    def __init__(
        self,
        retriever: RagIndexRetriever,
        encoder: TextEncoder,
        args: RagTrainingArguments,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        """Keep what is needed; begin nothing.

        Args:
            retriever: searches the index.
            encoder: the context encoder that is trained.
            args: of the run.
            log: takes figures of a refresh.
        """
        self.retriever, self.encoder, self.args, self.log = retriever, encoder, args, log
        self.versions = IndexVersions(Path(str(args.output_dir)))
        self.way = args.index_refresh or "background"
        self.bound = args.index_refresh_overlap
        self.steps = args.index_refresh_steps or (REFRESH_STEPS if self.bound is None else None)
        self._overlaps: list[float] = []  # since the last step
        self.index_step = 0
        self._is_due = False
        self._building: Path | None = None  # on every process
        self._build: BackgroundBuild | None = None  # on the first one
        self._snapshot_step, self._began = 0, 0.0

    @property
    def is_first(self) -> bool:
        """Whether this process decides, and writes."""
        return self.args.process_index == 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the new index if it is there; begin another refresh if one is due."""
        step = state.global_step
        if self._building is not None:
            self._look(step, is_last=control.should_training_stop)
        self._is_due |= self.way != "none" and self.steps is not None and step % self.steps == 0
        if self._overlaps:
            self._is_due |= self._shared_overlap() < (self.bound or 0.0)
        if not self._is_due or self._building is not None or control.should_training_stop:
            return
        self._is_due = False
        if self.way == "blocking":
            self.refresh_now(step)
        else:
            self._begin(step)

    def measure_overlap(self, question_vectors: np.ndarray, step: int) -> None:
        """Look now and then how far the index is from the context encoder as it is.

        Args:
            question_vectors: of a batch of this process, shape (B, dim).
            step: steps done; the same on all processes.
        """
        if self.bound is None or self._building is not None or step % OVERLAP_STEPS:
            return
        n_docs, index = self.retriever.n_docs, self.retriever.index
        self._overlaps.append(overlap_at_k(index, self.encoder, question_vectors, n_docs))

    def _shared_overlap(self) -> float:
        """The mean over all processes of what was measured in this step."""
        overlap = float(np.mean(gather_object(self._overlaps)))
        self._overlaps = []
        self.log({"index_overlap": overlap})
        return overlap

    def refresh_now(self, step: int) -> None:
        """Encode the passages by the context encoder as it is, on all processes together.

        Args:
            step: of the encoder.

        Raises:
            ValueError: a vector is not finite.
            OSError: the disk is too small, or cannot be written.
        """
        began, args = time.monotonic(), self.args
        target = self._target(step)
        if not from_first(target.is_dir()):  # what one process alone took for made would part them
            world = World(args.process_index, args.world_size, args.device)
            reencode_index(self.retriever.index, self.encoder, target, world=world)
        self.take(open_index(target), step)
        self.log({"index_refresh_seconds": time.monotonic() - began, "index_staleness": 0})

    def refresh_last(self, step: int) -> None:
        """Let the index be that of the context encoder as it is; nothing is done where it is."""
        self.stop()
        found = self.retriever.index.manifest.fingerprint
        if self.way != "none" and from_first(self.encoder.fingerprint()) != found:
            self.refresh_now(step)

    def take(self, index: PassageIndex, step: int) -> None:
        """Search another index from now on, on this process as on all; drop the one before.

        Args:
            index: of the same passages.
            step: whose context encoder made it.
        """
        use_index(self.retriever, index)
        self.index_step = step
        if self.args.world_size > 1:
            torch.distributed.barrier()
        if self.is_first:
            self.versions.prune(index)

    def stop(self) -> None:
        """End a refresh that is on its way."""
        if self._build is not None:
            self._build.close()
        self._building = self._build = None

    def _begin(self, step: int) -> None:
        """Start a process that encodes the passages.

        Raises:
            OSError: on all processes, where the first could not.
        """
        self._building, self._snapshot_step = self._target(step), step
        self._began = time.monotonic()
        failure = None
        if self.is_first and not self._building.is_dir():
            source = self.retriever.index.folder
            try:
                self._build = BackgroundBuild(source, self.encoder, self._building)
            except OSError as error:
                failure = str(error)
        failure = from_first(failure)
        if failure is not None:  # the others would wait for this process
            raise OSError(failure)

    def _look(self, step: int, is_last: bool) -> None:
        """Take the new index once the process that makes it has ended.

        Raises:
            ChildProcessError: it has failed, and training shall go on.
        """
        code = from_first(self._build.poll() if self._build is not None else 0)
        target = self._building
        assert target is not None
        if code == RUNNING:
            return
        if code and is_last:  # no more is needed, and what stops training may have ended it too
            self.stop()
            return
        if code:
            self.stop()
            raise ChildProcessError(_failure(target.with_suffix(".log"), self._snapshot_step, code))
        self.stop()
        self.take(open_index(target), self._snapshot_step)
        seconds = time.monotonic() - self._began
        staleness = step - self._snapshot_step
        self.log({"index_refresh_seconds": seconds, "index_staleness": staleness})

    def _target(self, step: int) -> Path:
        """Where the index of the encoder as it is goes; the same on all processes."""
        path = self.versions.path(step, self.encoder.fingerprint()) if self.is_first else None
        found: Path = from_first(path)
        return found


def from_first(value: Any) -> Any:
    """What the first process gives, on every process."""
    return broadcast_object_list([value])[0]


def use_index(retriever: RagIndexRetriever, index: PassageIndex) -> None:
    """Let a retriever search another index of the same passages, in the same way."""
    before = retriever.searcher
    searcher = Searcher(index, before.retrieval)
    if isinstance(before, RerankedSearcher):
        retriever.searcher = RerankedSearcher(searcher, before.reranker, before.top)
    else:
        retriever.searcher = searcher
    retriever.index = index


def _environment(device: torch.device) -> dict[str, str]:
    """Variables of a refresh: no launcher's, the threads that are left, a GPU of its own."""
    found = {
        name: value
        for name, value in os.environ.items()
        if name not in OF_A_LAUNCHER and not name.startswith(OF_LAUNCHERS)
    }
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    left = (os.cpu_count() or 1) - local_processes * torch.get_num_threads()
    found["OMP_NUM_THREADS"] = str(max(1, left))
    if device.type == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    elif device.type == "cuda":
        count = torch.cuda.device_count()
        number = local_processes if local_processes < count else device.index or 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        found["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number]
    return found


def _failure(log: Path, step: int, code: int) -> str:
    """What is said of a process that failed."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return (
        f"{log}: the process that encodes the passages anew, for the context encoder of step "
        f"{step}, ended with exit code {code}: {last} Mend that and go on from the last "
        "checkpoint, or wait for each refresh: --index_refresh blocking."
    )
