#!/usr/bin/env bash
# On a Debian machine: the packages that tests/gpu.sh and bench/gpu.sh build with, for a machine that has none and
# no network. Usage: tests/gpu_bundle.sh [folder], by default .gpu_deps, which git ignores and both scripts look into.
# Nothing is installed. About 18 MB: headers (of Catch2, fmt, nlohmann-json, CLI11, xxHash they are all there is), and
# for whole models libsimdjson and the static libraries of PCRE2, utf8proc and OpenSSL. These are of Debian 12:
# they want its glibc, 2.36, or a newer one.
set -euo pipefail
cd "$(dirname "$0")/.."
into=${1:-.gpu_deps}
packages=(catch2 libxxhash-dev libfmt-dev nlohmann-json3-dev libcli11-dev libsimdjson-dev libsimdjson14 libpcre2-dev
          libutf8proc-dev libssl-dev)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"  # apt-get downloads as another user.
mkdir "$work/deb" "$work/root"
chown _apt "$work/deb" 2> /dev/null || true
(cd "$work/deb" && apt-get -q download "${packages[@]}") > "$work/log" 2>&1 \
  || { cat "$work/log" >&2; echo "gpu_bundle: no download; is this Debian, and was apt-get update run?" >&2; exit 1; }
for package in "$work"/deb/*.deb; do
  dpkg-deb -x "$package" "$work/root"
done

# One prefix without folders of an architecture: where CMake looks on any machine.
usr=$work/root/usr
rm -rf "$into"
mkdir -p "$into/lib/cmake" "$into/share/cmake"
cp -r "$usr/include" "$into/"
for folder in "$into"/include/*-linux-gnu; do
  cp -r "$folder/." "$into/include/"
  rm -r "$folder"
done
cp "$usr"/lib/*/libpcre2-8.a "$usr"/lib/*/libutf8proc.a "$usr"/lib/*/lib{ssl,crypto}.a "$into/lib/"
cp "$usr"/lib/*/libsimdjson.so.14 "$into/lib/"  # By the name that programs ask for: no links.
cp -r "$usr"/share/cmake/{CLI11,nlohmann_json} "$into/share/cmake/"
# Debian's own files of these name libraries that are not here.
package_file() {  # package_file <name>: from stdin
  mkdir -p "$into/lib/cmake/$1"
  cat > "$into/lib/cmake/$1/$1Config.cmake"
}
package_file Catch2 <<'EOT'
add_library(Catch2::Catch2 INTERFACE IMPORTED)
target_include_directories(Catch2::Catch2 INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../../../include")
list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")
EOT
cp "$usr"/lib/cmake/Catch2/Catch{,AddTests,2ConfigVersion}.cmake "$into/lib/cmake/Catch2/"
package_file fmt <<'EOT'
add_library(fmt::fmt INTERFACE IMPORTED)
target_include_directories(fmt::fmt INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../../../include")
target_compile_definitions(fmt::fmt INTERFACE FMT_HEADER_ONLY)
EOT
package_file simdjson <<'EOT'
add_library(simdjson::simdjson SHARED IMPORTED)
target_include_directories(simdjson::simdjson INTERFACE "${CMAKE_CURRENT_LIST_DIR}/../../../include")
set_target_properties(simdjson::simdjson PROPERTIES IMPORTED_LOCATION "${CMAKE_CURRENT_LIST_DIR}/../../libsimdjson.so.14")
EOT
# Who unpacks it elsewhere sees what it is.
(cd "$work/deb" && ls) > "$into/packages.txt"
du -sm "$into" | awk -v into="$into" '{ print "gpu_bundle: " into ", " $1 " MB; carry it with the tree" }'
