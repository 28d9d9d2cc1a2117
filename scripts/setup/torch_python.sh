# shellcheck shell=bash
# PyTorch in Python (BSD-style licence), from PyPI's wheel of torch, and typing_extensions (PSF licence), which it needs.
# The tests make models with it. It is the Python part of the wheel alone; the libraries that compute are libtorch's.
#
# The wheel is a CUDA build. A stub with the right names and symbol versions replaces the CUDA libraries that
# libtorch_python.so is linked to. torch.distributed is switched off: its start calls the stub.

TYPING_EXTENSIONS_VERSION=4.16.0
TYPING_EXTENSIONS_SHA256=481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8

# How a part of torch.distributed asks whether libtorch_python.so was built with it.
DISTRIBUTED='hasattr\(torch\._C, "_(c10d|rpc|dist_autograd|faulty_agent)_init"\)'

# torch_wheel_sha256 PYTHON: the checksum of the wheel for Linux x86-64 and a version of Python, such as 311. Fails
# where there is none.
torch_wheel_sha256() {
  case $1 in
    310) echo c78b7b4d04461855a764cf01bae9a462bb88bc93defcfa11235cbc8fdf3e12c4 ;;
    311) echo "$TORCH_WHEEL_SHA256" ;;
    312) echo 796633c4cdf0fe2cdced72d8f88f22e73dbcfce83132763162f6d4bff13b820b ;;
    313) echo a3a9a21312872af8a26950b2c15680335a386a1f56ed03e780653d78b9607e9e ;;
    314) echo 49f1ea385c754e54919408a9bb3b5a72b0b755bbe2c916c1d6f70afbec4908a2 ;;
    *) return 1 ;;
  esac
}

need_torch_python() {
  local folder=$HEADROOM_CACHE/torch-python python sha256 made_of
  need_python
  need_compiler
  need_libtorch
  python=$(python3 -c 'import sys; print("%d%d" % sys.version_info[:2])')
  if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    say "no PyTorch in Python: it needs Python 3.10, and a test with models that it makes is skipped"
    return
  fi
  sha256=$(torch_wheel_sha256 "$python") ||
    die "no PyTorch in Python: $SETUP/torch_python.sh has no checksum of the wheel for $(python3 --version)"
  made_of="$(sha256sum <"$SETUP/torch_python.sh") $python $LIBTORCH"
  is_current "$folder" "$made_of" && return
  open_work
  is_current "$folder" "$made_of" && return
  need_space 800 "PyTorch in Python"
  say "fetching PyTorch in Python $LIBTORCH_VERSION from PyPI (503 MiB once, 90 MiB kept, for the tests)"
  from_pypi "$WORK/torch-wheel" "torch==$LIBTORCH_VERSION" "$sha256" --only-binary=:all: \
    --implementation cp --python-version "$python" --abi "cp$python" --platform manylinux_2_28_x86_64
  from_pypi "$WORK/typing-wheel" "typing_extensions==$TYPING_EXTENSIONS_VERSION" "$TYPING_EXTENSIONS_SHA256"
  bounded 600 python3 "$SETUP/extract.py" "$WORK"/torch-wheel/torch-*.whl "$WORK/torch-python" \
    torch torchgen '!torch/include' '!torch/lib' '!torch/bin' \
    torch/lib/libtorch_python.so torch/lib/libshm.so torch/bin/torch_shm_manager
  bounded 60 python3 "$SETUP/extract.py" "$WORK"/typing-wheel/*.whl "$WORK/torch-python" typing_extensions.py
  rm -rf "$WORK/torch-wheel" "$WORK/typing-wheel"
  finish_torch_python "$WORK/torch-python/torch"
  replace_folder "$WORK/torch-python" "$folder" "$made_of"
}

# finish_torch_python FOLDER: turns the unpacked files into a package that works without CUDA.
finish_torch_python() {
  local lib=$1/lib library
  for library in libc10.so libtorch_cpu.so libgomp.so.1; do
    ln -s "$LIBTORCH/lib/$library" "$lib/$library"
  done
  make_cuda_stub "$lib"
  # All libraries without which these do not load. One file may have many names.
  for library in libtorch.so libtorch_global_deps.so libc10_cuda.so libcudart.so.13 libcupti.so.13 libcudnn.so.9 \
    libcufile.so.0 libnccl.so.2; do
    ln -s libtorch_cuda.so "$lib/$library"
  done
  chmod 755 "$1/bin/torch_shm_manager"
  grep -rlE --include='*.py' "$DISTRIBUTED" "$1" | xargs sed -i -E "s/$DISTRIBUTED/False/"
  # Also leaves the bytecode, which makes the next import fast.
  LD_BIND_NOW=1 PYTHONDONTWRITEBYTECODE='' PYTHONPATH="$1/.." bounded 300 python3 -W ignore -c "
import torch
assert torch.jit.script(torch.nn.Linear(2, 1))(torch.ones(1, 2)).shape == (1, 1)" 2>"$WORK/load.log" ||
    die "the fetched PyTorch does not work in Python: $(tail -n 1 "$WORK/load.log" | cut -c1-300)"
}

# make_cuda_stub FOLDER: makes libtorch_cuda.so with everything that the libraries in FOLDER import and no other library
# has. The functions of CUDA's C interface return an error (35: insufficient driver, 15: not initialized). Those of
# PyTorch end the process, but for two that are called while it is imported.
make_cuda_stub() {
  local lib=$1
  nm -D --undefined-only "$lib/libtorch_cpu.so" "$lib/libtorch_python.so" | awk 'NF == 2 && $1 == "U" { print $2 }' |
    grep -vE '^_?Py|@(GLIBC|CXXABI|GCC)' | sort -u >"$WORK/undefined"
  nm -D --defined-only "$lib/libtorch_cpu.so" "$lib/libc10.so" "$lib/libgomp.so.1" "$lib/libshm.so" \
    "$("${CC:-cc}" -print-file-name=libstdc++.so.6)" | awk 'NF == 3 { sub(/@.*/, "", $3); print $3 }' >"$WORK/defined"
  # Lines "NAME VERSION".
  awk 'NR == FNR { defined[$1]; next }
    { split($1, part, "@"); if (!(part[1] in defined)) print part[1], (part[2] ? part[2] : "libtorch_cuda.so") }' \
    "$WORK/defined" "$WORK/undefined" >"$WORK/imports"
  [ -s "$WORK/imports" ] || die "libtorch_python.so imports nothing of CUDA: the wheel is not the expected one"
  awk '
    BEGIN { print "extern const void *const _ZTVN10__cxxabiv117__class_type_infoE[];" }
    # The types are compared by their names.
    $1 ~ /^_ZTI/ {
      print "const void *const " $1 "[2] = { &_ZTVN10__cxxabiv117__class_type_infoE[2], \"" substr($1, 5) "\" };"; next }
    $1 ~ /^_ZTV/ || $1 ~ /allocatorE$/ { print "char " $1 "[4096];"; next }
    $1 ~ /4cuda12device_countEv$/ { print "int " $1 "(void) { return 0; }"; next }
    $1 ~ /15get_gil_checkerEv$/ { print "static void *checker; void **" $1 "(void) { return &checker; }"; next }
    $1 == "cudaGetErrorString" { print "const char *" $1 "(void) { return \"this build has no CUDA\"; }"; next }
    $2 == "libtorch_cuda.so" { print "void " $1 "(void) { __builtin_abort(); }"; next }
    { print "int " $1 "(void) { return " ($2 ~ /cupti/ ? 15 : 35) "; }" }' "$WORK/imports" >"$WORK/stub.c"
  awk '{ names[$2] = names[$2] " " $1 ";" }
    END { for (version in names) print version " { global:" names[version] " };" }' "$WORK/imports" >"$WORK/stub.map"
  "${CC:-cc}" -shared -fPIC -fno-builtin -o "$lib/libtorch_cuda.so" "$WORK/stub.c" -lstdc++ \
    -Wl,-soname,libtorch_cuda.so -Wl,--version-script="$WORK/stub.map"
}
