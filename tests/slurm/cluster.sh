#!/usr/bin/env bash
# A Slurm cluster of one node, for the tests: cluster.sh up FOLDER, cluster.sh down FOLDER. Needs root and, on Debian,
#   apt-get install --no-install-recommends slurm-wlm munge
# It keeps everything in FOLDER, enforces no limits of memory or CPU, and knows no accounts: put sacct, which lies beside
# this script, first on PATH. Then every command that is to see the cluster needs SLURM_CONF=FOLDER/slurm.conf.
set -euo pipefail
folder=$2
export SLURM_CONF=$folder/slurm.conf

up() {
  mkdir -p "$folder"/{state,spool}
  local host memory
  host=$(hostname -s)
  memory=$(free --mebi | awk '/^Mem:/ { print int($2 * 0.9) }')
  cat > "$SLURM_CONF" <<END
ClusterName=cellseg
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SrunPortRange=60001-60100
MailProg=/bin/true
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=512
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=5
MinJobAge=86400
EnforcePartLimits=ALL
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
  if ! munge --no-input > /dev/null 2>&1; then
    install --directory --owner munge --group munge --mode 755 /run/munge
    runuser --user munge -- /usr/sbin/munged
  fi
  slurmctld -c
  slurmd
  for _ in {1..60}; do
    if [ "$(sinfo --noheader --format=%T)" = idle ]; then return; fi
    sleep 0.5
  done
  tail "$folder"/*.log
  return 1
}

down() {
  scancel --user=root || true
  sleep 1
  for daemon in slurmd slurmctld; do
    if [ -s "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")"; fi
  done
}

"$1"
