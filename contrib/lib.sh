# shellcheck shell=bash
# What the scripts of this folder share. Sourced, not run.

set -euo pipefail

# The programs that a plain user's search path lacks.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# The root of the clone.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Where cargo builds to.
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac

# die WORDS...: says why, and ends the script.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# microseconds: the time, for differences.
microseconds() {
    printf '%s' "${EPOCHREALTIME/[.,]/}"
}

# seconds_since MICROSECONDS: as 12.3.
seconds_since() {
    local tenths=$((($(microseconds) - $1) / 100000))
    printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# as_root COMMAND...: runs it as root, by sudo if need be.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root: run it as root, or install sudo (for: $*)"
    fi
}

# have THING: whether a program (nft), a file (/usr/bin/python3) or a module of python3 (python3:yaml) is there.
have() {
    case $1 in
        python3:*) [ -x /usr/bin/python3 ] && /usr/bin/python3 -c "import ${1#*:}" 2>/dev/null ;;
        /*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# install_missing THING PACKAGE [THING PACKAGE]...: installs Debian's packages of the things that are not there.
install_missing() {
    local missing=() things=()
    while [ $# -gt 0 ]; do
        if ! have "$1"; then
            missing+=("$2")
            things+=("$1")
        fi
        shift 2
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null ||
        die "missing: ${things[*]}. There is no apt-get: install them with the package manager of this system"
    echo "Installing ${missing[*]}"
    # An unrelated source that cannot be reached does not matter, if these packages are available.
    as_root apt-get -qq update || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null ||
        die "cannot install these packages: ${missing[*]}"
}

# install_rust_parts: what a build needs beyond cargo itself. Rust links by way of a C compiler.
install_rust_parts() {
    if ! command -v cargo >/dev/null && [ -r "${CARGO_HOME:-$HOME/.cargo}/env" ]; then
        # shellcheck source=/dev/null
        . "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
    command -v cargo >/dev/null || die "there is no cargo: install a Rust toolchain first (see rust-version in Cargo.toml)"
    install_missing cc gcc /usr/include/stdlib.h libc6-dev
}

# debian_sources RELEASE...: lines of a sources.list for the main part of these releases of Debian, from where the
# machine's own packages come from. The machine's own release is RELEASE too.
debian_sources() {
    local own keyring=/usr/share/keyrings/debian-archive-keyring.gpg trust="" release sources
    # shellcheck source=/dev/null
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ -n "$own" ] || die "/etc/os-release names no release of Debian"
    [ ! -e "$keyring" ] || trust="[signed-by=$keyring] "
    for release in "$@"; do
        # The configured sources, also if no list of packages has been fetched yet. The shell must leave apt's own
        # variables alone.
        # shellcheck disable=SC2016
        sources=$(apt-get indextargets --no-release-info --format '$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)' |
            awk -v own="$own" -v release="$release" -v trust="$trust" \
                '$1 == "Packages" && ($2 == own || $2 ~ /^(old)?stable$/) && $3 == "main" { print "deb " trust $4, release, $3 }' |
            sort -u)
        [ -n "$sources" ] || die "apt knows no source of packages of $own, so none of $release can be derived"
        printf '%s\n' "$sources"
    done
}
