# enclosure.sh FOLDER USER COMMAND...: run a command as a container would be: its volumes at their places, without rights.
# Each line of FOLDER/mounts is `SOURCE TARGET ro|rw`; of FOLDER/kept, a folder of the host that a volume on /tmp would hide.
# Folders of FOLDER/opened are open to the user, since this machine's Python may lie in somebody's home.
# To be run by `unshare --mount --propagation private`.
set -e
folder=$1 user=$2
shift 2
mkdir -p "$folder/host"
mount --rbind / "$folder/host"
cover() {
  layer=$folder/layers$1
  mkdir -p "$layer/upper" "$layer/work"
  chmod 755 "$layer/upper"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" "$1"
  layers="$layers $1"
}
layers=
while read -r opened; do cover "$opened"; done <"$folder/opened"
while read -r source target mode; do
  base=$target
  while [ ! -e "$base" ]; do base=${base%/*}; done
  covered=no
  for layer in $layers; do
    case $base/ in "$layer"/*) covered=yes ;; esac
  done
  if [ "$base" != "$target" ] && [ $covered = no ]; then cover "$base"; fi
  [ -e "$target" ] || mkdir -p "$target"
done <"$folder/mounts"
while read -r source target mode; do
  [ -e "$target" ] || mkdir -p "$target"
  mount --bind "$folder/host$source" "$target"
  [ "$mode" = rw ] || mount -o remount,bind,ro "$target"
done <"$folder/mounts"
while read -r kept; do
  mkdir -p "$kept"
  mount --bind "$folder/host$kept" "$kept"
done <"$folder/kept"
cd /
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --bounding-set=-all -- "$@"
