#!/bin/bash
# What a container does: nothing else than the same commands elsewhere.
#
#   <nothing>, --option ...    asr-serve serve, with the config that fits this machine, listening on all addresses
#   asr-serve serve ...        the same; --config and --host are added where they are not given
#   edge, models, doctor ...   asr-serve edge, ...
#   ray start ..., bash        any other program
#
# ASR_CONFIG is a Serve config: a path, or the name of a file in configs/ without its ending, such as gpu-24g.
set -euo pipefail

# Those that configs/cpu.yaml insists on.
FULL_SIZE=(paraformer-large fsmn-vad ct-punc ct-punc-realtime paraformer-zh-streaming cam++)

say() { echo "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

given() { # <option> <arguments>...: whether it is among them
  local option=$1 argument
  shift
  for argument in "$@"; do
    [[ $argument == "$option" || $argument == "$option="* ]] && return 0
  done
  return 1
}

named_config() { # prints the path of ASR_CONFIG
  local path
  for path in "$ASR_CONFIG" "configs/$ASR_CONFIG.yaml"; do
    if [[ -f $path ]]; then
      echo "$path"
      return
    fi
  done
  fail "ASR_CONFIG is $ASR_CONFIG, but there is no such file here, and no such profile. There are:" configs/*-*.yaml
}

config_for_gpus() { # prints the path of the profile for what is here
  local sizes count smallest
  local which=()
  [[ -n ${CUDA_VISIBLE_DEVICES:-} ]] && which=("--id=$CUDA_VISIBLE_DEVICES")
  sizes=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits "${which[@]}" 2>/dev/null | sort -n) || sizes=
  [[ -n $sizes ]] || fail "This image is for NVIDIA GPUs, and the container sees none. Start it with" \
    "\`--gpus all\` (which needs NVIDIA's container toolkit on the host), or take the image for CPUs."
  count=$(wc -l <<<"$sizes")
  smallest=$(head -n 1 <<<"$sizes")
  if ((count >= 4 && smallest >= 22000)); then
    echo configs/gpu-multi.yaml
  elif ((smallest >= 70000)); then
    echo configs/gpu-80g.yaml
  elif ((smallest >= 22000)); then
    echo configs/gpu-24g.yaml
  elif ((smallest >= 14500)); then
    echo configs/gpu-16g.yaml
  else
    fail "The GPU has $smallest MiB of memory, and the smallest profile is for one of 16 GB. Set ASR_CONFIG to a" \
      "config of your own; docs/sizing.md tells what each model needs."
  fi
}

choose_for_cpu() { # sets config, and ENABLED_MODELS where that says nothing
  local here name
  local missing=()
  config=serve_config.yaml
  case ${ENABLED_MODELS:-auto} in
    auto | paraformer-large) ;;
    *) return ;;
  esac
  # What is not here is fetched, then.
  if [[ ${DOWNLOAD_MODELS:-} =~ ^(1|[Tt]rue|TRUE|[Yy]es|[Oo]n)$ ]]; then
    config=configs/cpu.yaml
    export ENABLED_MODELS=paraformer-large
    return
  fi
  # What is wrong with a setting is told by the service itself.
  here=$(asr-serve models list --here 2>/dev/null | cut -f 1) || return 0
  for name in "${FULL_SIZE[@]}"; do
    grep -qxF -- "$name" <<<"$here" || missing+=("$name")
  done
  if ((${#missing[@]} == 0)); then
    config=configs/cpu.yaml
    export ENABLED_MODELS=paraformer-large
  elif grep -qxF paraformer-large <<<"$here"; then
    say "Not on this machine: ${missing[*]}. \`asr-serve models pull\` fetches them."
    export ENABLED_MODELS=paraformer-large
  else
    say "No models of full size are here. The starter models answer, which understand a synthesizer, not people." \
      "\`asr-serve models pull --profile cpu\` fetches others; so does DOWNLOAD_MODELS=true."
  fi
}

choose_config() { # sets config
  if [[ -n ${ASR_CONFIG:-} ]]; then
    config=$(named_config)
  elif [[ ${ASR_HARDWARE:-cpu} == gpu ]]; then
    config=$(config_for_gpus)
  else
    choose_for_cpu
  fi
}

check_data_dir() {
  mkdir -p "$DATA_DIR" 2>/dev/null || true
  [[ -w $DATA_DIR ]] || fail "Jobs and certificates are kept in $DATA_DIR, where user $(id -u) cannot write. If it is" \
    "a directory of the host: \`chown $(id -u) <directory>\`."
}

fit_object_store() { # to the memory that the container shares: what does not fit, Ray would keep on disk
  local available
  available=$(df --output=avail --block-size=1 /dev/shm 2>/dev/null | tail -n 1) || return 0
  # Ray refuses less than 75 MiB.
  if ((available > 100 * 1024 * 1024)); then
    : "${RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES:=$((available * 9 / 10))}"
    export RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES
  fi
}

serve() {
  local config
  local options=()
  if ! given --help "$@"; then
    check_data_dir
    fit_object_store
    if ! given --config "$@"; then
      choose_config
      say "Serving with $config (ASR_CONFIG chooses another one)."
      options+=(--config "$config")
    fi
    given --host "$@" || options+=(--host 0.0.0.0)
  fi
  exec asr-serve serve "${options[@]}" "$@"
}

# Where FunASR's own images have their models, in the same layout.
if [[ -d /workspace/models && ${MODELSCOPE_PATH:-} == /models/modelscope/hub/models ]]; then
  export MODELSCOPE_PATH=/workspace/models
fi

case "${1:-}" in
  "" | -*) serve "$@" ;;
  asr-serve)
    if [[ ${2:-} == serve ]]; then
      serve "${@:3}"
    fi
    exec "$@"
    ;;
esac
if command -v -- "$1" >/dev/null; then
  exec "$@"
fi
exec asr-serve "$@"
