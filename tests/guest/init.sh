#!/bin/sh
# The first program of a guest, in its initramfs: load the modules that reach the host's files and disks, build the
# root and go there. guest.py puts /settings beside it. Where a step fails the kernel panics, and QEMU ends.
# shellcheck disable=SC1091,SC2154,SC2086
set -eu
export PATH=/usr/bin:/usr/sbin

. /settings
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $modules; do
    insmod "/modules/$module"
done

mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host
if [ -n "$root_disk" ]; then
    mount -t ext4 "$root_disk" /root
    cp /guest-agent.service /root/etc/systemd/system/ # the command line's systemd.wants= starts it
else
    # This machine's own files, which the guest cannot change, below a layer of what it writes.
    mount -t tmpfs -o size=75% writes /writes
    mkdir /writes/upper /writes/work
    for layer in $layers; do # copied: a lower layer must not lie within another
        cp -a "$layer/." /writes/upper/
    done
    mount -t overlay -o "lowerdir=/host,upperdir=/writes/upper,workdir=/writes/work" root /root
    for folder in tmp run var/tmp; do
        mount -t tmpfs -o mode=1777,size=75% "$folder" "/root/$folder"
    done
fi
for path in $shared; do
    mkdir -p "/root$path"
    mount --bind "/host$path" "/root$path"
done
mkdir -p /root/usr/lib/modules
mount --bind "/host$kernel_modules" /root/usr/lib/modules
exec switch_root /root $init
