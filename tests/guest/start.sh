#!/bin/bash
# Process 1 of a guest without systemd: what every test expects to be there, then the agent. bash reaps whatever is
# left to it. Once the agent has ended, so has the machine.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
hostname guest
ip link set lo up
modprobe -a fuse loop # file systems load themselves

"${BASH_SOURCE%/*}/agent.py" &
wait $!
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
