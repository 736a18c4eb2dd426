"""A real Slurm on this machine: a controller, and two nodes whose two GPUs are links to /dev/null."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scancel", "scontrol", "squeue")
NODES = ("n1", "n2")

_CONFIG = """\
ClusterName=clipfit
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=1
SchedulerType=sched/backfill
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
MessageTimeout=5
MinJobAge=300
InactiveLimit=0
RebootProgram=/bin/true
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing_programs() -> list[str]:
    """Return what is not installed of what a cluster needs."""
    return [name for name in PROGRAMS if not _found(name)]


@dataclass
class Cluster:
    """A Slurm that runs.

    Attributes:
        folder: Of its configuration, state and logs.
        environment: With which its commands find it.
        daemons: By name: munged, slurmctld, n1, n2.
    """

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def call(self, *words: str) -> str:
        """Return what a command of Slurm prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._start(name, _found("slurmd"), "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def kill_node(self, name: str) -> None:
        """Kill the daemon of a node with all that it started, as a power cut does."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()
        for process in self.processes_of(name):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def processes_of(self, name: str) -> list[int]:
        """Return the processes of jobs on a node, those first that watch over others."""
        marks, jobs = (f"SLURMD_NODENAME={name}\0", f"SLURM_CONF={self.folder}/slurm.conf\0"), []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (path / "environ").read_bytes().decode(errors="replace")
                if all(mark in environment for mark in marks):
                    jobs.append(int(path.name))
        watching = {parent for job in jobs if "slurmstepd" in _title(parent := _parent(job))}
        return [*watching, *jobs]

    def wait(self, holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: It does not.
        """
        until = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > until:
                raise TimeoutError(f"{what}: not within {seconds:.0f} s\n{self.call('squeue', '-a')}")
            time.sleep(0.2)

    def _start(self, name: str, *words: str) -> None:
        log: IO[bytes] = (self.folder / f"{name}.out").open("ab")
        with log:
            self.daemons[name] = subprocess.Popen(
                words, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Yield a Slurm whose nodes are idle; it is gone after the block, with all that it started.

    Args:
        folder: An empty one for it; its path is short enough for a socket.

    Raises:
        TimeoutError: It does not come up.
    """
    for name in ("state", "spool-n1", "spool-n2", "gpu"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    gpus = [folder / "gpu" / f"nvidia{index}" for index in range(2)]
    for gpu in gpus:
        gpu.symlink_to("/dev/null")
    key, munge = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    values = {"host": socket.gethostname().split(".")[0], "ports": _free_ports(3), "folder": folder, "socket": munge}
    config.write_text(_CONFIG.format(user=getpass.getuser(), **values), encoding="utf-8")
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n", encoding="utf-8")
    devices = "".join(f"NodeName={node} Name=gpu File={gpus[0].parent}/nvidia[0-1]\n" for node in NODES)
    (folder / "gres.conf").write_text(devices, encoding="utf-8")
    one = Cluster(folder, {**os.environ, "SLURM_CONF": str(config)})
    options = ["--foreground", "--force", f"--key-file={key}", f"--socket={munge}", "--num-threads=2"]
    files = [f"--{name}-file={folder}/munged.{name}" for name in ("log", "pid", "seed")]
    try:
        one._start("munged", _found("munged"), *options, *files)
        one.wait(munge.exists, "munged")
        one._start("slurmctld", _found("slurmctld"), "-D", "-f", str(config))
        for node in NODES:
            one.start_node(node)
        one.wait(lambda: _idle(one) == len(NODES), "two idle nodes")
        yield one
    finally:
        _end(one)


def _idle(one: Cluster) -> int:
    with suppress(RuntimeError):
        return one.call("sinfo", "-h", "-N", "-o", "%T").split().count("idle")
    return 0


def _end(one: Cluster) -> None:
    for name in NODES:
        if name in one.daemons:
            one.kill_node(name)
    for daemon in one.daemons.values():
        daemon.terminate()
    for daemon in one.daemons.values():
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()


def _title(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    return ""


def _parent(process: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at; all are held until the last is found, so that no two are the same."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _found(name: str) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path) or ""
