#!/usr/bin/env bash
# Everything worth knowing of the program on one GPU, in ten minutes: see README.md in this folder.
#
#     scripts/gpu/check.sh SPIRE OUT
#
# Each part has a time of its own and writes its result before the next one starts, so a machine that goes away loses one part.

set -u
spire=$(realpath "$1")
out=$(mkdir -p "$2" && realpath "$2")
cd "$(dirname "$0")/../.."

device=${DEVICE:-cuda:0}
python=${PYTHON:-python3}
seconds=${SECONDS_IN_ALL:-570}
shapes=${SHAPES:-sd15}       # or small: the built-in model, to try this script without a GPU
precision=${PRECISION:-bf16} # of the parts at the large shapes
tolerance=${TOLERANCE:-5e-3} # of verify: float32 products are TF32 on tensor cores
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
summary=$out/summary.md
end=$((SECONDS + seconds))

# The least of autotune's levels: it tries fewer kernels for each shape, and each has to be compiled.
export CUBECL_AUTOTUNE_LEVEL=${CUBECL_AUTOTUNE_LEVEL:-minimal}
# Kernels and decisions of an earlier check; the program keeps them here because the folder has a Cargo.toml.
kernels=target/environment
if [ -n "${KERNELS:-}" ]; then tar -xJf "$KERNELS" || echo "can't unpack $KERNELS" >&2; fi

# part NAME SECONDS COMMAND...: runs a shell function for at most that long.
part() {
    local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS code
    shift 2
    if [ "$left" -lt 15 ]; then
        echo "- **$name**: not started, no time left" >>"$summary"
        return
    fi
    [ "$limit" -lt "$left" ] || limit=$left
    echo "== $name (at most $limit s)"
    export out work spire device python shapes precision tolerance
    timeout --kill-after=5 "$limit" bash -c "$(declare -f "$1" bench twin base_of); set -o pipefail; $1" >"$out/$name.log" 2>&1
    code=$?
    case $code in
        0) echo "- **$name**: $((SECONDS - start)) s" ;;
        124 | 137) echo "- **$name**: stopped after $limit s; see $name.log" ;;
        *) echo "- **$name**: failed with $code after $((SECONDS - start)) s; see $name.log" ;;
    esac >>"$summary"
    # Lines that begin with "result:" are what a part found out.
    sed -n 's/^result: /  - /p' "$out/$name.log" >>"$summary"
    tar -cJf "$out/kernels.tar.xz" "$kernels" 2>/dev/null || rm -f "$out/kernels.tar.xz"
}

# The configuration of the large shapes, with the built-in model in its place under SHAPES=small.
base_of() { if [ "$shapes" = small ]; then echo configs/tiny.toml; else echo scripts/bench/sd15.toml; fi; }

bench() {
    "$spire" bench "$@" --set run.device="$device" --set model.precision="$precision" --set model.control_precision="$precision"
}

verify() {
    "$spire" verify tests/reference --device "$device" --tolerance "$tolerance" | tee "$work/verify.txt"
    local code=$?
    echo "result: $(tail -n 1 "$work/verify.txt")"
    return $code
}

small_model() {
    local small=(configs/tiny.toml --set train.steps=200 --set train.validate_every=200 --set evaluate.samples=16)
    # The reference on the CPU, beside the GPU.
    "$spire" train "${small[@]}" --set run.device=flex --set run.dir="$work/cpu" >"$work/cpu.log" 2>&1 &
    "$spire" train "${small[@]}" --set run.device="$device" --set run.dir="$work/gpu"
    local code=$?
    wait $!
    "$python" scripts/gpu/compare.py losses "$work/cpu/metrics.jsonl" "$work/gpu/metrics.jsonl" && return $code
}

weights() {
    [ "$shapes" = small ] || "$python" scripts/reference/folder.py sd15 --model sd15 --layout formula
}

train_step() {
    local batch
    for batch in 4 8 16 32 64; do
        bench train "$(base_of)" --set train.batch_size=$batch --set data.source.count=$batch --steps 5 --warmup 2 \
            --json "$out/train-$batch.json" || break
        "$python" scripts/gpu/compare.py step "$out/train-$batch.json"
        [ "$shapes" = sd15 ] || break
    done
    [ -f "$out/train-4.json" ]
}

# NCCL on one GPU: whether the program finds it and its sums are right. The program looks for libnccl.so, PyTorch brings libnccl.so.2.
all_reduce() {
    local find='import importlib.util as u; print(u.find_spec("nvidia.nccl").submodule_search_locations[0] + "/lib/libnccl.so.2")' nccl
    nccl=$("$python" -c "$find" 2>/dev/null) && [ -f "$nccl" ] && ln -sf "$nccl" "$work/libnccl.so"
    LD_LIBRARY_PATH=$work${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} "$spire" bench all-reduce "$(base_of)" --set run.device="$device" --steps 5 \
        --json "$out/all-reduce.json" | sed 's/^/result: /'
}

# twin train|restore OPTIONS...: the same beside PyTorch.
twin() {
    local what=$1
    shift
    "$python" "scripts/bench/$what.py" "$(base_of)" --spire "$spire" --device "$device" --precision "$precision" --rounds 1 "$@" |
        tee "$work/twin.txt"
    local code=$?
    sed 's/^/result: /' "$work/twin.txt"
    return $code
}

train_beside_pytorch() { twin train --steps 5; }
train_beside_compiled() { twin train --steps 5 --compile --channels-last; }
restore_beside_pytorch() { twin restore --steps 2 --warmup 1 --set evaluate.sampling.steps=50; }
restore_beside_compiled() { twin restore --steps 2 --warmup 1 --set evaluate.sampling.steps=50 --compile --channels-last; }

kernel_times() {
    # Profiling waits for each kernel, so its times are those of kernels alone.
    mkdir -p "$work/profile"
    printf '[profiling.logger]\nlevel = "basic"\nfile = "%s"\n' "$out/kernels.log" >"$work/profile/cubecl.toml"
    local config=$PWD/$(base_of) base=$PWD/sd15
    [ "$shapes" = small ] && base=$PWD/assets/tiny
    (cd "$work/profile" && bench train "$config" --set model.base="$base" --steps 1 --warmup 1)
    "$python" scripts/gpu/compare.py kernels "$out/kernels.log"
}

# The time to the end of the first step, with and without kernels that an earlier process left.
first_step() {
    local config=$PWD/configs/tiny.toml name start
    mkdir -p "$work/fresh/cache"
    for name in empty kept; do
        start=$(date +%s.%N)
        (cd "$work/fresh" && XDG_CACHE_HOME=$work/fresh/cache "$spire" bench train "$config" --set model.base=tiny \
            --set model.embedding=tiny/embedding --set run.device="$device" --steps 1 --warmup 0) || return
        echo "result: first step of the tiny model with $name kernels: $(echo "$(date +%s.%N) - $start" | bc) s"
    done
}

vulkan() { "$spire" verify tests/reference --device vulkan; }

{
    echo "# $device, $(date -u +%F)"
    echo
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | sed 's/^/- /'
    "$spire" --version | sed 's/^/- /'
} >"$summary"

# In the order of worth. The limits add up to more than the time: most parts need less than theirs.
part verify 90 verify
part small-model 180 small_model
part weights 60 weights
part train-step 180 train_step
part all-reduce 30 all_reduce
part train-beside-pytorch 120 train_beside_pytorch
part restore-beside-pytorch 120 restore_beside_pytorch
part train-beside-compiled 120 train_beside_compiled
part restore-beside-compiled 120 restore_beside_compiled
part kernel-times 60 kernel_times
part first-step 60 first_step
part vulkan 120 vulkan
cat "$summary"
