# shellcheck shell=bash
# The CPU part of libtorch, from PyPI's wheel of torch (a CUDA build whose CPU library works alone).
#
# libtorch_cpu.so of that wheel is linked to two CUDA libraries. Stubs with the right names and symbol versions replace
# them and answer every call with an error. To use another libtorch, with or without CUDA, set LIBTORCH to its folder;
# nothing is fetched then.

TORCH_WHEEL_SHA256=60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7
LIBTORCH_PARTS=(lib/libc10.so lib/libtorch_cpu.so lib/libgomp.so.1 lib/libcudart.so.13 lib/libcupti.so.13
  lib/libtorch.so include/torch/script.h)

need_libtorch() {
  if [ "$LIBTORCH" != "$HEADROOM_CACHE/libtorch-$LIBTORCH_VERSION" ]; then
    check_own_libtorch
    return
  fi
  libtorch_is_complete && return
  [ "$(uname -sm)" = "Linux x86_64" ] ||
    die "libtorch cannot be fetched for $(uname -sm): install libtorch $LIBTORCH_VERSION and set LIBTORCH to its folder"
  open_work
  libtorch_is_complete && return # another setup may have finished it while this one waited
  need_space 1600 libtorch
  say "fetching libtorch $LIBTORCH_VERSION from PyPI (503 MiB once, 390 MiB kept)"
  from_pypi "$WORK/wheel" "torch==$LIBTORCH_VERSION" "$TORCH_WHEEL_SHA256" --only-binary=:all: \
    --implementation cp --python-version 311 --abi cp311 --platform manylinux_2_28_x86_64
  say "unpacking libtorch's CPU part"
  bounded 600 python3 "$SETUP/extract.py" "$WORK"/wheel/torch-*.whl "$WORK/libtorch" \
    torch/lib/libc10.so torch/lib/libtorch_cpu.so torch/lib/libgomp.so.1 \
    torch/include/ATen torch/include/c10 torch/include/caffe2 torch/include/torch
  rm -rf "$WORK/wheel"
  finish_libtorch "$WORK/libtorch/torch"
  # An incomplete folder is moved away first: a rename cannot replace a folder with files in it.
  if [ -e "$LIBTORCH" ]; then mv "$LIBTORCH" "$WORK/replaced"; fi
  mv -T "$WORK/libtorch/torch" "$LIBTORCH"
}

libtorch_is_complete() {
  local part
  [ "$(cat "$LIBTORCH/build-version" 2>/dev/null)" = "$LIBTORCH_VERSION" ] || return 1
  for part in "${LIBTORCH_PARTS[@]}"; do
    [ -s "$LIBTORCH/$part" ] || return 1
  done
}

check_own_libtorch() {
  local version
  [[ -e $LIBTORCH/lib/libtorch_cpu.so && -e $LIBTORCH/include/torch/script.h ]] ||
    die "LIBTORCH=$LIBTORCH does not contain libtorch (lib/libtorch_cpu.so, include/torch): correct or unset the variable"
  version=$(cat "$LIBTORCH/build-version" 2>/dev/null || echo unknown)
  case $version in
    "$LIBTORCH_VERSION"*) ;;
    *) say "LIBTORCH=$LIBTORCH is version $version instead of $LIBTORCH_VERSION: the build may refuse it" ;;
  esac
}

# finish_libtorch FOLDER: turns the unpacked files into a libtorch that links and loads without CUDA.
finish_libtorch() {
  local lib=$1/lib
  make_stub "$lib" libcudart.so.13
  make_stub "$lib" libcupti.so.13
  strip --strip-unneeded "$lib/libtorch_cpu.so"
  # Only the linker reads this file. The wheel's own libtorch.so depends on CUDA.
  echo 'INPUT(libtorch_cpu.so)' >"$lib/libtorch.so"
  chmod 755 "$lib"/*
  # Binds every symbol at once, as a hardened binary does, so that a missing stub is found now.
  LD_BIND_NOW=1 python3 -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$lib/libtorch_cpu.so" 2>"$WORK/load.log" ||
    die "the fetched libtorch does not load: $(tail -n 1 "$WORK/load.log" | cut -c1-300)"
  echo "$LIBTORCH_VERSION" >"$1/build-version"
}

# make_stub FOLDER SONAME: makes a library with each function that libtorch_cpu.so imports from SONAME. The functions
# return an error code of CUDA or CUPTI (35: insufficient driver, 15: not initialized).
make_stub() {
  local lib=$1 soname=$2 code=35
  case $soname in libcupti*) code=15 ;; esac
  nm -D --undefined-only "$lib/libtorch_cpu.so" |
    awk -v tail="@$soname" -v code="$code" '
      substr($2, length($2) - length(tail) + 1) == tail {
        name = substr($2, 1, length($2) - length(tail)); sub(/@$/, "", name)
        if (name == "cudaGetErrorString")
          print "const char *" name "(int e) { (void)e; return \"this build has no CUDA\"; }"
        else if (name == "cuptiGetResultString")
          print "int " name "(int e, const char **s) { (void)e; if (s) *s = \"this build has no CUPTI\"; return 0; }"
        else
          print "int " name "(void) { return " code "; }"
      }' | sort -u >"$WORK/stub.c"
  [ -s "$WORK/stub.c" ] || die "libtorch_cpu.so does not import from $soname: the wheel is not the expected one"
  echo "$soname { global: *; };" >"$WORK/stub.map"
  "${CC:-cc}" -shared -fPIC -fno-builtin -o "$lib/$soname" "$WORK/stub.c" \
    -Wl,-soname,"$soname" -Wl,--version-script="$WORK/stub.map"
}
