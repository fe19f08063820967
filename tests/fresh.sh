#!/usr/bin/env bash
# The README's two commands, each twice, in a fresh clone of HEAD in a minimal Debian root that has nothing but
# make, git, ca-certificates and Python. Ends with a table of the times; 0 when all four passed.
#
#   tests/fresh.sh [SUITE] [demo|test|all]     as root; SUITE: a Debian release (trixie), whose Go is what Go builds use
#
# pivot_root and not chroot, because user namespaces, which the build sandbox needs, are refused inside a chroot.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${1:-trixie}
what=${2:-all}
demo_cold_s=360
demo_again_s=60

[ "$(id -u)" = 0 ] || { echo "fresh: needs root: it mounts" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "fresh: missing mmdebstrap; next: apt-get install -y mmdebstrap" >&2; exit 1; }

base=$(mktemp -d /var/tmp/ignite-builder-fresh-XXXXXX)
root=$base/root
# The mounts live in a namespace of their own and are gone before this: nothing of the machine's can be below $base.
trap 'rm -rf --one-file-system "$base"' EXIT
chmod 755 "$base"

# The machine's own mirrors, for the suite that is asked for: first as mmdebstrap's input, then as the root's own.
sources=$base/fresh.sources
sed -E "s/\b(bookworm|trixie|forky|sid)((-updates|-security)?)\b/$suite\2/g" \
  /etc/apt/sources.list.d/debian.sources >"$sources" 2>/dev/null ||
  { echo "fresh: no /etc/apt/sources.list.d/debian.sources to take the mirrors from" >&2; exit 1; }
mmdebstrap --quiet --variant=minbase --include=make,git,ca-certificates,python3 "$suite" "$root" "$sources"
rm -f "$root"/etc/apt/sources.list
cp "$sources" "$root/etc/apt/sources.list.d/debian.sources"
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
# A machine behind its own certificate authority trusts more than Debian does; the root must trust the same.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"

git clone -q --bare . "$root/srv/ignite-builder.git"
commit=$(git rev-parse HEAD)

cat >"$root/srv/inside.sh" <<'INSIDE'
set -euo pipefail
what=$1 demo_cold_s=$2 demo_again_s=$3 commit=$4
git clone -q /srv/ignite-builder.git /srv/ignite-builder
cd /srv/ignite-builder
git checkout -q --detach "$commit"
failed=0
table=
run() { # run NAME LIMIT_S COMMAND…: LIMIT_S 0 is none
  local name=$1 limit=$2 start code=0 verdict=ok
  shift 2
  echo "fresh: $name: $*"
  start=$SECONDS
  "$@" </dev/null || code=$?
  local took=$((SECONDS - start))
  [ "$code" = 0 ] || verdict="exit $code"
  if [ "$limit" != 0 ] && [ "$took" -gt "$limit" ]; then verdict="$verdict, over $limit s"; fi
  [ "$verdict" = ok ] || failed=1
  table+=$(printf '%-12s %6s s  %s' "$name" "$took" "$verdict")$'\n'
}
if [ "$what" != test ]; then
  run "demo" "$demo_cold_s" make demo
  run "demo again" "$demo_again_s" make demo
fi
if [ "$what" != demo ]; then
  run "test" 0 make test
  run "test again" 0 make test
fi
git status --porcelain | sed 's/^/fresh: left in the checkout: /'
. /etc/os-release
printf 'fresh: %s, commit %s, %s cores\n%s' "$PRETTY_NAME" "${commit:0:7}" "$(nproc)" "$table"
exit "$failed"
INSIDE

# Of the environment only how package clients reach their registries comes in.
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb CI=1
  TEST_BUILD_UID=58500) # a session outside sees the processes of this one: they must not look like its own
for name in HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy SSL_CERT_FILE PIP_INDEX_URL PIP_CERT \
  UV_DEFAULT_INDEX UV_INDEX_URL GOPROXY GOSUMDB GONOSUMDB GOFLAGS; do
  [ -z "${!name:-}" ] || environment+=("$name=${!name}")
done

mkdir -p "$root/old"
unshare --mount --pid --fork --kill-child --propagation private bash -euo pipefail -c '
  root=$1; shift
  mount --bind "$root" "$root"
  mount --rbind /dev "$root/dev"
  mount --rbind /sys "$root/sys"
  mount -t proc proc "$root/proc"
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  cd "$root"
  pivot_root . old
  cd /
  umount --lazy /old
  exec env -i "$@"
' fresh "$root" "${environment[@]}" bash /srv/inside.sh "$what" "$demo_cold_s" "$demo_again_s" "$commit"
