# enter.sh ROOT VOLUME COMMAND...: run a command in a root file system as a pod would: read-only root, user 10001, own
# processes and mounts, nothing writable but /tmp and VOLUME. To be run by `unshare --mount --pid --fork`.
set -e
root=$1 volume=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o uid=10001,gid=10001,mode=0755 tmpfs "$root$volume"
mount -o remount,bind,ro "$root"
exec "$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)" --userspec=10001:10001 "$root" "$@"
