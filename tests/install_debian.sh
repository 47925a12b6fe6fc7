#!/usr/bin/env bash
# Installs the Debian packages that some tests use, where apt and root are there. Never fails: those tests skip instead.
set -uo pipefail

declare -A uses=([gdal-bin]="reading a written index with GDAL's ogrinfo")
declare -A commands=([gdal-bin]=ogrinfo)

missing=()
for package in "${!commands[@]}"; do
  command -v "${commands[$package]}" >/dev/null || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  echo "installing for the tests: ${missing[*]}"
  log=$(mktemp)
  { timeout 300 apt-get update -qq && timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
    || tail -n 5 "$log"
  rm -f "$log"
fi

for package in "${missing[@]}"; do
  command -v "${commands[$package]}" >/dev/null || echo "will be skipped without $package: ${uses[$package]}"
done
exit 0
