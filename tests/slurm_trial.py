"""The smoke experiment through two virtual Slurm nodes, and jobs that are requeued, cancelled or lose their node.

python -m tests.slurm_trial    takes minutes: Slurm waits two before it starts a job again
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests import slurm_lab
from tests.checkout import ENVIRONMENT, copy_checkout, run

SUMMARY = "results/smoke/summary.json"
CELL = "results/runs/flights/neukron"
PROFILE = ["snakemake", "--workflow-profile", "profiles/slurm", "--latency-wait", "5"]


class Trial:
    """A checkout in which the experiment has been made without Slurm, and a lab to make it again in."""

    def __init__(self, folder: Path) -> None:
        self.lab_folder, self.checkout = folder / "lab", folder / "checkout"
        self.checkout.mkdir()
        copy_checkout(Path(__file__).parent.parent, self.checkout)
        run(self.checkout, sys.executable, "-m", "pipeline.config", "--use", "smoke")
        run(self.checkout, "snakemake", "--quiet", "progress", "host", "rules", "--", SUMMARY)
        self.wanted = self.contents()
        self.lab = slurm_lab.start(self.lab_folder)

    def contents(self) -> dict[str, bytes]:
        """Bytes of the models and of the summary."""
        names = [self.checkout / SUMMARY, *(self.checkout / "results/runs").rglob("model.safetensors")]
        return {str(path.relative_to(self.checkout)): path.read_bytes() for path in names}

    def slurm(self, *command: str) -> str:
        """What a command of Slurm prints."""
        environment = ENVIRONMENT | self.lab
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    def again(self, what: str, removed: str, disturb: Callable[[str, str], object] | None = None) -> str:
        """Remove results, make them through Slurm, with `disturb` told job and node once one runs; compare the bits."""
        shutil.rmtree(self.checkout / removed)
        (self.checkout / SUMMARY).unlink(missing_ok=True)  # what is asked for is made again, and so what it rests on
        environment = ENVIRONMENT | self.lab
        process = subprocess.Popen(
            [*PROFILE, SUMMARY], cwd=self.checkout, env=environment, stdout=-1, stderr=-2, text=True
        )
        if disturb:
            while not (running := self.slurm("squeue", "--noheader", "--states=R", "--format=%i %N")):
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.5)
            disturb(*running.splitlines()[0].split())
        said, _ = process.communicate()
        assert process.returncode == 0, said
        found = self.contents()
        assert found == self.wanted, sorted(name for name in self.wanted if found.get(name) != self.wanted[name])
        left = [*(self.checkout / ".cache/partial").glob("*"), *(self.checkout / ".snakemake/incomplete").glob("*")]
        assert not left, left
        return f"{what}: {len(found)} files with the same bits, nothing left over"

    def kill_node(self, job: str, node: str) -> None:
        """End a node's daemon and everything of the job on it, as a power cut would."""
        os.kill(int((self.lab_folder / f"run/slurmd.{node}.pid").read_text()), signal.SIGKILL)
        for place in Path("/proc").glob("[0-9]*"):
            try:
                mine = f"SLURM_JOB_ID={job}\0".encode() in (place / "environ").read_bytes()
                if mine and (place / "cwd").resolve() == self.checkout.resolve():
                    os.kill(int(place.name), signal.SIGKILL)
            except OSError:  # it has ended by itself
                continue


def main() -> None:
    """Run all, one line each."""
    with tempfile.TemporaryDirectory() as place:
        trial = Trial(Path(place))
        try:
            print(trial.again("smoke through Slurm", "results"), flush=True)
            print(trial.again("requeued", CELL, lambda job, _: trial.slurm("scontrol", "requeue", job)), flush=True)
            print(trial.again("cancelled", CELL, lambda job, _: trial.slurm("scancel", job)), flush=True)
            print(trial.again("node lost", CELL, trial.kill_node), flush=True)
        finally:
            slurm_lab.stop(trial.lab_folder)


if __name__ == "__main__":
    main()
