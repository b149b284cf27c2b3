# Shared by the scripts beside it; not a door of its own. Sourced with the repository's root as working directory.

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Installs Debian packages that are missing. Arguments: program:package …
need_programs() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

# The same for packages that bring no program to look for. Arguments: package …
need_packages() {
  local missing=() package
  # Elsewhere they are taken to be there: what needs them says what it misses.
  command -v dpkg-query >/dev/null 2>&1 || return 0
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
}

install_packages() {
  command -v apt-get >/dev/null 2>&1 || die "missing: $* (install them; this is not a Debian system)"
  [ "$(id -u)" = 0 ] || die "missing: $* (run as root, or: apt-get install $*)"
  say "installing $*"
  apt-get update -qq || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    die "apt-get install $* failed"
}

# The oldest systems that this is built and tried on.
check_host() {
  [ "$(uname -s)" = Linux ] || die "Sandkeep runs on Linux only"
  [ "$(uname -m)" = x86_64 ] || die "this version is built for x86_64 only, this is $(uname -m)"
  [ "$(id -u)" = 0 ] || die "must be run as root: sandboxes are built from namespaces and cgroups"
  if [ -r /etc/os-release ]; then
    # shellcheck disable=SC1091
    . /etc/os-release
    if [ "${ID:-}" = debian ] && [ "${VERSION_ID:-99}" -lt 12 ]; then
      die "Debian 12 or newer is needed, this is Debian $VERSION_ID"
    fi
  fi
  command -v cargo >/dev/null 2>&1 || die "cargo is missing: Rust 1.95 or newer is needed (see rust-lang.org)"
  local version
  version=$(rustc --version | awk '{print $2}')
  printf '1.95.0\n%s\n' "$version" | sort -V -C || die "Rust 1.95 or newer is needed, this is $version"
}

# Manual pages and completions, written by the program SANDKEEP itself. Arguments: program directory
write_assets() {
  local program=$1 to=$2 shell
  rm -rf "$to"
  mkdir -p "$to"
  "$program" man "$to/man"
  for shell in bash zsh fish; do
    "$program" completions "$shell" >"$to/sandkeep.$shell"
  done
}
