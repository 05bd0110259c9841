"""A Slurm cluster of two virtual nodes on this machine; needs root and Debian's packages slurm-wlm and munge.

python -m tests.slurm_lab start build/slurm-lab    starts it; then: snakemake --workflow-profile profiles/slurm
python -m tests.slurm_lab stop build/slurm-lab     ends it, jobs and all
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "squeue", "scancel")
NODES = ("n1", "n2")
PATIENT = 150  # tenths of a second that a daemon has to end by itself
MEGABYTES = 3000  # of each node, whatever the machine has
SYSTEM = Path("/etc/slurm/slurm.conf")  # what jobs read that lose their environment
CONFIGURATION = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# a job that takes more memory than it asked for is ended within a second
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=3
MinJobAge=300
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=500
"""


def missing() -> str | None:
    """Why there can be no lab here; None where there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)} missing): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "the lab's daemons need root"
    if SYSTEM.exists() or SYSTEM.is_symlink():
        return f"{SYSTEM} is there already: of a cluster, or of a lab that was not stopped"
    return None


def start(folder: Path) -> dict[str, str]:
    """Start the daemons with all their files below `folder`; return the environment that commands need."""
    if reason := missing():
        raise SystemExit(f"error: {reason}")
    folder = folder.absolute()
    for name in ("run", "log", "state", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for private in (folder, folder / "run"):
        private.chmod(0o755)  # munge refuses a folder that others may write to
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    ports, host = _free_ports(1 + len(NODES)), socket.gethostname()
    common = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory={MEGABYTES} State=UNKNOWN"
    nodes = "\n".join(f"NodeName={name} Port={port} {common}" for name, port in zip(NODES, ports[1:], strict=True))
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(host=host, ports=ports, folder=folder, nodes=nodes, names=",".join(NODES))
    )
    SYSTEM.parent.mkdir(exist_ok=True)
    SYSTEM.symlink_to(configuration)
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": _path()}
    munge = {"key-file": "munge.key", "socket": "run/munge.socket", "pid-file": "run/munged.pid"}
    munge |= {"log-file": "log/munged.log", "seed-file": "run/munged.seed"}
    try:
        _run(environment, "munged", "--force", *(f"--{name}={folder / path}" for name, path in munge.items()))
        _run(environment, "slurmctld", "-f", str(configuration))
        for node in NODES:
            _run(environment, "slurmd", "-N", node, "-f", str(configuration))
        _run(environment, "srun", "--immediate=60", "-N", str(len(NODES)), "true")  # waits until both take jobs
    except BaseException:
        stop(folder)
        raise
    return environment


def stop(folder: Path) -> None:
    """End jobs and daemons, as their own files name them, and return when they are gone."""
    folder = folder.absolute()
    configuration = folder / "slurm.conf"
    environment = os.environ | {"SLURM_CONF": str(configuration), "PATH": _path()}
    if configuration.exists():
        subprocess.run(["scancel", "--user", "root"], env=environment, check=False, capture_output=True, timeout=30)
    daemons = []
    for path in sorted((folder / "run").glob("*.pid"), reverse=True):
        with contextlib.suppress(ProcessLookupError, ValueError):
            daemons.append(int(path.read_text()))
            os.kill(daemons[-1], signal.SIGTERM)
    for daemon in daemons:
        _wait_for_end(daemon)
    if SYSTEM.is_symlink() and SYSTEM.readlink() == configuration:
        SYSTEM.unlink()


def _wait_for_end(daemon: int) -> None:
    """Until it has stopped writing into the lab's folder; killed after a while."""
    for wait in range(200):
        try:
            os.kill(daemon, signal.SIGKILL if wait == PATIENT else 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)


def _run(environment: dict[str, str], *command: str) -> None:
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: {done.stderr or done.stdout}")


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":
    actions = {"start": start, "stop": stop}
    if len(sys.argv) != 3 or sys.argv[1] not in actions:
        raise SystemExit(__doc__)
    actions[sys.argv[1]](Path(sys.argv[2]))
    if sys.argv[1] == "start":
        print(f"two nodes are up; SLURM_CONF={Path(sys.argv[2]).absolute() / 'slurm.conf'}")
