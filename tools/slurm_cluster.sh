#!/usr/bin/env bash
# A Slurm cluster of this one machine, to try things: tools/slurm_cluster.sh up|down DIR
# As root on Debian or Ubuntu, without systemd. Then: export SLURM_CONF=DIR/slurm.conf
set -euo pipefail
ACTION=$1 DIR=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$DIR/slurm.conf

up() {
  if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    echo '== system packages: slurm-wlm munge'
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends slurm-wlm munge
  fi
  mkdir -p "$DIR/state" "$DIR/spool"
  host=$(hostname -s)
  cpus=$(nproc --all)
  if [ "$cpus" -lt 2 ]; then cpus=2; fi
  cat >"$SLURM_CONF" <<CONF
ClusterName=one
AuthType=auth/munge
AuthInfo=cred_expire=3
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=10
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 Sockets=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1100)) State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  if ! pgrep -x munged >/dev/null; then
    mkdir -p /run/munge
    chown munge:munge /run/munge
    chmod 755 /run/munge
    su -s /bin/sh munge -c /usr/sbin/munged
    touch "$DIR/munged.ours"
  fi
  slurmctld
  sleep 1
  slurmd
  for _ in $(seq 30); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then
      sinfo
      return
    fi
    sleep 1
  done
  echo "the cluster does not come up; see $DIR/slurmctld.log and $DIR/slurmd.log" >&2
  exit 1
}

down() {
  scancel --user=root 2>/dev/null || true
  for daemon in slurmd slurmctld; do
    if [ -f "$DIR/$daemon.pid" ]; then
      pid=$(cat "$DIR/$daemon.pid")
      kill "$pid" 2>/dev/null || true
      for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep 0.2 || break; done
    fi
  done
  if [ -f "$DIR/munged.ours" ]; then
    pkill -x munged || true
    for _ in $(seq 50); do pgrep -x munged >/dev/null && sleep 0.2 || break; done
    rm "$DIR/munged.ours"
  fi
}

"$ACTION"
